//! Networks with the stock client: published ports, names, networks of users, and what survives the daemon.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

mod harness;
#[path = "network/ipv6.rs"]
mod ipv6;
#[path = "network/links.rs"]
mod links;
#[path = "network/names.rs"]
mod names;
#[path = "network/vlan.rs"]
mod vlan;

use harness::{Engine, wait_for};

/// Of the engine's host and of a machine outside, joined by a cable.
const HOST: &str = "203.0.113.1";
const OUTSIDE: &str = "203.0.113.2";

/// Answers every connection with `hello from NAME`.
const SERVER: &str = "exec nc -ll -p 80 -e sh -c 'echo hello from $(hostname)'";

fn engine() -> Engine {
    let engine = Engine::start();
    engine.load_busybox();
    let script = format!(
        "ip netns add outside && ip link add uplink type veth peer name eth0 netns outside &&
         ip address add {HOST}/24 dev uplink && ip link set uplink up &&
         ip -n outside address add {OUTSIDE}/24 dev eth0 && ip -n outside link set eth0 up && ip -n outside link set lo up"
    );
    engine.inside("sh", ["-c", &script]).ok();
    engine
}

/// Starts a server by this name.
#[track_caller]
fn serve(engine: &Engine, name: &str, options: &[&str]) {
    let mut arguments = vec!["run", "--detach", "--name", name, "--hostname", name];
    arguments.extend(options);
    arguments.extend(["busybox", "sh", "-c", SERVER]);
    engine.docker(arguments).ok();
}

fn ask_with(ask: impl Fn() -> harness::Output) -> String {
    let mut answer = String::new();
    wait_for("an answer", || {
        let output = ask();
        output.stdout.trim().clone_into(&mut answer);
        output.code == Some(0) && !answer.is_empty()
    });
    answer
}

fn ask_from_host(engine: &Engine, address: &str, port: u16) -> String {
    let script = format!("busybox nc -w 5 {address} {port} </dev/null");
    ask_with(|| engine.inside("sh", ["-c", &script]))
}

fn ask_from_outside(engine: &Engine, port: u16) -> String {
    let script = format!("ip netns exec outside busybox nc -w 5 {HOST} {port} </dev/null");
    ask_with(|| engine.inside("sh", ["-c", &script]))
}

fn ask_from_container(engine: &Engine, name: &str, address: &str, port: u16) -> String {
    let script = format!("nc -w 5 {address} {port} </dev/null");
    ask_with(|| engine.docker(["exec", name, "sh", "-c", &script]))
}

fn network(engine: &Engine, name: &str) -> Value {
    engine.http("GET", &format!("/networks/{name}"), b"").json()
}

