//! Networks with IPv6.

use super::*;

/// A network with IPv6 on which a server is, and what it has there.
fn with_server(host: &Host) -> (Network, Place, Endpoint) {
    let network = host.network();
    host.block_on(network.create(with_subnet("six", "fd00:5::/64"))).unwrap();
    let (web, endpoint) = host.attach_to(&network, "web", "six");
    web.serve(80);
    (network, web, endpoint)
}

fn text(endpoint: &Endpoint) -> String {
    endpoint.ipv6.unwrap().address.to_string()
}

#[test]
fn containers_have_ipv6_beside_ipv4() {
    Host::run(|host| {
        let (network, web, endpoint) = with_server(&host);
        let ipv6 = endpoint.ipv6.unwrap();
        assert_eq!((text(&endpoint).as_str(), ipv6.prefix), ("fd00:5::2", 64));
        assert_eq!(ipv6.gateway.unwrap().to_string(), "fd00:5::1");
        let shown = web.command("ip -6 address show eth0; ip -6 route");
        assert!(shown.contains("inet6 fd00:5::2/64 scope global nodad"), "{shown}");
        assert!(shown.contains("default via fd00:5::1 dev eth0"), "{shown}");
        let (app, second) = host.attach_to(&network, "app", "six");
        assert_eq!(text(&second), "fd00:5::3");
        assert_eq!(app.ask("[fd00:5::2]:80").unwrap(), "fd00:5::3");
        assert_eq!(app.ask(&format!("{}:80", endpoint.address)).unwrap(), second.address.to_string());
        // The host reaches it, and it reaches the outside, where nobody knows the way back to it.
        assert_eq!(ask("[fd00:5::2]:80".parse().unwrap()).unwrap(), "fd00:5::1");
        host.outside.serve(7000);
        let outside = format!("[{OUTSIDE6}]:7000");
        assert_eq!(app.ask(&outside).unwrap(), HOST6);
        assert_eq!(app.ask_by_datagram(&outside).unwrap(), HOST6);
        // A network without it has none.
        let (plain, endpoint) = host.attach(&network, "plain");
        assert_eq!(endpoint.ipv6, None);
        assert_eq!(plain.command("ip -6 address show eth0"), "");
        assert_eq!(command("ip -6 address show docker0"), "");
    });
}

#[test]
fn wishes_for_addresses_of_ipv6_are_honoured_or_refused() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(with_subnet("six", "fd00:5::/64"))).unwrap();
        let attach = |name: &str, to: &str, address: &str| {
            let place = Place::new();
            let ipv6_address = Some(address.parse().unwrap());
            let request = EndpointRequest { network: to.into(), ipv6_address, ..EndpointRequest::default() };
            host.block_on(network.attach(name, &place.path, &request))
        };
        assert_eq!(text(&attach("one", "six", "fd00:5::77").unwrap()), "fd00:5::77");
        assert!(matches!(attach("two", "six", "fd00:5::77"), Err(NetworkError::AddressTaken { .. })));
        assert!(matches!(attach("two", "six", "fd00:5::1"), Err(NetworkError::AddressTaken { .. })));
        assert!(matches!(attach("two", "six", "fd00:6::7"), Err(NetworkError::AddressOutside { .. })));
        let refused = attach("two", "bridge", "fd00:5::7").unwrap_err();
        assert_eq!((refused.kind(), refused.to_string().contains("has no IPv6")), (Kind::Invalid, true));
        // What was refused has cost no address.
        let (_place, endpoint) = host.attach_to(&network, "two", "six");
        assert_eq!((text(&endpoint).as_str(), endpoint.address.octets()[3]), ("fd00:5::2", 3));
    });
}

