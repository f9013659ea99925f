//! IPv6 with the stock client.

use super::*;

const HOST6: &str = "2001:db8::1";
const OUTSIDE6: &str = "2001:db8::2";

fn engine_with(configuration: &str) -> Engine {
    let engine = Engine::start_with(configuration, &[]);
    engine.load_busybox();
    let script = format!(
        "ip netns add outside && ip link add uplink type veth peer name eth0 netns outside &&
         ip address add {HOST6}/64 dev uplink nodad && ip link set uplink up &&
         ip -n outside address add {OUTSIDE6}/64 dev eth0 nodad && ip -n outside link set eth0 up"
    );
    engine.inside("sh", ["-c", &script]).ok();
    engine
}

/// Answers every connection with its name and who asks, as it sees that one.
const TELLER: &str = r#"cat > /tell <<'END'
echo "$(hostname) sees $(netstat -tn | awk '$4 ~ /:80$/ && $6 ~ /ESTABLISHED|CLOSE_WAIT/ { print $5; exit }')"
END
exec nc -ll -p 80 -e sh /tell"#;

fn tell(engine: &Engine, name: &str, options: &[&str]) {
    let mut arguments = vec!["run", "--detach", "--name", name, "--hostname", name];
    arguments.extend(options);
    arguments.extend(["busybox", "sh", "-c", TELLER]);
    engine.docker(arguments).ok();
}

fn ask_from_outside(engine: &Engine, address: &str, port: u16) -> String {
    let script = format!("ip netns exec outside busybox nc -w 5 {address} {port} </dev/null");
    ask_with(|| engine.inside("sh", ["-c", &script]))
}

/// What a template shows of a container's place on a network.
fn place(engine: &Engine, name: &str, network: &str) -> Value {
    let shown = engine.http("GET", &format!("/containers/{name}/json"), b"").json();
    shown["NetworkSettings"]["Networks"][network].clone()
}

