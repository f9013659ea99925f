//! Links on the default bridge, as Docker had them before it had networks.

use super::*;

#[test]
fn links_of_the_default_bridge_are_lines_and_variables() {
    let mut engine = engine();
    serve(&engine, "db", &["--expose", "5432", "--env", "USER=me"]);
    serve(&engine, "web", &["--link", "db:store", "--env", "STORE_ENV_USER=mine"]);
    let inside = |engine: &Engine, script: &str| engine.docker(["exec", "web", "sh", "-c", script]).ok();
    let id = engine.docker(["inspect", "--format", "{{.Id}}", "db"]).ok();
    let line = format!("172.17.0.2\tstore {} db\n", &id[..12]);
    assert!(inside(&engine, "cat /etc/hosts").contains(&line), "{}", inside(&engine, "cat /etc/hosts"));
    assert_eq!(ask_from_container(&engine, "web", "store", 80), "hello from db");
    let variables = "STORE_ENV_USER=mine\nSTORE_NAME=/web/store\nSTORE_PORT=tcp://172.17.0.2:5432\n\
        STORE_PORT_5432_TCP=tcp://172.17.0.2:5432\nSTORE_PORT_5432_TCP_ADDR=172.17.0.2\nSTORE_PORT_5432_TCP_PORT=5432\n\
        STORE_PORT_5432_TCP_PROTO=tcp\n";
    // The first process has the same as one that joins it.
    assert_eq!(inside(&engine, "env | grep STORE | sort"), variables);
    assert_eq!(inside(&engine, "tr '\\0' '\\n' < /proc/1/environ | grep STORE | sort"), variables);
    let links = ["inspect", "--format", "{{json .HostConfig.Links}}", "web"];
    assert_eq!(engine.docker(links).ok(), "[\"/db:/web/store\"]\n");

    // It is the container that is meant, whatever it is called by now and wherever it is.
    engine.docker(["rename", "db", "base"]).ok();
    assert_eq!(engine.docker(links).ok(), "[\"/base:/web/store\"]\n");
    engine.docker(["stop", "--time", "0", "base"]).ok();
    let said = engine.docker(["restart", "--time", "0", "web"]).failed();
    assert!(said.contains("Cannot link to a non running container: /base AS /web/store"), "{said}");
    serve(&engine, "other", &[]);
    engine.docker(["start", "base"]).ok();
    engine.docker(["start", "web"]).ok();
    engine.kill();
    engine.launch();
    engine.docker(["stop", "--time", "0", "base"]).ok();
    serve(&engine, "another", &[]);
    engine.docker(["start", "base"]).ok();
    let address = engine.docker(["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "base"]).ok();
    let line = format!("{}\tstore {} base\n", address.trim(), &id[..12]);
    wait_for("the new address", || inside(&engine, "cat /etc/hosts").contains(&line));
    assert_eq!(inside(&engine, "grep -c store /etc/hosts"), "1\n");

    engine.docker(["rm", "--link", "/web/store"]).ok();
    assert_eq!(engine.docker(links).ok(), "null\n");
    let said = engine.docker(["rm", "--link", "web/store"]).failed();
    assert!(said.contains("No such link: web/store"), "{said}");
    let said = engine.docker(["create", "--link", "nobody", "busybox"]).failed();
    assert!(said.contains("could not get container for nobody"), "{said}");
    let said = engine.docker(["create", "--network", "none", "--link", "base", "busybox"]).failed();
    assert!(said.contains("`HostConfig.Links` (`--link`)"), "{said}");
}
