//! Containers with interfaces beside one of the host's.

use super::*;

fn beside(driver: &str, name: &str, parent: &str, more: &[(&str, &str)]) -> NewNetwork {
    let parent = [("parent", parent)];
    let options = parent.iter().chain(more);
    NewNetwork {
        driver: driver.to_owned(),
        options: options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..with_subnet(name, "203.0.113.0/24")
    }
}

/// Of which the first 100 addresses are others', as are those of the second.
fn on_the_wire(name: &str) -> NewNetwork {
    let mut wish = beside("macvlan", name, "uplink", &[]);
    wish.ipv6 = true;
    wish.pools[0].range = Some("203.0.113.128/25".to_owned());
    wish.pools[0].gateway = Some(OUTSIDE.to_owned());
    wish.pools.push(WishedPool { subnet: "10.5.0.0/24".to_owned(), ..WishedPool::default() });
    wish.pools.push(WishedPool {
        subnet: "2001:db8::/64".to_owned(),
        range: Some("2001:db8::8000:0/112".to_owned()),
        gateway: Some(OUTSIDE6.to_owned()),
        auxiliary: BTreeMap::from([("router".to_owned(), "2001:db8::8000:0".to_owned())]),
    });
    wish
}

/// Whether the kernel has such interfaces; says so if it has not.
fn kernel_has(kind: &str, attempt: &str) -> bool {
    let output = std::process::Command::new("sh").args(["-c", attempt]).output().unwrap();
    if !output.status.success() {
        skipped::say(kind, &format!("the kernel cannot make interfaces of the kind `{kind}`"));
    }
    output.status.success()
}

const TRY_MACVLAN: &str = "ip link add link uplink name tried type macvlan && ip link delete tried";

#[test]
fn containers_are_on_the_wire_themselves() {
    Host::run(|mut host| {
        if !kernel_has("macvlan", TRY_MACVLAN) {
            return;
        }
        let network = host.network();
        let record = host.block_on(network.create(on_the_wire("lan"))).unwrap();
        let (web, endpoint) = host.attach_to(&network, "web", "lan");
        assert_eq!((endpoint.address.to_string().as_str(), endpoint.prefix), ("203.0.113.128", 24));
        assert_eq!(endpoint.ipv6.unwrap().address.to_string(), "2001:db8::8000:1");
        assert_eq!(endpoint.host_interface, "");
        web.serve(80);
        let shown = web.command("ip -d link show eth0; ip route; ip -6 route");
        assert!(shown.contains("macvlan mode bridge") && shown.contains(&endpoint.mac_address), "{shown}");
        assert!(shown.contains("default via 203.0.113.2 dev eth0"), "{shown}");
        assert!(shown.contains("default via 2001:db8::2 dev eth0"), "{shown}");
        // Others on the wire see it, and it sees them, as what it is.
        host.outside.serve(7000);
        assert_eq!(web.ask(&format!("{OUTSIDE}:7000")).unwrap(), "203.0.113.128");
        assert_eq!(host.outside.ask("203.0.113.128:80").unwrap(), OUTSIDE);
        assert_eq!(host.outside.ask("[2001:db8::8000:1]:80").unwrap(), OUTSIDE6);
        let (app, second) = host.attach_to(&network, "app", "lan");
        assert_eq!(app.ask("203.0.113.128:80").unwrap(), second.address.to_string());
        // An address of the second subnet, by a wish.
        let third = Place::new();
        let wish = EndpointRequest {
            network: "lan".into(),
            address: Some("10.5.0.7".parse().unwrap()),
            ..EndpointRequest::default()
        };
        let placed = host.block_on(network.attach("third", &third.path, &wish)).unwrap();
        assert_eq!(placed.gateway.unwrap().to_string(), "10.5.0.1");
        // There is nothing to publish there.
        let refused = host.block_on(network.publish("web", &endpoint, &[port(Protocol::Tcp, 8080)]));
        assert!(matches!(refused, Err(NetworkError::NotForPorts { .. })));
        assert_eq!(host.publish(&network, "web", &endpoint, &[]), []);
        // A container goes and comes while it runs.
        host.block_on(network.detach("app", Some(&app.path), "lan")).unwrap();
        assert!(!app.command("ip -o link").contains("eth0"));
        host.block_on(network.attach(
            "app",
            &app.path,
            &EndpointRequest { network: "lan".into(), ..EndpointRequest::default() },
        ))
        .unwrap();
        assert_eq!(app.ask("203.0.113.128:80").unwrap(), "203.0.113.129");

        drop(network);
        host.kill();
        assert_eq!(host.outside.ask("203.0.113.128:80").unwrap(), OUTSIDE);
        let network = host.network();
        host.block_on(network.restore(&[found("web", &endpoint, &[])])).unwrap();
        assert_eq!(network.find("lan").unwrap(), record);
        assert_eq!(network.attachments(&record.id).len(), 1);
        let refused = host.block_on(network.remove("lan")).unwrap_err();
        assert!(refused.to_string().contains("active endpoints"), "{refused}");
        host.block_on(network.release("web")).unwrap();
        host.block_on(network.remove("lan")).unwrap();
        // The host's own interface stays.
        assert!(links().contains(&"uplink".to_owned()));
    });
}