#[test]
fn subnets_are_chosen_as_dockerd_does() {
    Host::run(|host| {
        let network = host.network();
        let subnets = |network: NetworkRecord| {
            network.pools.iter().map(|pool| pool.subnet.to_string()).collect::<Vec<_>>()
        };
        // The ids are empty here.
        let wish_for = |name: &str| NewNetwork { ipv6: true, ..wish(name) };
        let first = host.block_on(network.create(wish_for("one"))).unwrap();
        assert_eq!(subnets(first), ["172.18.0.0/16", "fd42:98fc:1c14::/64"]);
        command("ip -6 route add fd42:98fc:1c14:1::/64 via 2001:db8::2");
        let second = host.block_on(network.create(wish_for("two"))).unwrap();
        assert_eq!(subnets(second), ["172.19.0.0/16", "fd42:98fc:1c14:2::/64"]);
        // A subnet of a family is wished for, the other is chosen; in this order in any case.
        let third = host.block_on(network.create(with_subnet("three", "fd00:7::/80"))).unwrap();
        assert_eq!(subnets(third), ["172.20.0.0/16", "fd00:7::/80"]);
        let refused = host.block_on(network.create(with_subnet("four", "fd00:7::8:0:0/96"))).unwrap_err();
        assert_eq!(refused.kind(), Kind::Forbidden);
        let without = NewNetwork { ipv6: false, ..with_subnet("four", "fd00:8::/64") };
        let refused = host.block_on(network.create(without)).unwrap_err();
        assert!(refused.to_string().contains("`--ipv6`"), "{refused}");
    });
}

#[test]
fn ports_are_published_over_ipv6() {
    Host::run(|host| {
        let (network, web, endpoint) = with_server(&host);
        let (other, _) = host.attach_to(&network, "other", "six");
        let published =
            host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080), port(Protocol::Udp, 8080)]);
        assert_eq!(published.len(), 4);
        // From outside the packet filter leads straight to the container, which sees who it is.
        let address = format!("[{HOST6}]:8080");
        assert_eq!(host.outside.ask(&address).unwrap(), OUTSIDE6);
        assert_eq!(host.outside.ask_by_datagram(&address).unwrap(), OUTSIDE6);
        assert_eq!(host.outside.ask(&format!("{HOST}:8080")).unwrap(), OUTSIDE);
        assert_eq!(ask(address.parse().unwrap()).unwrap(), HOST6);
        // By the loopback it is the proxy, which comes from the bridge.
        assert_eq!(ask("[::1]:8080".parse().unwrap()).unwrap(), "fd00:5::1");
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        assert_eq!(ask_by_datagram(&socket, "[::1]:8080".parse().unwrap()).unwrap(), "fd00:5::1");
        // From another container and from itself, whether bridges hand their packets to the packet filter or not.
        for setting in ["1", "0"] {
            let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", setting);
            for address in ["[fd00:5::1]:8080", &address] {
                for place in [&other, &web] {
                    assert_eq!(place.ask(address).unwrap(), "fd00:5::1", "{address}");
                }
                assert_eq!(other.ask_by_datagram(address).unwrap(), "fd00:5::1", "{address}");
            }
            assert_eq!(other.ask("[fd00:5::2]:80").unwrap(), "fd00:5::3");
        }
        // An address that counts on one link alone leads there as well.
        let link = command("ip -6 -o address show dev uplink scope link");
        let link = link.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
        let scope = host.outside.command("ip -o link show eth0 | cut -d: -f1");
        eventually("the link's own address leads there", || {
            host.outside.ask(&format!("[{link}%{}]:8080", scope.trim())).is_ok_and(|from| from == "fd00:5::1")
        });

        let on = |address: &str, host_port| PortRequest {
            host_ip: Some(address.parse().unwrap()),
            ..port(Protocol::Tcp, host_port)
        };
        let ports = [on("::1", 8001), on(HOST6, 8002), on("::", 8003)];
        assert_eq!(host.publish(&network, "web", &endpoint, &ports).len(), 3);
        assert_eq!(ask("[::1]:8001".parse().unwrap()).unwrap(), "fd00:5::1");
        assert!(host.outside.ask(&format!("[{HOST6}]:8001")).is_err());
        assert_eq!(host.outside.ask(&format!("[{HOST6}]:8002")).unwrap(), OUTSIDE6);
        assert!(ask("[::1]:8002".parse().unwrap()).is_err());
        assert_eq!(host.outside.ask(&format!("[{HOST6}]:8003")).unwrap(), OUTSIDE6);
        assert!(host.outside.ask(&format!("{HOST}:8003")).is_err());
        assert!(host.outside.ask(&address).is_err());
        host.block_on(network.release("web")).unwrap();
        assert!(host.outside.ask(&format!("[{HOST6}]:8003")).is_err());
    });
}

