//! Names of containers, as programs in them and clients of docker see them.

use super::*;

/// The addresses that a program in a container finds for a name, in their order; none if there is no such name.
fn addresses(engine: &Engine, container: &str, name: &str) -> Vec<String> {
    let output = engine.docker(["exec", container, "nslookup", "-type=a", name, "127.0.0.11"]);
    let answer = output.stdout.split_once("Name:").map_or("", |(_, answer)| answer);
    let found = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
    found.map(|address| address.trim().to_owned()).collect()
}

fn file(engine: &Engine, container: &str, path: &str) -> String {
    engine.docker(["exec", container, "cat", path]).ok()
}

#[test]
fn names_are_answered_in_each_container_of_a_network() {
    let mut engine = engine();
    engine.docker(["network", "create", "--subnet", "10.77.0.0/24", "inner"]).ok();
    engine.docker(["network", "create", "--subnet", "10.78.0.0/24", "other"]).ok();
    let inner = |name: &str, more: &[&str]| {
        serve(&engine, name, &[&["--network", "inner", "--network-alias", "www"], more].concat());
    };
    inner("web1", &["--hostname", "web1.example.com"]);
    inner("web2", &[]);
    let resolver = ["--dns-search", "lan.test", "--dns-option", "timeout:1"];
    serve(&engine, "app", &[&["--network", "other"], &resolver[..]].concat());
    engine.docker(["network", "connect", "--alias", "guest", "inner", "app"]).ok();
    let shown = file(&engine, "app", "/etc/resolv.conf");
    assert!(
        shown.starts_with("nameserver 127.0.0.11\nsearch lan.test\noptions timeout:1 ndots:0\n"),
        "{shown}"
    );
    assert_eq!(addresses(&engine, "app", "web1"), ["10.77.0.2"]);
    assert_eq!(addresses(&engine, "app", "WEB1.inner"), ["10.77.0.2"]);
    assert_eq!(addresses(&engine, "web2", "guest"), ["10.77.0.4"]);
    assert_eq!(addresses(&engine, "app", "app"), ["10.78.0.2"]);
    assert_eq!(addresses(&engine, "app", "web1.example.com"), ["10.77.0.2"]);
    let id = engine.docker(["inspect", "--format", "{{slice .Id 0 12}}", "web1"]).ok();
    assert_eq!(addresses(&engine, "web2", id.trim()), ["10.77.0.2"]);
    let mut all = addresses(&engine, "app", "www");
    all.sort();
    assert_eq!(all, ["10.77.0.2", "10.77.0.3"]);
    let reverse = engine.docker(["exec", "app", "nslookup", "10.77.0.3", "127.0.0.11"]).ok();
    assert!(reverse.contains("name = web2.inner"), "{reverse}");
    let names = "{{json (index .NetworkSettings.Networks \"inner\").DNSNames}}";
    let names = engine.docker(["inspect", "--format", names, "web1"]).ok();
    let names: Value = serde_json::from_str(&names).unwrap();
    assert_eq!(names, json!(["web1", "www", id.trim(), "web1.example.com"]));
    // A hosts file has the container's own names only, by all its networks.
    let hosts = file(&engine, "app", "/etc/hosts");
    assert!(hosts.ends_with("10.78.0.2\tapp\n10.77.0.4\tapp\n"), "{hosts}");
    let hosts = file(&engine, "web1", "/etc/hosts");
    assert!(hosts.ends_with("10.77.0.2\tweb1.example.com web1\n"), "{hosts}");

    // A program of the container's own has the port, and the answers stay.
    let own =
        ["exec", "app", "sh", "-c", "nc -l -p 53 127.0.0.11 & sleep 1; netstat -ltn | grep ':53 '; kill $!"];
    assert!(engine.docker(own).ok().contains("LISTEN"));
    engine.kill();
    engine.launch();
    assert_eq!(addresses(&engine, "app", "web1"), ["10.77.0.2"]);
    engine.docker(["rename", "web1", "first"]).ok();
    assert_eq!(addresses(&engine, "app", "first"), ["10.77.0.2"]);
    assert!(addresses(&engine, "app", "web1").is_empty());
    engine.docker(["network", "disconnect", "inner", "app"]).ok();
    assert!(addresses(&engine, "app", "first").is_empty());
    assert_eq!(addresses(&engine, "app", "app"), ["10.78.0.2"]);
    let hosts = file(&engine, "app", "/etc/hosts");
    assert!(hosts.ends_with("10.78.0.2\tapp\n") && !hosts.contains("10.77"), "{hosts}");
    engine.docker(["restart", "--time", "0", "first"]).ok();
    assert_eq!(addresses(&engine, "web2", "first"), ["10.77.0.2"]);
}