#[test]
fn modes_and_parents_are_as_asked_or_refused() {
    Host::run(|host| {
        if !kernel_has("macvlan", TRY_MACVLAN) {
            return;
        }
        let network = host.network();
        let create = |wish: NewNetwork| host.block_on(network.create(wish));
        let with_mode = |name: &str, subnet: &str, mode: &str| {
            let mut wish = beside("macvlan", name, "uplink", &[("macvlan_mode", mode)]);
            wish.pools[0].subnet = subnet.to_owned();
            wish
        };
        for (number, mode) in ["private", "vepa", "bridge"].iter().enumerate() {
            let name = format!("in-{mode}");
            create(with_mode(&name, &format!("10.{number}.0.0/24"), mode)).unwrap();
            let (place, _) = host.attach_to(&network, mode, &name);
            assert!(place.command("ip -d link show eth0").contains(&format!("macvlan mode {mode}")));
        }
        let alone = create(with_mode("alone", "10.9.0.0/24", "passthru")).unwrap_err();
        assert!(alone.to_string().contains("is already using parent interface uplink"), "{alone}");
        let odd = create(with_mode("odd", "10.9.0.0/24", "loud")).unwrap_err();
        assert_eq!(
            odd.to_string(),
            "requested macvlan mode 'loud' is not valid, 'bridge' mode is the macvlan driver default"
        );
        for (parent, expected) in [
            ("lo", "loopback interface is not a valid macvlan parent link"),
            ("nowhere", "the parent interface `nowhere`"),
            ("nowhere.7", "the parent interface `nowhere.7`"),
            ("a/b", "invalid parent interface name"),
        ] {
            let mut wish = beside("macvlan", "odd", parent, &[]);
            wish.pools[0].subnet = "10.9.0.0/24".to_owned();
            let refused = create(wish).unwrap_err();
            assert!(refused.to_string().contains(expected), "{parent}: {refused}");
        }
        let mut twice = beside("macvlan", "twice", "uplink", &[]);
        twice.pools.push(twice.pools[0].clone());
        assert_eq!(create(twice).unwrap_err().kind(), Kind::Forbidden);
        // Nothing is left of what was refused.
        assert!(!links().iter().any(|name| name.starts_with("vlan")), "{:?}", links());
        assert_eq!(network.networks().len(), 6);
        command("ip link add spare type veth peer name other; ip link set spare up");
        let mut alone = beside("macvlan", "alone", "spare", &[("macvlan_mode", "passthru")]);
        alone.pools[0].subnet = "10.9.0.0/24".to_owned();
        create(alone).unwrap();
        let (place, _) = host.attach_to(&network, "alone", "alone");
        assert!(place.command("ip -d link show eth0").contains("macvlan mode passthru"));
    });
}

