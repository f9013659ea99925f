//! Networks beside the host's own interfaces, and what an endpoint can be asked for, with the stock client.

use super::*;

#[test]
fn containers_of_macvlan_are_on_the_wire() {
    let mut engine = engine();
    let attempt = "ip link add link uplink name tried type macvlan && ip link delete tried";
    if engine.inside("sh", ["-c", attempt]).code != Some(0) {
        skipped::say("macvlan", "the kernel cannot make interfaces of the kind `macvlan`");
        return;
    }
    let create =
        ["network", "create", "--driver", "macvlan", "--opt", "parent=uplink", "--subnet", "203.0.113.0/24"];
    let more = ["--ip-range", "203.0.113.128/25", "--gateway", OUTSIDE, "lan"];
    engine.docker(create.iter().chain(&more)).ok();
    serve(&engine, "web", &["--network", "lan", "--network-alias", "www"]);
    serve(&engine, "app", &["--network", "lan", "--ip", "203.0.113.200"]);
    let reached = |engine: &Engine| {
        for (address, name) in [("203.0.113.128", "web"), ("203.0.113.200", "app")] {
            let script = format!("ip netns exec outside busybox nc -w 5 {address} 80 </dev/null");
            assert_eq!(ask_with(|| engine.inside("sh", ["-c", &script])), format!("hello from {name}"));
        }
        // Names are as on bridges.
        for name in ["web", "www"] {
            assert_eq!(ask_from_container(engine, "app", name, 80), "hello from web");
        }
    };
    reached(&engine);
    let shown = network(&engine, "lan");
    assert_eq!((&shown["Driver"], &shown["Options"]), (&json!("macvlan"), &json!({ "parent": "uplink" })));
    let pool = json!([{ "Subnet": "203.0.113.0/24", "IPRange": "203.0.113.128/25", "Gateway": OUTSIDE }]);
    assert_eq!(shown["IPAM"]["Config"], pool);
    engine.kill();
    engine.launch();
    reached(&engine);
    assert_eq!(network(&engine, "lan"), shown);
    engine.docker(["restart", "--time", "0", "web"]).ok();
    reached(&engine);
    let refused =
        engine.docker(["run", "--rm", "--network", "lan", "--publish", "80", "busybox", "true"]).failed();
    assert!(refused.contains("Ports cannot be published on the network lan"), "{refused}");
    // With a bridge beside it, it is by that that ports are published.
    engine.docker(["network", "create", "inner"]).ok();
    serve(&engine, "both", &["--network", "lan", "--network", "inner", "--publish", "8080:80"]);
    assert_eq!(ask_from_host(&engine, "127.0.0.1", 8080), "hello from both");
    engine.docker(["network", "disconnect", "lan", "app"]).ok();
    assert!(!engine.docker(["exec", "app", "ip", "-o", "link"]).ok().contains("eth0"));
    engine.docker(["rm", "--force", "web", "app", "both"]).ok();
    engine.docker(["network", "rm", "lan"]).ok();
    for (driver, option) in [("ipvlan", "parent=uplink"), ("macvlan", "parent=nowhere")] {
        let made = engine.docker(["network", "create", "--driver", driver, "--opt", option, "x"]);
        if made.code == Some(0) {
            continue;
        }
        let message = made.failed();
        assert!(message.contains("uplink") || message.contains("nowhere"), "{message}");
    }
}

#[test]
fn an_endpoint_has_its_options() {
    let engine = engine();
    engine.docker(["network", "create", "--ipv6", "six"]).ok();
    let settings = "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2";
    let network = format!(
        "name=six,link-local-ip=169.254.7.7,driver-opt=com.docker.network.endpoint.ifname=lan0,\"driver-opt={settings}\""
    );
    let script = "cat /proc/sys/net/ipv4/conf/lan0/log_martians /proc/sys/net/ipv6/conf/lan0/accept_ra; ip address show lan0";
    let shown = engine.docker(["run", "--rm", "--network", &network, "busybox", "sh", "-c", script]).ok();
    assert!(shown.starts_with("1\n2\n") && shown.contains("169.254.7.7/16"), "{shown}");
    serve(&engine, "web", &[]);
    let connect = [
        "network",
        "connect",
        "--link-local-ip",
        "fe80::7",
        "--driver-opt",
        "com.docker.network.endpoint.ifname=lan1",
    ];
    engine.docker(connect.iter().chain(&["six", "web"])).ok();
    assert!(engine.docker(["exec", "web", "ip", "address", "show", "lan1"]).ok().contains("fe80::7/64"));
    let refused = |option: &str| {
        let network = format!("name=six,driver-opt={option}");
        engine.docker(["run", "--rm", "--network", &network, "busybox", "true"]).failed()
    };
    let message = refused("com.docker.network.endpoint.colour=red");
    assert!(message.contains("DriverOpts` (`--driver-opt com.docker.network.endpoint.colour`)"), "{message}");
    assert!(refused("com.docker.network.endpoint.ifname=a/b").contains("invalid interface name"));
    assert!(refused("com.docker.network.endpoint.sysctls=kernel.hostname=x").contains("unrecognised sysctl"));
}