#[test]
fn the_default_bridge_has_no_names_until_another_network_has() {
    let engine = engine();
    engine.docker(["network", "create", "inner"]).ok();
    serve(&engine, "web", &["--dns", "203.0.113.2"]);
    serve(&engine, "app", &["--network", "inner"]);
    assert!(file(&engine, "web", "/etc/resolv.conf").starts_with("nameserver 203.0.113.2\n"));
    assert!(
        engine.docker(["exec", "web", "ping", "-c", "1", "-W", "1", "app"]).failed().contains("bad address")
    );
    engine.docker(["network", "connect", "inner", "web"]).ok();
    assert!(file(&engine, "web", "/etc/resolv.conf").starts_with("nameserver 127.0.0.11\n"));
    assert_eq!(ask_from_container(&engine, "web", "app", 80), "hello from app");
    assert_eq!(ask_from_container(&engine, "app", "web", 80), "hello from web");
    // Whoever joins another's network has its names.
    let joined =
        engine.docker(["run", "--rm", "--network", "container:web", "busybox", "nslookup", "-type=a", "app"]);
    assert!(joined.ok().contains("Address: 172.18.0.2"));
}

#[test]
fn links_of_user_defined_networks_are_names() {
    let engine = engine();
    engine.docker(["network", "create", "--subnet", "10.77.0.0/24", "inner"]).ok();
    serve(&engine, "db", &["--network", "inner"]);
    serve(&engine, "web", &["--network", "inner", "--link", "db:store"]);
    assert_eq!(addresses(&engine, "web", "store"), ["10.77.0.2"]);
    assert_eq!(ask_from_container(&engine, "web", "store", 80), "hello from db");
    assert!(addresses(&engine, "db", "store").is_empty());
    let links = "{{json (index .NetworkSettings.Networks \"inner\").Links}}";
    assert_eq!(engine.docker(["inspect", "--format", links, "web"]).ok(), "[\"db:store\"]\n");
    engine.docker(["network", "disconnect", "inner", "web"]).ok();
    engine.docker(["network", "connect", "--link", "db:other", "inner", "web"]).ok();
    assert_eq!(addresses(&engine, "web", "other"), ["10.77.0.2"]);
    assert!(addresses(&engine, "web", "store").is_empty());
}

#[test]
fn the_host_is_called_as_asked() {
    let script = ["busybox", "cat", "/etc/hosts", "/etc/resolv.conf"];
    let hosts = |engine: &Engine, options: &[&str]| {
        engine.docker(["run", "--rm"].iter().chain(options).chain(&script).copied()).ok()
    };
    let engine = engine();
    engine.docker(["network", "create", "inner"]).ok();
    let gate = "gate:host-gateway";
    // What it is called does not depend on the network.
    let options =
        ["--network", "inner", "--hostname", "web", "--domainname", "example.com", "--add-host", gate];
    let shown = hosts(&engine, &options);
    assert!(shown.contains("172.17.0.1\tgate\n172.18.0.2\tweb.example.com web\n"), "{shown}");
    let shown = hosts(&engine, &["--network", "none", "--add-host", gate]);
    assert!(shown.contains("172.17.0.1\tgate\n"), "{shown}");
    let shown = hosts(&engine, &["--network", "host", "--add-host", gate]);
    assert!(shown.contains("172.17.0.1\tgate\n"), "{shown}");
    drop(engine);

    let engine = Engine::start_with(
        r#"{"host-gateway-ips": ["10.9.9.9", "fd00::9"], "dns": ["203.0.113.2"], "dns-search": ["lan.test"], "dns-opts": ["rotate"]}"#,
        &[],
    );
    engine.load_busybox();
    let shown = hosts(&engine, &["--add-host", gate]);
    assert!(shown.contains("10.9.9.9\tgate\nfd00::9\tgate\n"), "{shown}");
    assert!(shown.contains("nameserver 203.0.113.2\nsearch lan.test\noptions rotate\n"), "{shown}");
    let shown = hosts(&engine, &["--dns", "203.0.113.3"]);
    assert!(shown.contains("nameserver 203.0.113.3\nsearch lan.test\n"), "{shown}");
}