#[test]
fn a_tagged_interface_is_made_and_removed() {
    Host::run(|host| {
        let attempt = "ip link add link uplink name tried type vlan id 9 && ip link delete tried";
        let has_tags = kernel_has("vlan", attempt);
        let network = host.network();
        let made = host.block_on(network.create(beside("macvlan", "tagged", "uplink.10", &[])));
        if !has_tags {
            let refused = made.unwrap_err();
            assert!(matches!(refused, NetworkError::NotInKernel { .. }), "{refused}");
            assert!(refused.to_string().contains("the parent interface `uplink.10`"), "{refused}");
            return;
        }
        assert!(made.unwrap().vlan().unwrap().made_parent);
        assert!(command("ip -d link show uplink.10").contains("vlan protocol 802.1Q id 10"));
        host.block_on(network.remove("tagged")).unwrap();
        assert!(!links().contains(&"uplink.10".to_owned()));
    });
}

#[test]
fn ipvlan_shares_the_hosts_hardware_address_or_is_refused() {
    Host::run(|host| {
        let attempt = "ip link add link uplink name tried type ipvlan && ip link delete tried";
        let has_ipvlan = kernel_has("ipvlan", attempt);
        let network = host.network();
        for mode in ["l2", "l3", "l3s"] {
            let made =
                host.block_on(network.create(beside("ipvlan", "lan", "uplink", &[("ipvlan_mode", mode)])));
            if !has_ipvlan {
                let refused = made.unwrap_err();
                assert!(matches!(refused, NetworkError::NotInKernel { .. }), "{refused}");
                assert_eq!(refused.kind(), Kind::Forbidden);
                assert!(refused.to_string().contains("of the kind `ipvlan` beside `uplink`"), "{refused}");
                continue;
            }
            made.unwrap();
            let (place, endpoint) = host.attach_to(&network, "web", "lan");
            assert_eq!(endpoint.mac_address, "");
            assert!(place.command("ip -d link show eth0").contains(&format!("ipvlan  mode {mode}")));
            host.block_on(network.release("web")).unwrap();
            host.block_on(network.remove("lan")).unwrap();
        }
        let odd = host.block_on(network.create(beside("ipvlan", "lan", "uplink", &[("ipvlan_mode", "l4")])));
        assert!(odd.unwrap_err().to_string().contains("requested ipvlan mode 'l4' is not valid"));
    });
}

#[test]
fn an_interface_is_named_and_set_as_asked() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(with_subnet("six", "fd00:5::/64"))).unwrap();
        let place = Place::new();
        let request = |to: &str, interface: Option<&str>, settings: &[(&str, &str)]| EndpointRequest {
            network: to.into(),
            link_local: ["169.254.7.7", "fe80::7"].map(|text| text.parse().unwrap()).to_vec(),
            interface: interface.map(str::to_owned),
            settings: settings
                .iter()
                .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
                .collect(),
            ..EndpointRequest::default()
        };
        let settings = [("ipv4/conf/IFNAME/log_martians", "1"), ("ipv6/conf/IFNAME/accept_ra", "2")];
        let wish = request("six", Some("lan0"), &settings);
        let endpoint = host.block_on(network.attach("web", &place.path, &wish)).unwrap();
        assert_eq!(endpoint.interface, "lan0");
        let set = place
            .command("cat /proc/sys/net/ipv4/conf/lan0/log_martians /proc/sys/net/ipv6/conf/lan0/accept_ra");
        assert_eq!(set, "1\n2\n");
        let shown = place.command("ip address show lan0");
        assert!(shown.contains("169.254.7.7/16") && shown.contains("fe80::7/64"), "{shown}");
        // Names are one's own; what was refused has cost nothing.
        let again = EndpointRequest { link_local: Vec::new(), ..request("bridge", Some("lan0"), &[]) };
        let refused = host.block_on(network.attach("web", &place.path, &again)).unwrap_err();
        assert!(refused.to_string().contains("has an interface `lan0` already"), "{refused}");
        let odd = EndpointRequest {
            link_local: Vec::new(),
            ..request("bridge", None, &[("ipv4/conf/IFNAME/nothing", "1")])
        };
        let refused = host.block_on(network.attach("web", &place.path, &odd)).unwrap_err();
        assert!(
            engine_model::chain(&refused).contains("/proc/sys/net/ipv4/conf/eth0/nothing"),
            "{refused:?}"
        );
        let plain = EndpointRequest::default();
        let endpoint = host.block_on(network.attach("web", &place.path, &plain)).unwrap();
        assert_eq!((endpoint.interface.as_str(), endpoint.address.octets()[3]), ("eth0", 2));
    });
}