#[test]
fn a_container_without_ipv6_is_reached_over_it_by_the_proxy() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(host.outside.ask(&format!("[{HOST6}]:8080")).unwrap(), "172.17.0.1");
    });
}

#[test]
fn networks_with_ipv6_are_apart_and_nobody_outside_gets_in() {
    Host::run(|host| {
        let (network, web, _) = with_server(&host);
        host.block_on(network.create(with_subnet("other", "fd00:6::/64"))).unwrap();
        let inside = NewNetwork { internal: true, ..with_subnet("inside", "fd00:7::/64") };
        host.block_on(network.create(inside)).unwrap();
        let silent = "com.docker.network.bridge.enable_icc".to_owned();
        let silent = NewNetwork {
            options: BTreeMap::from([(silent, "false".to_owned())]),
            ..with_subnet("silent", "fd00:8::/64")
        };
        host.block_on(network.create(silent)).unwrap();
        let (other, _) = host.attach_to(&network, "other", "other");
        assert!(other.ask("[fd00:5::2]:80").is_err());
        host.outside.command(&format!("ip route add fd00:5::/64 via {HOST6}"));
        assert!(host.outside.ask("[fd00:5::2]:80").is_err());
        web.command("true");
        // An internal network has no way out, whatever its containers do.
        host.outside.serve(7000);
        let (one, endpoint) = host.attach_to(&network, "one", "inside");
        let (two, _) = host.attach_to(&network, "two", "inside");
        assert_eq!(endpoint.ipv6.unwrap().gateway, None);
        two.serve(80);
        assert_eq!(one.ask("[fd00:7::3]:80").unwrap(), "fd00:7::2");
        one.command("ip -6 route add default via fd00:7::1");
        assert!(one.ask(&format!("[{OUTSIDE6}]:7000")).is_err());
        host.outside.command(&format!("ip route add fd00:7::/64 via {HOST6}"));
        assert!(one.ask(&format!("[{OUTSIDE6}]:7000")).is_err());
        // Where containers must not talk with each other, they do not over IPv6 either.
        let (first, _) = host.attach_to(&network, "first", "silent");
        let (second, _) = host.attach_to(&network, "second", "silent");
        second.serve(80);
        let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1");
        if fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-ip6tables").is_ok() {
            assert!(first.ask("[fd00:8::3]:80").is_err());
        }
        assert_eq!(first.ask(&format!("[{OUTSIDE6}]:7000")).unwrap(), HOST6);
    });
}

#[test]
fn networks_with_ipv6_survive_the_daemon_and_a_firewall_that_is_loaded_anew() {
    Host::run(|mut host| {
        let (network, _web, endpoint) = with_server(&host);
        let published = host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        let address = format!("[{HOST6}]:8080");
        let record = network.find("six").unwrap();
        command("nft flush ruleset");
        eventually("the rules are back", || host.outside.ask(&address).is_ok_and(|from| from == OUTSIDE6));
        command("nft delete table ip6 engine");
        eventually("the table is back", || host.outside.ask(&address).is_ok_and(|from| from == OUTSIDE6));
        drop(network);
        host.kill();
        // Without a daemon the packet filter still does its work.
        assert_eq!(host.outside.ask(&address).unwrap(), OUTSIDE6);
        command(&format!("ip link delete {}; nft flush ruleset", record.bridge().unwrap().interface));
        let network = host.network();
        assert_eq!(network.find("six").unwrap(), record);
        host.block_on(network.restore(&[found("web", &endpoint, &published)])).unwrap();
        assert_eq!(host.outside.ask(&address).unwrap(), OUTSIDE6);
        assert_eq!(ask("[::1]:8080".parse().unwrap()).unwrap(), "fd00:5::1");
        let (_next, next) = host.attach_to(&network, "next", "six");
        assert_eq!(text(&next), "fd00:5::3");
        // With the last network that has it the table goes, too.
        host.block_on(network.release("web")).unwrap();
        host.block_on(network.release("next")).unwrap();
        host.block_on(network.remove("six")).unwrap();
        assert!(!command("nft list tables").contains("ip6 engine"));
    });
}

