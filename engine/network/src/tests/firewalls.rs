//! Living beside the host's own firewall, as `README.md` of this crate says it. The rules of ufw and firewalld are those that Debian's
//! packages write (ufw 0.36 by way of iptables, firewalld 1.3), shortened to what a packet meets that is forwarded or comes in.

use super::*;

/// `ufw default deny; ufw allow 22; ufw enable`.
const UFW: &str = "
table ip filter {
    chain ufw-before-forward { ct state related,established counter accept; meta l4proto icmp counter accept; jump ufw-user-forward; }
    chain ufw-user-forward { }
    chain ufw-before-input { iifname \"lo\" counter accept; ct state related,established counter accept; ct state invalid counter drop; meta l4proto icmp counter accept; jump ufw-user-input; }
    chain ufw-user-input { tcp dport 22 counter accept; }
    chain INPUT { type filter hook input priority filter; policy drop; jump ufw-before-input; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward; }
    chain OUTPUT { type filter hook output priority filter; policy accept; }
}
table ip6 filter {
    chain ufw6-before-forward { ct state related,established counter accept; meta l4proto ipv6-icmp counter accept; jump ufw6-user-forward; }
    chain ufw6-user-forward { }
    chain ufw6-before-input { iifname \"lo\" counter accept; ct state related,established counter accept; meta l4proto ipv6-icmp counter accept; jump ufw6-user-input; }
    chain ufw6-user-input { tcp dport 22 counter accept; }
    chain INPUT { type filter hook input priority filter; policy drop; jump ufw6-before-input; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw6-before-forward; }
    chain OUTPUT { type filter hook output priority filter; policy accept; }
}
";

/// The default zone `public`, with the uplink in it.
const FIREWALLD: &str = "
table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        iifname \"lo\" accept
        ct state invalid drop
        meta l4proto { icmp, ipv6-icmp } accept
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        jump filter_FORWARD_POLICIES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_POLICIES { }
}
";

fn load(rules: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.nft");
    fs::write(&path, rules).unwrap();
    command(&format!("nft -f {}", path.display()));
}

/// The rules of others, without what they have counted.
fn of_others(tables: &str) -> Vec<String> {
    let shown = command(&format!(
        "for table in {tables}; do nft --stateless list table ${{table%:*}} ${{table#*:}}; done"
    ));
    shown.lines().filter(|line| !line.contains("comment \"engine ")).map(str::to_owned).collect()
}

struct Scene {
    network: Network,
    web: Place,
}

/// A server whose port 80 is published as 8080.
fn scene(host: &Host) -> Scene {
    let network = host.network();
    host.block_on(network.create(with_subnet("six", "fd00:5::/64"))).unwrap();
    let (web, endpoint) = host.attach_to(&network, "web", "six");
    web.serve(80);
    host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
    host.outside.serve(7000);
    Scene { network, web }
}

fn is_reached(host: &Host) -> bool {
    host.outside.ask(&format!("{HOST}:8080")).is_ok_and(|from| from == OUTSIDE)
        && host.outside.ask(&format!("[{HOST6}]:8080")).is_ok_and(|from| from == OUTSIDE6)
}

#[test]
fn beside_ufw_ports_are_reached_and_its_rules_stay() {
    Host::run(|host| {
        load(UFW);
        let before = of_others("ip:filter ip6:filter");
        let Scene { network, web } = scene(&host);
        assert!(is_reached(&host));
        assert_eq!(web.ask(&format!("{OUTSIDE}:7000")).unwrap(), HOST);
        assert_eq!(web.ask(&format!("[{OUTSIDE6}]:7000")).unwrap(), HOST6);
        // What is not published is not reached, and the host's other ports obey ufw.
        host.outside.command(&format!("ip route add 172.16.0.0/12 via {HOST}"));
        assert!(host.outside.ask("172.18.0.2:80").is_err());
        let _listener = TcpListener::bind(format!("{HOST}:9000")).unwrap();
        assert!(host.outside.ask(&format!("{HOST}:9000")).is_err());
        assert_eq!(of_others("ip:filter ip6:filter"), before);
        // `ufw reload`.
        command("nft flush ruleset");
        load(UFW);
        eventually("the rules are back", || is_reached(&host) && web.ask(&format!("{OUTSIDE}:7000")).is_ok());
        assert_eq!(of_others("ip:filter ip6:filter"), before);
        host.block_on(network.release("web")).unwrap();
        host.block_on(network.remove("six")).unwrap();
        assert!(!command("nft list ruleset").contains("engine to br-"));
    });
}

#[test]
fn beside_firewalld_ports_are_reached_and_the_way_out_is_its_zones_matter() {
    Host::run(|host| {
        load(FIREWALLD);
        let before = of_others("inet:firewalld");
        let Scene { network, web } = scene(&host);
        assert!(is_reached(&host));
        assert!(web.ask(&format!("{OUTSIDE}:7000")).is_err());
        assert_eq!(of_others("inet:firewalld"), before);
        // The bridge goes into a zone whose target is ACCEPT.
        let bridge = network.find("six").unwrap().bridge().unwrap().interface.clone();
        let zone = format!("nft add rule inet firewalld filter_FORWARD_POLICIES iifname {bridge} accept");
        command(&zone);
        assert_eq!(web.ask(&format!("{OUTSIDE}:7000")).unwrap(), HOST);
        // `firewall-cmd --reload` takes its own table away, others take all.
        command("nft delete table inet firewalld");
        load(FIREWALLD);
        command(&zone);
        assert!(is_reached(&host));
        command("nft flush ruleset");
        load(FIREWALLD);
        eventually("the rules are back", || is_reached(&host));
        assert_eq!(of_others("inet:firewalld"), before);
    });
}

#[test]
fn a_chain_of_ones_own_may_drop_and_accept_what_is_forwarded() {
    Host::run(|host| {
        let Scene { web, .. } = scene(&host);
        load("table inet mine {\nchain forward { type filter hook forward priority 0; policy drop; }\n}");
        assert!(!is_reached(&host));
        assert!(web.ask(&format!("{OUTSIDE}:7000")).is_err());
        for rule in
            ["ct state established,related accept", "ct status dnat accept", "iifname \"br-*\" accept"]
        {
            command(&format!("nft add rule inet mine forward '{rule}'"));
        }
        assert!(is_reached(&host));
        assert_eq!(web.ask(&format!("{OUTSIDE}:7000")).unwrap(), HOST);
    });
}

#[test]
fn a_published_port_is_restricted_by_a_table_of_ones_own() {
    Host::run(|host| {
        let _scene = scene(&host);
        host.outside.command("ip address add 203.0.113.77/24 dev eth0");
        let from = |address: &str| {
            let script = format!("exec 3<>/dev/tcp/{HOST}/8080 && cat <&3");
            host.outside.command(&format!(
                "ip route replace {HOST}/32 dev eth0 src {address}; timeout 2 bash -c '{script}' 2>/dev/null || true"
            ))
        };
        assert_eq!((from(OUTSIDE).as_str(), from("203.0.113.77").as_str()), (OUTSIDE, "203.0.113.77"));
        let over_ipv6 = || {
            let script = format!("exec 3<>/dev/tcp/{HOST6}/8080 && cat <&3");
            host.outside.command(&format!("timeout 2 bash -c '{script}' 2>/dev/null || true"))
        };
        assert_eq!(over_ipv6(), OUTSIDE6);
        for chain in [
            "chain before { type filter hook prerouting priority -150; policy accept;
             iifname \"uplink\" tcp dport 8080 ip saddr != 203.0.113.77/32 drop
             iifname \"uplink\" tcp dport 8080 meta nfproto ipv6 drop
             }",
            "chain forward { type filter hook forward priority -1; policy accept;
             ct direction original ct status dnat meta l4proto tcp ct original proto-dst 8080 ip saddr != 203.0.113.77/32 drop
             ct direction original ct status dnat meta l4proto tcp ct original proto-dst 8080 meta nfproto ipv6 drop
             }",
        ] {
            load(&format!("table inet mine {{\n{chain}\n}}"));
            assert_eq!(
                (from(OUTSIDE).as_str(), from("203.0.113.77").as_str()),
                ("", "203.0.113.77"),
                "{chain}"
            );
            assert_eq!(over_ipv6(), "", "{chain}");
            // The host itself is not restricted.
            assert_eq!(ask(format!("{HOST}:8080").parse().unwrap()).unwrap(), HOST);
            command("nft delete table inet mine");
        }
        // Rules for input see what the proxy answers alone.
        load(
            "table inet mine {\nchain input { type filter hook input priority 0; policy accept; tcp dport 8080 drop; }\n}",
        );
        assert_eq!(from(OUTSIDE), OUTSIDE);
        assert!(ask("127.0.0.1:8080".parse().unwrap()).is_err());
    });
}
