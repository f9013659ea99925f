//! What outlives the daemon, and living with the rules of others.

use super::*;

#[test]
fn everything_survives_the_daemon() {
    Host::run(|mut host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        let (_gone, _) = host.attach(&network, "gone");
        web.serve(80);
        let published =
            host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080), port(Protocol::Udp, 8080)]);
        let bridge = network.find("bridge").unwrap();
        drop(network);
        host.kill();

        // Without a daemon the packet filter still does its work.
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        let stranger = TcpListener::bind("0.0.0.0:8080").unwrap();
        command("ip link set docker0 down; ip link add vethstray master docker0 type veth peer name stray");

        let network = host.network();
        assert_eq!(network.find("bridge").unwrap(), bridge);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        let live = [found("web", &endpoint, &published)];
        host.block_on(network.restore(&live)).unwrap();
        // A port that somebody else has now is that one's until it is given up.
        assert!(host.outside.ask_by_datagram("203.0.113.1:8080").is_ok());
        drop(stranger);
        eventually("the port is ours again", || {
            ask("127.0.0.1:8080".parse().unwrap()).is_ok_and(|text| text == "172.17.0.1")
        });
        eventually("the packet filter leads to it", || {
            host.outside.ask("203.0.113.1:8080").is_ok_and(|text| text == OUTSIDE)
        });

        // What was left over is gone: the stray cable, the container that ended meanwhile and its address.
        let cables: Vec<String> = links().into_iter().filter(|name| name.starts_with("veth")).collect();
        assert_eq!(cables, std::slice::from_ref(&endpoint.host_interface));
        let (_next, next) = host.attach(&network, "next");
        assert_eq!(next.address, Ipv4Addr::new(172, 17, 0, 3));
        assert_eq!(network.attachments(&bridge.id).len(), 2);
    });
}

#[test]
fn containers_come_back_although_the_bridge_and_the_state_are_lost() {
    Host::run(|mut host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        let published = host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        drop(network);
        host.kill();
        command("ip link delete docker0; nft flush ruleset");
        let network = host.network();
        let live = [found("web", &endpoint, &published)];
        host.block_on(network.restore(&live)).unwrap();
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        host.block_on(network.release("web")).unwrap();
        host.block_on(network.restore(&live)).unwrap();
        assert_eq!(network.attachments(&endpoint.network_id).len(), 1);
    });
}

#[test]
fn two_hundred_containers_leave_nothing_behind() {
    Host::run(|host| {
        let network = host.network();
        let (before, rules) = (links(), command("nft list table ip engine"));
        for round in 0..4 {
            let mut places = Vec::new();
            for number in 0..50 {
                let name = format!("c{round}-{number}");
                let (place, endpoint) = host.attach(&network, &name);
                assert_eq!(endpoint.address, Ipv4Addr::new(172, 17, 0, number + 2));
                host.publish(&network, &name, &endpoint, &[port(Protocol::Tcp, 10_000 + u16::from(number))]);
                places.push((name, place));
            }
            for (number, (name, place)) in places.into_iter().enumerate() {
                if number % 2 == 0 {
                    // The container's processes are gone first, as usual.
                    drop(place);
                }
                host.block_on(network.release(&name)).unwrap();
            }
        }
        eventually("all interfaces are gone", || links() == before);
        assert_eq!(command("nft list table ip engine"), rules);
        drop(TcpListener::bind("0.0.0.0:10000").unwrap());
    });
}

#[test]
fn rules_of_others_are_left_alone() {
    Host::run(|host| {
        command(
            "nft add table inet others; nft add chain inet others input '{ type filter hook input priority 0; policy accept; }'
             nft add rule inet others input tcp dport 23 drop; nft add table ip nat",
        );
        let others = command("nft list table inet others; nft list table ip nat");
        let network = host.network();
        let table = command("nft list table ip engine");
        assert_eq!(
            host.block_on(Network::open(
                &NetworkConfig::default(),
                host.folder.path(),
                &Quarantine::of(host.folder.path())
            ))
            .map(drop)
            .err()
            .map(|e| e.to_string()),
            None
        );
        assert_eq!(command("nft list table ip engine"), table);
        let (_place, endpoint) = host.attach(&network, "web");
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(command("nft list table inet others; nft list table ip nat"), others);
        let shown = command("nft list map ip engine published");
        // Where there is no /etc/protocols, the protocol is shown by its number.
        assert!(shown.contains(" . 8080 : 172.17.0.2 . 80"), "{shown}");
    });
}

#[test]
fn a_host_that_forwarded_nothing_forwards_for_containers_alone() {
    Host::run(|host| {
        command("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let network = host.network();
        assert_eq!(command("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        let chain = command("nft list chain ip filter FORWARD");
        assert!(chain.contains("type filter hook forward priority filter; policy drop;"), "{chain}");
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.outside.serve(7000);
        assert_eq!(web.ask("203.0.113.2:7000").unwrap(), HOST);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
    });
    // Who did so before goes on as it was.
    Host::run(|host| {
        command("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let _network = host.network();
        assert_eq!(command("nft list tables | grep -c 'ip filter$' || true").trim(), "0");
    });
}

#[test]
fn a_firewall_that_drops_what_it_does_not_know_is_passed() {
    Host::run(|host| {
        command(
            "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
             nft add rule ip filter FORWARD tcp dport 23 drop",
        );
        let shown = || command("nft list chain ip filter FORWARD");
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.outside.serve(7000);
        assert_eq!(web.ask("203.0.113.2:7000").unwrap(), HOST);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        // Once each, however often the rules are renewed, and only as long as there is the bridge.
        host.block_on(network.create(NewNetwork {
            options: BTreeMap::from([("com.docker.network.bridge.name".to_owned(), "mine".to_owned())]),
            ..wish("mine")
        }))
        .unwrap();
        assert_eq!(
            (shown().matches("\"docker0\"").count(), shown().matches("\"mine\"").count()),
            (2, 2),
            "{}",
            shown()
        );
        host.block_on(network.remove("mine")).unwrap();
        assert_eq!(
            (shown().matches("\"docker0\"").count(), shown().matches("\"mine\"").count()),
            (2, 0),
            "{}",
            shown()
        );
        assert!(shown().contains("tcp dport 23 drop"));
    });
}

#[test]
fn rules_that_somebody_removed_come_back() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        command("nft flush ruleset");
        eventually("the port is redirected again", || {
            host.outside.ask("203.0.113.1:8080").is_ok_and(|answer| answer == OUTSIDE)
        });
        host.outside.serve(7000);
        assert_eq!(web.ask("203.0.113.2:7000").unwrap(), HOST);
    });
}