#[test]
fn the_way_out_of_each_family_is_the_network_that_leads_there() {
    Host::run(|host| {
        let network = host.network();
        for (name, subnet) in [("six", "fd00:5::/64"), ("more", "fd00:6::/64")] {
            host.block_on(network.create(with_subnet(name, subnet))).unwrap();
        }
        host.block_on(network.create(wish("four"))).unwrap();
        let place = Place::new();
        let attach = |to: &str, gw_priority| {
            let request = EndpointRequest { network: to.into(), gw_priority, ..EndpointRequest::default() };
            host.block_on(network.attach("app", &place.path, &request)).unwrap()
        };
        let ways = || place.command("ip route show default; ip -6 route show default");
        attach("four", 0);
        attach("six", 0);
        assert!(
            ways().contains("via 172.20.0.1 dev eth0") && ways().contains("via fd00:5::1 dev eth1"),
            "{}",
            ways()
        );
        attach("more", 1);
        assert!(
            ways().contains("via 172.19.0.1 dev eth2") && ways().contains("via fd00:6::1 dev eth2"),
            "{}",
            ways()
        );
        host.block_on(network.detach("app", Some(&place.path), "more")).unwrap();
        assert!(
            ways().contains("via 172.20.0.1 dev eth0") && ways().contains("via fd00:5::1 dev eth1"),
            "{}",
            ways()
        );
        host.block_on(network.detach("app", Some(&place.path), "four")).unwrap();
        assert!(
            ways().contains("via 172.18.0.1 dev eth1") && ways().contains("via fd00:5::1 dev eth1"),
            "{}",
            ways()
        );
    });
}