#[test]
fn a_published_port_is_reached_from_inside_and_outside_and_is_taken() {
    let engine = engine();
    serve(&engine, "web", &["--publish", "8080:80", "--publish", "127.0.0.1::80/udp"]);
    assert_eq!(ask_from_outside(&engine, 8080), "hello from web");
    for address in ["127.0.0.1", HOST] {
        assert_eq!(ask_from_host(&engine, address, 8080), "hello from web");
    }
    let ports = engine.docker(["port", "web"]).ok();
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n80/udp -> 127.0.0.1:32768\n");
    let shown = engine.docker(["ps", "--format", "{{.Ports}}"]).ok();
    assert!(shown.contains("0.0.0.0:8080->80/tcp"), "{shown}");

    let refused =
        engine.docker(["run", "--detach", "--name", "second", "--publish", "8080:80", "busybox", "true"]);
    assert_eq!(refused.code, Some(125));
    let message = refused.failed();
    assert!(
        message.contains("driver failed programming external connectivity on endpoint second ("),
        "{message}"
    );
    assert!(message.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{message}");

    engine.docker(["rm", "--force", "web"]).ok();
    engine.docker(["start", "second"]).ok();
    serve(&engine, "third", &["--publish", "8081:80"]);
    assert_eq!(ask_from_outside(&engine, 8081), "hello from third");
}

#[test]
fn a_container_knows_its_surroundings_and_reaches_the_outside() {
    let engine = engine();
    let script =
        "ip -4 -o address show eth0; ip route; cat /etc/hosts /etc/resolv.conf; ping -c 1 -W 5 203.0.113.2";
    let shown = engine
        .docker([
            "run",
            "--rm",
            "--hostname",
            "box",
            "--add-host",
            "gate:host-gateway",
            "--dns",
            "203.0.113.2",
            "busybox",
            "sh",
            "-ec",
            script,
        ])
        .ok();
    for expected in [
        "inet 172.17.0.2/16",
        "default via 172.17.0.1 dev eth0",
        "172.17.0.2\tbox",
        "172.17.0.1\tgate",
        "127.0.0.1\tlocalhost",
        "nameserver 203.0.113.2",
        "1 packets received",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let alone = engine.docker(["run", "--rm", "--network", "none", "busybox", "ip", "-o", "link"]).ok();
    assert!(alone.contains("lo") && !alone.contains("eth0"), "{alone}");
    let shared = engine.docker(["run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"]).ok();
    assert!(shared.contains("uplink") && shared.contains("docker0"), "{shared}");
    // Nothing of them is left.
    wait_for("the end of their interfaces", || !engine.inside("ip", ["-o", "link"]).ok().contains("veth"));
}

#[test]
fn ports_survive_a_killed_daemon() {
    let mut engine = engine();
    serve(&engine, "web", &["--publish", "8080:80"]);
    assert_eq!(ask_from_outside(&engine, 8080), "hello from web");
    let before = network(&engine, "bridge");
    engine.kill();
    assert_eq!(ask_from_outside(&engine, 8080), "hello from web");
    engine.launch();
    assert_eq!(network(&engine, "bridge"), before);
    assert_eq!(ask_from_host(&engine, "127.0.0.1", 8080), "hello from web");
    assert_eq!(ask_from_outside(&engine, 8080), "hello from web");
    engine.docker(["rm", "--force", "web"]).ok();
    assert_eq!(network(&engine, "bridge")["Containers"], json!({}));
    let rules = engine.inside("nft", ["list", "table", "ip", "engine"]).ok();
    assert!(!rules.contains("8080"), "{rules}");
}

#[test]
fn networks_are_listed_and_inspected_as_clients_expect() {
    let engine = engine();
    let names = engine.docker(["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]).ok();
    assert_eq!(names, "bridge bridge local\nhost host local\nnone null local\n");
    let only = engine.docker(["network", "ls", "--filter", "driver=host", "--format", "{{.Name}}"]).ok();
    assert_eq!(only, "host\n");
    serve(&engine, "web", &[]);
    let bridge = network(&engine, "bridge");
    assert_eq!(bridge["IPAM"]["Config"], json!([{ "Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1" }]));
    let containers = bridge["Containers"].as_object().unwrap();
    let (_, shown) = containers.iter().next().unwrap();
    assert_eq!(shown["Name"], "web");
    assert_eq!(shown["IPv4Address"], "172.17.0.2/16");
    assert_eq!(shown["MacAddress"], "02:42:ac:11:00:02");
    assert_eq!(network(&engine, "bridge")["Id"], bridge["Id"]);
    let message = engine.docker(["network", "inspect", "nowhere"]).failed();
    assert!(message.contains("network nowhere not found"), "{message}");
    let message = engine.docker(["run", "--rm", "--network", "nowhere", "busybox", "true"]).failed();
    assert!(message.contains("network nowhere not found"), "{message}");
    let message = engine.docker(["network", "rm", "bridge"]).failed();
    assert!(message.contains("bridge is a pre-defined network and cannot be removed"), "{message}");
}

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    let engine = engine();
    engine.docker(["network", "create", "--subnet", "10.77.0.0/24", "--label", "a=b", "inner"]).ok();
    engine.docker(["network", "create", "other"]).ok();
    serve(&engine, "web", &["--network", "inner", "--network-alias", "www"]);
    serve(&engine, "app", &["--network", "inner", "--ip", "10.77.0.77"]);
    serve(&engine, "stranger", &["--network", "other"]);
    for name in ["web", "www"] {
        assert_eq!(ask_from_container(&engine, "app", name, 80), "hello from web");
    }
    assert_eq!(ask_from_container(&engine, "web", "app", 80), "hello from app");
    let address = engine
        .docker(["inspect", "--format", "{{(index .NetworkSettings.Networks \"inner\").IPAddress}}", "app"])
        .ok();
    assert_eq!(address, "10.77.0.77\n");
    // Another network is out of reach, until the container is connected to it.
    let unknown = engine.docker(["exec", "stranger", "ping", "-c", "1", "-W", "1", "web"]);
    assert!(unknown.failed().contains("bad address"));
    assert_ne!(engine.docker(["exec", "stranger", "ping", "-c", "1", "-W", "1", "10.77.0.77"]).code, Some(0));
    engine.docker(["network", "connect", "--alias", "guest", "inner", "stranger"]).ok();
    assert_eq!(ask_from_container(&engine, "stranger", "web", 80), "hello from web");
    assert_eq!(ask_from_container(&engine, "web", "guest", 80), "hello from stranger");
    let twice = engine.docker(["network", "connect", "inner", "stranger"]).failed();
    assert!(twice.contains("endpoint with name stranger already exists in network inner"), "{twice}");
    engine.docker(["network", "disconnect", "inner", "stranger"]).ok();
    assert!(
        engine
            .docker(["exec", "web", "ping", "-c", "1", "-W", "1", "guest"])
            .failed()
            .contains("bad address")
    );
    assert!(ask_from_container(&engine, "stranger", "stranger", 80).contains("stranger"));

    let busy = engine.docker(["network", "rm", "inner"]).failed();
    assert!(busy.contains("network inner has active endpoints"), "{busy}");
    // It is on its network again after a restart, and those who stay know its name.
    engine.docker(["restart", "--time", "0", "web"]).ok();
    assert_eq!(ask_from_container(&engine, "app", "web", 80), "hello from web");
    engine.docker(["rm", "--force", "web", "app"]).ok();
    let pruned = engine.docker(["network", "prune", "--force", "--filter", "label=a=b"]).ok();
    assert!(pruned.contains("inner") && !pruned.contains("other"), "{pruned}");
    engine.docker(["rm", "--force", "stranger"]).ok();
    engine.docker(["network", "rm", "other"]).ok();
    let names = engine.docker(["network", "ls", "--format", "{{.Name}}"]).ok();
    assert_eq!(names, "bridge\nhost\nnone\n");
}

#[test]
fn a_new_name_holds_at_once() {
    let mut engine = engine();
    engine.docker(["network", "create", "inner"]).ok();
    // Its host name, which stays, is another.
    serve(&engine, "web", &["--network", "inner", "--hostname", "box"]);
    serve(&engine, "app", &["--network", "inner"]);
    assert_eq!(ask_from_container(&engine, "app", "web", 80), "hello from box");
    engine.docker(["rename", "web", "web2"]).ok();
    let renamed = |engine: &Engine| {
        assert_eq!(ask_from_container(engine, "app", "web2", 80), "hello from box");
        let old = engine.docker(["exec", "app", "ping", "-c", "1", "-W", "1", "web"]).failed();
        assert!(old.contains("bad address"), "{old}");
        let members = network(engine, "inner")["Containers"].clone();
        assert!(members.as_object().unwrap().values().any(|member| member["Name"] == "web2"), "{members}");
    };
    renamed(&engine);
    engine.kill();
    engine.launch();
    renamed(&engine);
    // Whoever does not run has the name at the next start.
    engine.docker(["stop", "--time", "0", "web2"]).ok();
    engine.docker(["rename", "web2", "web3"]).ok();
    engine.docker(["start", "web3"]).ok();
    assert_eq!(ask_from_container(&engine, "app", "web3", 80), "hello from box");
}

#[test]
fn networks_of_users_survive_the_daemon() {
    let mut engine = engine();
    engine.docker(["network", "create", "inner"]).ok();
    for name in ["web", "app"] {
        serve(&engine, name, &["--network", "inner"]);
    }
    assert_eq!(ask_from_container(&engine, "app", "web", 80), "hello from web");
    let before = network(&engine, "inner");
    engine.kill();
    engine.launch();
    assert_eq!(network(&engine, "inner"), before);
    assert_eq!(ask_from_container(&engine, "app", "web", 80), "hello from web");
    serve(&engine, "third", &["--network", "inner"]);
    assert_eq!(ask_from_container(&engine, "app", "third", 80), "hello from third");
}

#[test]
fn the_way_out_is_the_network_of_the_highest_priority() {
    let configuration = r#"{"default-address-pools": [{"base": "10.60.0.0/15", "size": 24}]}"#;
    let engine = Engine::start_with(configuration, &[]);
    engine.load_busybox();
    for name in ["one", "two", "three"] {
        engine.docker(["network", "create", name]).ok();
    }
    // The default bridge has the first of the daemon's pools.
    let run = ["run", "--detach", "--name", "box", "--network", "one", "--network", "name=two,gw-priority=7"];
    engine.docker(run.iter().chain(&["busybox", "sleep", "1000"])).ok();
    let way = || engine.docker(["exec", "box", "sh", "-c", "ip route | grep default"]).ok();
    assert_eq!(way().trim(), "default via 10.60.2.1 dev eth1");
    engine.docker(["network", "connect", "--gw-priority", "8", "three", "box"]).ok();
    assert_eq!(way().trim(), "default via 10.60.3.1 dev eth2");
    engine.docker(["network", "disconnect", "three", "box"]).ok();
    assert_eq!(way().trim(), "default via 10.60.2.1 dev eth1");
    engine.docker(["network", "disconnect", "two", "box"]).ok();
    assert_eq!(way().trim(), "default via 10.60.1.1 dev eth0");
    let shown = engine.http("GET", "/containers/box/json", b"").json();
    assert_eq!(shown["NetworkSettings"]["Networks"]["one"]["GwPriority"], 0);
}

#[test]
fn ports_are_published_on_the_address_of_their_network() {
    let engine = Engine::start_with(r#"{"ip": "127.0.0.1"}"#, &[]);
    engine.load_busybox();
    engine.inside("ip", ["address", "add", "203.0.113.1/32", "dev", "lo"]).ok();
    let option = "com.docker.network.bridge.host_binding_ipv4=203.0.113.1";
    engine.docker(["network", "create", "--opt", option, "inner"]).ok();
    serve(&engine, "web", &["--publish", "8080:80"]);
    serve(&engine, "app", &["--network", "inner", "--publish", "8080:80", "--publish", "127.0.0.2:8080:80"]);
    assert_eq!(engine.docker(["port", "web"]).ok(), "80/tcp -> 127.0.0.1:8080\n");
    let ports = engine.docker(["port", "app"]).ok();
    assert_eq!(ports, "80/tcp -> 127.0.0.2:8080\n80/tcp -> 203.0.113.1:8080\n");
    assert_eq!(ask_from_host(&engine, "127.0.0.1", 8080), "hello from web");
    assert_eq!(ask_from_host(&engine, "203.0.113.1", 8080), "hello from app");
    let wrong = "com.docker.network.bridge.host_binding_ipv4=nowhere";
    assert!(
        engine
            .docker(["network", "create", "--opt", wrong, "x"])
            .failed()
            .contains("an IPv4 address is expected")
    );
}

#[test]
fn what_the_engine_does_not_do_is_said() {
    let engine = Engine::start();
    let create = |body: Value| engine.http("POST", "/networks/create", body.to_string().as_bytes());
    let unsupported = [
        json!({ "Name": "x", "Driver": "overlay" }),
        json!({ "Name": "x", "Driver": "macvlan", "Options": { "mode": "bridge" } }),
        json!({ "Name": "x", "EnableIPv4": false }),
        json!({ "Name": "x", "ConfigOnly": true }),
    ];
    for body in unsupported {
        let answer = create(body.clone());
        assert_eq!(answer.status, 501, "{body}: {}", answer.text());
        assert!(answer.json()["message"].as_str().unwrap().ends_with("not supported by this engine yet"));
    }
    for body in [&b"{"[..], b"[]", b"{}", b"{\"Name\":7}"] {
        assert_eq!(engine.http("POST", "/networks/create", body).status, 400);
    }
    for name in ["", "a/b", "..", "a\nb"] {
        assert_eq!(create(json!({ "Name": name })).status, 400, "{name:?}");
    }
    assert_eq!(create(json!({ "Name": "host" })).status, 403);
    assert_eq!(engine.http("GET", "/networks?filters={\"odd\":[\"x\"]}", b"").status, 400);
    assert_eq!(engine.http("DELETE", "/networks/nowhere", b"").status, 404);
    let answer = engine.http("POST", "/networks/bridge/connect", b"{\"Container\":\"nobody\"}");
    assert_eq!(answer.status, 404);
    assert_eq!(engine.http("POST", "/networks/prune", b"").json(), json!({ "NetworksDeleted": null }));
}