#[test]
fn a_network_has_ipv6() {
    let mut engine = engine_with("{}");
    engine
        .docker(["network", "create", "--ipv6", "--subnet", "fd00:5::/64", "--gateway", "fd00:5::9", "six"])
        .ok();
    tell(&engine, "web", &["--network", "six", "--publish", "8080:80", "--publish", "[2001:db8::1]:8081:80"]);
    tell(&engine, "app", &["--network", "six", "--ip6", "fd00:5::77"]);
    let web = place(&engine, "web", "six");
    assert_eq!(
        (&web["GlobalIPv6Address"], &web["GlobalIPv6PrefixLen"], &web["IPv6Gateway"]),
        (&json!("fd00:5::1"), &json!(64), &json!("fd00:5::9"))
    );
    let app = place(&engine, "app", "six");
    assert_eq!(app["GlobalIPv6Address"], "fd00:5::77");
    assert_eq!(app["IPAMConfig"], json!({ "IPv6Address": "fd00:5::77" }));
    let shown = network(&engine, "six");
    assert_eq!((&shown["EnableIPv4"], &shown["EnableIPv6"]), (&json!(true), &json!(true)));
    assert_eq!(shown["IPAM"]["Config"][1], json!({ "Subnet": "fd00:5::/64", "Gateway": "fd00:5::9" }));
    assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], "172.18.0.0/16");
    let members = shown["Containers"].as_object().unwrap();
    assert!(members.values().any(|member| member["IPv6Address"] == "fd00:5::77/64"), "{members:?}");

    // Names stand for addresses of both families; those who have no IPv6 have no such address, which is no mistake.
    let look_up = |kind: &str, name: &str| {
        engine.docker(["exec", "app", "nslookup", &format!("-type={kind}"), name, "127.0.0.11"])
    };
    assert!(look_up("aaaa", "web").ok().contains("Address: fd00:5::1\n"));
    assert!(look_up("a", "web").ok().contains("Address: 172.18.0.2\n"));
    let reverse = engine.docker(["exec", "app", "nslookup", "fd00:5::1", "127.0.0.11"]).ok();
    assert!(reverse.contains("name = web.six"), "{reverse}");
    let hosts = engine.docker(["exec", "web", "cat", "/etc/hosts"]).ok();
    assert!(hosts.ends_with("172.18.0.2\tweb\nfd00:5::1\tweb\n"), "{hosts}");
    let route = engine.docker(["exec", "web", "ip", "-6", "route"]).ok();
    assert!(route.contains("default via fd00:5::9 dev eth0"), "{route}");
    assert!(ask_from_container(&engine, "app", "fd00:5::1", 80).starts_with("web sees"));

    // Published on all addresses of both families, and on one.
    let ports = engine.docker(["port", "web"]).ok();
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [2001:db8::1]:8081\n80/tcp -> [::]:8080\n");
    let listed = engine.docker(["ps", "--filter", "name=web", "--format", "{{.Ports}}"]).ok();
    assert_eq!(listed, "0.0.0.0:8080->80/tcp, [2001:db8::1]:8081->80/tcp, [::]:8080->80/tcp\n");
    let reached = |engine: &Engine| {
        for port in [8080, 8081] {
            let answer = ask_from_outside(engine, HOST6, port);
            assert!(answer.starts_with("web sees") && answer.contains("2001:db8::2"), "{answer}");
        }
        let answer = ask_from_host(engine, "::1", 8080);
        assert!(answer.starts_with("web sees") && answer.contains("fd00:5::9"), "{answer}");
        assert!(ask_from_host(engine, "127.0.0.1", 8080).starts_with("web sees"));
    };
    reached(&engine);
    engine.inside("nft", ["flush", "ruleset"]).ok();
    wait_for("the rules", || {
        engine.inside("nft", ["list", "table", "ip6", "engine"]).stdout.contains("8081")
    });
    reached(&engine);
    engine.kill();
    engine.launch();
    reached(&engine);
    assert_eq!(network(&engine, "six"), shown);
    engine.docker(["restart", "--time", "0", "app"]).ok();
    assert_eq!(place(&engine, "app", "six")["GlobalIPv6Address"], "fd00:5::77");

    // A container comes to it while it runs.
    tell(&engine, "late", &[]);
    engine.docker(["network", "connect", "--ip6", "fd00:5::88", "six", "late"]).ok();
    assert_eq!(place(&engine, "late", "six")["GlobalIPv6Address"], "fd00:5::88");
    let first = engine.http("GET", "/containers/late/json", b"").json();
    assert_eq!(first["NetworkSettings"]["GlobalIPv6Address"], "");
    assert!(ask_from_container(&engine, "app", "fd00:5::88", 80).starts_with("late sees"));
}

#[test]
fn a_name_without_ipv6_has_no_such_address() {
    let engine = engine_with("{}");
    engine.docker(["network", "create", "four"]).ok();
    for name in ["web", "app"] {
        tell(&engine, name, &["--network", "four"]);
    }
    let look_up = engine.docker(["exec", "app", "nslookup", "-type=aaaa", "web", "127.0.0.11"]);
    // No answer, and no failure either.
    let said = format!("{}{}", look_up.stdout, look_up.stderr);
    assert!(
        !said.contains("NXDOMAIN") && !said.contains("SERVFAIL") && !said.contains("Address: "),
        "{said}"
    );
    assert_eq!(look_up.code, Some(0), "{said}");
}