#[test]
fn forwarding_begins_with_a_policy_and_routers_are_listened_to_as_before() {
    Host::run(|host| {
        let network = host.network();
        let forwarding = || command("cat /proc/sys/net/ipv6/conf/all/forwarding");
        assert_eq!(forwarding(), "0\n");
        command(
            "echo 0 > /proc/sys/net/ipv6/conf/lo/accept_ra; ip link add other type bridge; echo 0 > /proc/sys/net/ipv6/conf/other/accept_ra",
        );
        host.block_on(network.create(with_subnet("six", "fd00:5::/64"))).unwrap();
        assert_eq!(forwarding(), "1\n");
        let policy = command("nft list chain ip6 filter FORWARD");
        assert!(policy.contains("policy drop"), "{policy}");
        let listens = |name: &str| command(&format!("cat /proc/sys/net/ipv6/conf/{name}/accept_ra"));
        assert_eq!((listens("uplink").as_str(), listens("other").as_str()), ("2\n", "0\n"));
        let bridge = network.find("six").unwrap().bridge().unwrap().interface.clone();
        assert_eq!(listens(&bridge), "0\n");
        // The host passes packets on for its containers alone.
        let behind = Place::new();
        command(&format!("ip link add beyond type veth peer name eth0 netns {}", behind.thread));
        command("ip address add 2001:db8:1::1/64 dev beyond nodad; ip link set beyond up");
        behind.command("ip address add 2001:db8:1::2/64 dev eth0 nodad; ip link set eth0 up; ip -6 route add default via 2001:db8:1::1");
        host.outside.command(&format!("ip -6 route add 2001:db8:1::/64 via {HOST6}"));
        behind.serve(80);
        assert!(host.outside.ask("[2001:db8:1::2]:80").is_err());
        let (app, _) = host.attach_to(&network, "app", "six");
        host.outside.serve(7000);
        assert_eq!(app.ask(&format!("[{OUTSIDE6}]:7000")).unwrap(), HOST6);
    });
    Host::run(|host| {
        // Who passes packets on already goes on as before.
        command("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        host.block_on(host.network().create(with_subnet("six", "fd00:5::/64"))).unwrap();
        assert!(!command("nft list tables").contains("ip6 filter"));
    });
}

#[test]
fn without_ipv6_ports_are_published_on_ipv4_and_networks_with_it_refused() {
    Host::run(|host| {
        command("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        let published = host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(published.iter().map(|port| port.host_ip.to_string()).collect::<Vec<_>>(), ["0.0.0.0"]);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        let refused = host.block_on(network.create(with_subnet("six", "fd00:5::/64"))).unwrap_err();
        assert!(matches!(refused, NetworkError::NoIpv6), "{refused}");
        assert_eq!(refused.kind(), Kind::Forbidden);
        assert!(network.networks().iter().all(|network| network.name != "six"));
    });
}

#[test]
fn an_address_leads_to_its_new_holder_at_once() {
    Host::run(|host| {
        let (network, _web, _) = with_server(&host);
        let asker = Place::new();
        let request = |address: &str, ipv6_address: &str| EndpointRequest {
            network: "six".into(),
            address: Some(address.parse().unwrap()),
            ipv6_address: Some(ipv6_address.parse().unwrap()),
            ..EndpointRequest::default()
        };
        let asking = request("172.18.0.200", "fd00:5::200");
        host.block_on(network.attach("asker", &asker.path, &asking)).unwrap();
        for last in 100..103 {
            // Its hardware address is derived from that of IPv4.
            let (place, wish) = (Place::new(), request(&format!("172.18.0.{last}"), "fd00:5::99"));
            host.block_on(network.attach("holder", &place.path, &wish)).unwrap();
            place.serve(80);
            assert_eq!(asker.ask("[fd00:5::99]:80").unwrap(), "fd00:5::200");
            host.block_on(network.detach("holder", Some(&place.path), "six")).unwrap();
        }
    });
}

#[test]
fn the_default_bridge_has_ipv6_as_configured() {
    Host::run(|mut host| {
        let open = |host: &Host, fixed: Option<&str>, no_ipv6_rules| {
            let fixed_cidr_v6 = fixed.map(str::to_owned);
            let config =
                NetworkConfig { ipv6: true, fixed_cidr_v6, no_ipv6_rules, ..NetworkConfig::default() };
            host.block_on(Network::open(&config, host.folder.path(), &Quarantine::of(host.folder.path())))
        };
        let network = open(&host, None, false).unwrap();
        let (web, endpoint) = host.attach(&network, "web");
        assert_eq!(text(&endpoint), "fd42:98fc:1c14::2");
        assert_eq!(network.host_gateways().len(), 2);
        drop(network);
        host.kill();
        let network = open(&host, Some("fd00:9::/64"), false).unwrap();
        host.block_on(network.restore(&[])).unwrap();
        let shown = command("ip -6 -o address show docker0 scope global");
        assert!(shown.contains("fd00:9::1/64") && !shown.contains("fd42"), "{shown}");
        host.block_on(network.attach("web", &web.path, &EndpointRequest::default())).unwrap();
        drop(network);
        host.kill();
        // Without rules it is the proxy that leads there, and nobody masquerades.
        let network = open(&host, Some("fd00:9::/64"), true).unwrap();
        host.block_on(network.restore(&[])).unwrap();
        assert!(!command("nft list tables").contains("ip6 engine"));
        let (web, endpoint) = host.attach(&network, "app");
        web.serve(80);
        host.publish(&network, "app", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(host.outside.ask(&format!("[{HOST6}]:8080")).unwrap(), "fd00:9::1");
        drop(network);
        host.kill();
        let network = host.network();
        assert!(!network.find("bridge").unwrap().has_ipv6());
        assert_eq!(command("ip -6 address show docker0"), "");
        assert!(matches!(open(&host, Some("10.0.0.0/8"), false), Err(NetworkError::FixedSubnet { .. })));
    });
}