#[test]
fn subnets_of_ipv6_are_chosen_and_wishes_that_cannot_be_are_refused() {
    let configuration = r#"{"default-address-pools": [{"base": "fd00:60::/63", "size": 64}]}"#;
    let engine = engine_with(configuration);
    engine.docker(["network", "create", "--ipv6", "one"]).ok();
    assert_eq!(network(&engine, "one")["IPAM"]["Config"][1]["Subnet"], "fd00:60::/64");
    // Of IPv4, of which nothing is configured, it is as ever.
    assert_eq!(network(&engine, "one")["IPAM"]["Config"][0]["Subnet"], "172.18.0.0/16");
    engine.docker(["network", "create", "--ipv6", "two"]).ok();
    let full = engine.docker(["network", "create", "--ipv6", "three"]).failed();
    assert!(full.contains("all predefined address pools have been fully subnetted"), "{full}");
    let two = ["--subnet", "fd00:7::/64", "--subnet", "fd00:8::/64"];
    let several = engine.docker(["network", "create", "--ipv6"].iter().chain(&two).chain(&["x"])).failed();
    assert!(several.contains("bridge driver doesn't support multiple subnets"), "{several}");
    let without = engine.docker(["network", "create", "--subnet", "fd00:7::/64", "x"]).failed();
    assert!(without.contains("(`EnableIPv6`, `--ipv6`)"), "{without}");
    let nobody = engine.docker(["run", "--rm", "--network", "bridge", "--ip6", "fd00::7", "busybox", "true"]);
    assert!(nobody.failed().contains("is supported on user defined networks only"));
    let both = ["--subnet", "10.77.0.0/24", "--gateway", "10.77.0.9", "--subnet", "fd00:7::/64", "--gateway"];
    let both = ["network", "create", "--ipv6"].iter().chain(&both).chain(&["fd00:7::9", "--ip-range"]);
    engine
        .docker(both.chain(&[
            "10.77.0.128/25",
            "--ip-range",
            "fd00:7::8000:0/112",
            "--aux-address",
            "router=fd00:7::8000:0",
            "both",
        ]))
        .ok();
    let pools = json!([
        { "Subnet": "10.77.0.0/24", "Gateway": "10.77.0.9", "IPRange": "10.77.0.128/25" },
        { "Subnet": "fd00:7::/64", "Gateway": "fd00:7::9", "IPRange": "fd00:7::8000:0/112",
          "AuxiliaryAddresses": { "router": "fd00:7::8000:0" } },
    ]);
    assert_eq!(network(&engine, "both")["IPAM"]["Config"], pools);
    tell(&engine, "web", &["--network", "both"]);
    let web = place(&engine, "web", "both");
    assert_eq!(
        (&web["IPAddress"], &web["GlobalIPv6Address"]),
        (&json!("10.77.0.128"), &json!("fd00:7::8000:1"))
    );
}

#[test]
fn the_default_bridge_has_ipv6_if_the_daemon_is_told_so() {
    let engine = engine_with(r#"{"ipv6": true, "fixed-cidr-v6": "fd00:9::/64"}"#);
    tell(&engine, "web", &["--publish", "8080:80", "--add-host", "gate:host-gateway"]);
    let shown = engine.http("GET", "/containers/web/json", b"").json()["NetworkSettings"].clone();
    assert_eq!(
        (&shown["GlobalIPv6Address"], &shown["GlobalIPv6PrefixLen"], &shown["IPv6Gateway"]),
        (&json!("fd00:9::2"), &json!(64), &json!("fd00:9::1"))
    );
    let hosts = engine.docker(["exec", "web", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains("172.17.0.1\tgate\nfd00:9::1\tgate\n"), "{hosts}");
    let answer = ask_from_outside(&engine, HOST6, 8080);
    assert!(answer.contains("2001:db8::2"), "{answer}");
    drop(engine);
    let engine = engine_with(r#"{"ipv6": true, "ip6tables": false}"#);
    let subnet = network(&engine, "bridge")["IPAM"]["Config"][1]["Subnet"].clone();
    assert!(subnet.as_str().unwrap().starts_with("fd"), "{subnet}");
    tell(&engine, "web", &["--publish", "8080:80"]);
    let answer = ask_from_outside(&engine, HOST6, 8080);
    assert!(answer.starts_with("web sees") && !answer.contains("2001:db8::2"), "{answer}");
    assert!(!engine.inside("nft", ["list", "tables"]).ok().contains("ip6 engine"));
}

#[test]
fn a_host_without_ipv6_publishes_on_ipv4_alone() {
    let engine = engine();
    engine.inside("sh", ["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]).ok();
    serve(&engine, "web", &["--publish", "8080:80"]);
    assert_eq!(engine.docker(["port", "web"]).ok(), "80/tcp -> 0.0.0.0:8080\n");
    assert_eq!(ask_from_host(&engine, "127.0.0.1", 8080), "hello from web");
    let refused = engine.docker(["network", "create", "--ipv6", "six"]).failed();
    assert!(refused.contains("This host has no IPv6"), "{refused}");
}
