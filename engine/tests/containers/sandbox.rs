//! The network namespaces of containers: they are there before, and go after them, whatever becomes of the daemon.

use std::os::unix::fs::MetadataExt;

use super::*;

fn folder(engine: &Engine) -> String {
    format!("{}/netns", engine.exec_root())
}

/// What is pinned, and whatever else lies there; what lies there without a namespace has a `?`.
fn pins(engine: &Engine) -> BTreeSet<String> {
    let mounts = engine.inside("cat", ["/proc/self/mountinfo"]).ok();
    let places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let folder = folder(engine);
    let listed = engine.inside("ls", [&folder]).stdout;
    let named = |name: &str| {
        let is_mounted = places.contains(&format!("{folder}/{name}").as_str());
        if is_mounted { name.to_owned() } else { format!("{name}?") }
    };
    listed.lines().map(named).collect()
}

fn ids(engine: &Engine, names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| inspect(engine, name)["Id"].as_str().unwrap().to_owned()).collect()
}

/// The number of the namespace that a file stands for.
fn number(engine: &Engine, path: &str) -> u64 {
    engine.inside("stat", ["-L", "-c", "%i", path]).ok().trim().parse().unwrap()
}

fn number_of(view: &Value) -> u64 {
    fs::metadata(format!("/proc/{}/ns/net", view["State"]["Pid"])).unwrap().ino()
}

/// The OCI configuration.
fn bundle(engine: &Engine, id: &str) -> PathBuf {
    engine.within(format!("{}/containers/{id}/config.json", engine.exec_root()))
}

fn run_on(engine: &Engine, name: &str, network: &str) -> String {
    let run = ["run", "-d", "--name", name, "--network", network, "busybox", "sleep", "1000"];
    engine.docker(run).ok().trim().to_owned()
}

fn has_cables(engine: &Engine) -> bool {
    engine.inside("ip", ["-o", "link"]).ok().contains("veth")
}

/// As hosts with systemd have it: what is mounted is passed on to mount namespaces that were made before.
fn engine_with_shared_mounts() -> Engine {
    let mut engine = Engine::prepare("{}", &[]);
    engine.inside("mount", ["--make-rshared", "/"]).ok();
    engine.launch();
    engine.load_busybox();
    engine
}

#[test]
fn whoever_joins_another_has_its_names_and_no_wishes() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "owner", "--hostname", "front", "busybox", "sleep", "1000"]).ok();
    let joined = ["run", "--rm", "--network", "container:owner", "busybox", "sh", "-c"];
    let names = engine.docker(joined.into_iter().chain(["hostname; cat /etc/hostname"])).ok();
    assert_eq!(names, "front\nfront\n");
    let refused = ["run", "--rm", "--network", "container:owner", "-p", "80:80", "busybox", "true"];
    assert!(engine.docker(refused).failed().contains("conflicting options: port publishing"));
    // Not the image is what is missing.
    for option in ["--network=container:nobody", "--pid=container:nobody", "--volumes-from=nobody"] {
        let missing = engine.docker(["run", "--rm", option, "busybox", "true"]).failed();
        assert!(
            missing.contains("No such container: nobody") && !missing.contains("Unable to find"),
            "{missing}"
        );
    }
}

#[test]
fn a_namespace_is_pinned_as_long_as_its_container_runs() {
    for engine in [engine(), engine_with_shared_mounts()] {
        pinned_as_long_as_it_runs(&engine);
    }
}

fn pinned_as_long_as_it_runs(engine: &Engine) {
    engine.docker(["network", "create", "inner"]).ok();
    for (name, network) in [("bridged", "bridge"), ("joined", "inner"), ("alone", "none")] {
        let id = run_on(engine, name, network);
        let view = inspect(engine, name);
        let key = format!("{}/{id}", folder(engine));
        let settings = &view["NetworkSettings"];
        assert_eq!((&settings["SandboxID"], &settings["SandboxKey"]), (&json!(id), &json!(key)));
        assert_eq!(number(engine, &key), number_of(&view));
        let configuration: Value = serde_json::from_slice(&fs::read(bundle(engine, &id)).unwrap()).unwrap();
        let namespaces = configuration["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({ "type": "network", "path": key })), "{namespaces:?}");
        engine.docker(["exec", name, "ping", "-c1", "-w5", "127.0.0.1"]).ok();
    }
    let own = ids(engine, &["bridged", "joined", "alone"]);
    run_on(engine, "hosted", "host");
    run_on(engine, "guest", "container:bridged");
    assert_eq!(pins(engine), own);
    let key = |name: &str| inspect(engine, name)["NetworkSettings"]["SandboxKey"].clone();
    let hosted = inspect(engine, "hosted");
    assert_eq!(key("hosted"), format!("/proc/{}/ns/net", hosted["State"]["Pid"]));
    assert_eq!(key("guest"), "");
    assert_eq!(number_of(&inspect(engine, "guest")), number_of(&inspect(engine, "bridged")));
    // The daemon is where it was, with every thread.
    for thread in fs::read_dir(format!("/proc/{}/task", engine.pid())).unwrap() {
        let namespace = fs::metadata(thread.unwrap().path().join("ns/net"));
        assert!(namespace.map_or(true, |namespace| namespace.ino() == number_of(&hosted)));
    }
    // Nor do supervising processes have copies of what is mounted there, which would be as many as containers have others.
    for name in ["bridged", "joined", "alone", "hosted", "guest"] {
        let status =
            fs::read_to_string(format!("/proc/{}/status", inspect(engine, name)["State"]["Pid"])).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
        let mounts = || fs::read_to_string(format!("/proc/{parent}/mountinfo")).unwrap();
        wait_for("the copies to go", || !mounts().contains(&folder(engine)));
    }
    // Another network, by the pin.
    engine.docker(["network", "connect", "inner", "bridged"]).ok();
    for name in ["bridged", "guest"] {
        engine.docker(["exec", name, "ping", "-c1", "-w5", "joined"]).ok();
    }
    engine.docker(["network", "disconnect", "bridge", "bridged"]).ok();
    assert!(engine.docker(["exec", "bridged", "ip", "route"]).ok().contains("default"));
    // The other end of a cable goes with the namespace that it leads to, and never before. Who began later holds nothing of it.
    let bridged = key("bridged").as_str().unwrap().to_owned();
    let probe = ["link", "add", "probe", "type", "veth", "peer", "name", "inside", "netns", &bridged];
    engine.inside("ip", probe).ok();
    run_on(engine, "later", "none");
    let is_there = || engine.inside("ip", ["-o", "link"]).ok().contains("probe");
    engine.docker(["rm", "-f", "bridged"]).ok();
    assert!(is_there(), "the guest is still in it");
    engine.docker(["rm", "-f", "guest"]).ok();
    wait_for("the end of the namespace", || !is_there());
    assert_eq!(pins(engine), ids(engine, &["joined", "alone", "later"]));
    // Stopped and started again, by a client and by a policy.
    engine.docker(["stop", "-t", "0", "joined"]).ok();
    assert_eq!(pins(engine), ids(engine, &["alone", "later"]));
    assert_eq!((key("joined"), status(engine, "joined")), (json!(""), "exited".to_owned()));
    engine.docker(["start", "joined"]).ok();
    engine.docker(["restart", "-t", "0", "joined"]).ok();
    engine.docker(["run", "-d", "--name", "steady", "--restart", "always", "busybox", "sleep", "0.2"]).ok();
    wait_for("several starts", || inspect(engine, "steady")["RestartCount"].as_i64() >= Some(2));
    engine.docker(["stop", "-t", "0", "steady"]).ok();
    assert_eq!(pins(engine), ids(engine, &["joined", "alone", "later"]));
    engine.docker(["exec", "joined", "ping", "-c1", "-w5", "127.0.0.1"]).ok();
    engine.docker(["rm", "-f", "joined", "alone", "later", "hosted", "steady"]).ok();
    assert_eq!(pins(engine), BTreeSet::new());
    wait_for("the end of all cables", || !has_cables(engine));
}

#[test]
fn a_start_that_fails_leaves_no_namespace() {
    let engine = engine();
    engine.docker(["network", "create", "--subnet", "10.77.0.0/24", "inner"]).ok();
    engine.inside("sh", ["-c", "busybox nc -ll -p 8080 -e true >/dev/null 2>&1 &"]).ok();
    for options in [
        &["busybox", "nosuch"][..],
        &["--network", "none", "busybox", "nosuch"],
        &["--network", "inner", "--ip", "10.77.0.1", "busybox", "true"],
        &["-p", "8080:80", "busybox", "true"],
        &["--sysctl", "net.ipv4.nosuch=1", "busybox", "true"],
        &["--rm", "busybox", "nosuch"],
    ] {
        engine.docker(["run", "--name", "failing"].iter().chain(options)).failed();
        assert_eq!(pins(&engine), BTreeSet::new(), "{options:?}");
        wait_for("the end of its cable", || !has_cables(&engine));
        if !options.contains(&"--rm") {
            engine.docker(["rm", "failing"]).ok();
        }
    }
    assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
    // Whatever has kept one there goes with the container.
    let id = engine.docker(["create", "busybox", "true"]).ok().trim().to_owned();
    let script =
        format!("cd {} && touch {id} && unshare --net mount --bind /proc/self/ns/net {id}", folder(&engine));
    engine.inside("sh", ["-ec", &script]).ok();
    assert_eq!(pins(&engine), BTreeSet::from([id.clone()]));
    engine.docker(["rm", &id]).ok();
    assert_eq!(pins(&engine), BTreeSet::new());
}

/// It may do what it likes: its networks are in the namespace that was made for it.
#[test]
fn a_process_that_leaves_its_namespace_leads_nobody_along() {
    let engine = engine();
    engine.docker(["network", "create", "inner"]).ok();
    let leaves = ["busybox", "unshare", "-n", "sleep", "1000"];
    engine.docker(["run", "-d", "--privileged", "--name", "away"].iter().chain(&leaves)).ok();
    let view = || inspect(&engine, "away");
    let key = view()["NetworkSettings"]["SandboxKey"].as_str().unwrap().to_owned();
    let made = number(&engine, &key);
    wait_for("it to leave", || number_of(&view()) != made);
    engine.docker(["network", "connect", "inner", "away"]).ok();
    let option = format!("--net={key}");
    assert!(engine.inside("nsenter", [option.as_str(), "ip", "-o", "link"]).ok().contains("eth1"));
    run_on(&engine, "guest", "container:away");
    assert_eq!(number_of(&inspect(&engine, "guest")), made);
    engine.docker(["network", "disconnect", "inner", "away"]).ok();
    engine.docker(["rm", "-f", "guest", "away"]).ok();
    assert_eq!(pins(&engine), BTreeSet::new());
}

#[test]
fn what_a_killed_daemon_leaves_is_unpinned_by_the_next_one() {
    let mut engine = engine();
    let [stays, ends, torn] = ["stays", "ends", "torn"].map(|name| run_on(&engine, name, "bridge"));
    let pid = inspect(&engine, "ends")["State"]["Pid"].to_string();
    engine.kill();
    harness::run(Command::new("kill").args(["-KILL", &pid]), b"").ok();
    let record = engine.data_root().join("containers").join(&torn).join("config.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, "{").unwrap();
    // A start that was broken off before and after the mount, and what is nobody's here.
    let [before, after] = ["e", "f"].map(|digit| digit.repeat(64));
    let script = format!(
        "cd {} && touch {before} {after} notes && unshare --net mount --bind /proc/self/ns/net {after}",
        folder(&engine)
    );
    engine.inside("sh", ["-ec", &script]).ok();
    let exit = engine.data_root().join("containers").join(&ends).join("exit.json");
    wait_for("the end on record", || exit.exists());
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let unfinished = format!("{before}?");
    assert_eq!(pins(&engine), named(&[&stays, &ends, &torn, &unfinished, &after, "notes?"]));
    engine.launch();
    wait_for("the end", || status(&engine, "ends") == "exited");
    wait_for("the last pin", || pins(&engine) == named(&[&stays, &torn, "notes?"]));
    engine.docker(["exec", "stays", "ping", "-c1", "-w5", "172.17.0.1"]).ok();
    // It is found again with its record.
    engine.kill();
    fs::write(&record, whole).unwrap();
    engine.launch();
    engine.docker(["network", "create", "inner"]).ok();
    for name in ["stays", "torn"] {
        engine.docker(["network", "connect", "inner", name]).ok();
    }
    engine.docker(["exec", "torn", "ping", "-c1", "-w5", "stays"]).ok();
    engine.docker(["rm", "-f", "stays", "torn", "ends"]).ok();
    assert_eq!(pins(&engine), named(&["notes?"]));
}

/// An engine of before there were pins has started it, or has started it anew, so that what is pinned is of an earlier run.
#[test]
fn a_container_that_has_no_pin_is_reached_by_its_process() {
    let mut engine = engine();
    engine.docker(["network", "create", "inner"]).ok();
    for is_stale in [false, true] {
        let id = run_on(&engine, "old", "bridge");
        let before = inspect(&engine, "old");
        assert_eq!(before["NetworkSettings"]["SandboxKey"], format!("{}/{id}", folder(&engine)));
        engine.kill();
        let path = engine.data_root().join("containers").join(&id).join("state.json");
        let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(state.as_object_mut().unwrap().remove("pinned"), Some(json!(true)));
        fs::write(&path, state.to_string()).unwrap();
        let path = bundle(&engine, &id);
        let mut configuration: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for namespace in configuration["linux"]["namespaces"].as_array_mut().unwrap() {
            namespace.as_object_mut().unwrap().remove("path");
        }
        fs::write(&path, configuration.to_string()).unwrap();
        let mut script = format!("cd {} && umount {id} && rm {id}", folder(&engine));
        if is_stale {
            script += &format!("&& touch {id} && unshare --net mount --bind /proc/self/ns/net {id}");
        }
        engine.inside("sh", ["-ec", &script]).ok();
        engine.launch();
        let view = inspect(&engine, "old");
        assert_eq!(number_of(&view), number_of(&before));
        assert_eq!(view["NetworkSettings"]["SandboxKey"], format!("/proc/{}/ns/net", view["State"]["Pid"]));
        engine.docker(["network", "connect", "inner", "old"]).ok();
        let guest = ["run", "--rm", "--network", "container:old", "busybox", "ip", "-o", "link"];
        assert!(engine.docker(guest).ok().contains("eth1"));
        engine.docker(["network", "disconnect", "bridge", "old"]).ok();
        assert!(engine.docker(["exec", "old", "ip", "route"]).ok().contains("default"));
        // From its next start on it has one.
        engine.docker(["restart", "-t", "0", "old"]).ok();
        assert_eq!(pins(&engine), BTreeSet::from([id]));
        engine.docker(["rm", "-f", "old"]).ok();
        assert_eq!(pins(&engine), BTreeSet::new());
    }
}

/// Settings of the network are applied when the interfaces are there, as by dockerd.
#[test]
fn settings_of_a_network_reach_its_interfaces() {
    let engine = engine();
    let read = "cd /proc/sys/net; cat ipv4/conf/eth0/arp_ignore ipv4/ip_default_ttl ipv6/conf/eth0/disable_ipv6 \\
        ipv4/ip_unprivileged_port_start";
    for (options, expected) in [
        (&["--sysctl", "net.ipv4.conf.eth0.arp_ignore=1"][..], "1 64 1 0"),
        (&["--init", "--sysctl", "net.ipv4.ip_default_ttl=33"], "0 33 1 0"),
        (&["--privileged", "--sysctl", "net.ipv6.conf.eth0.disable_ipv6=0"], "0 64 0 1024"),
    ] {
        let command = ["busybox", "sh", "-c", read];
        let said = engine.docker(["run", "--rm"].iter().chain(options).chain(&command)).ok();
        assert_eq!(said.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{options:?}");
    }
    // However many there are.
    let networks: Vec<String> = (0..12).map(|number| format!("net{number}")).collect();
    for network in &networks {
        engine.docker(["network", "create", network]).ok();
    }
    let endpoints: BTreeMap<&str, Value> = networks.iter().map(|name| (name.as_str(), json!({}))).collect();
    let host = json!({ "NetworkMode": "net0", "Sysctls": { "net.ipv4.conf.eth11.arp_ignore": "1" } });
    let body = json!({
        "Image": "busybox", "Cmd": ["cat", "/proc/sys/net/ipv4/conf/eth11/arp_ignore"], "HostConfig": host,
        "NetworkingConfig": { "EndpointsConfig": endpoints }
    });
    create(&engine, "many", &body);
    assert_eq!(engine.docker(["start", "-a", "many"]).ok(), "1\n");
    assert_eq!(pins(&engine), BTreeSet::new());
}

/// Beside the engine that `ENGINE_TO_MEASURE` names, or beside itself.
#[test]
#[ignore = "prints how long starts take"]
fn starts() {
    let other = std::env::var_os("ENGINE_TO_MEASURE");
    let engines: Vec<Engine> = (0..2)
        .map(|number| {
            let mut engine = Engine::prepare("{}", &[]);
            if let Some(program) = other.as_ref().filter(|_| number == 1) {
                engine.program = program.into();
            }
            engine.launch();
            engine.load_busybox();
            engine
        })
        .collect();
    for network in ["none", "bridge", "host"] {
        let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for number in 0..60 {
            let host = json!({ "NetworkMode": network });
            let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host });
            for (which, engine) in engines.iter().enumerate() {
                let id = create(engine, &format!("{network}{number}"), &body);
                std::thread::sleep(Duration::from_millis(100));
                for (what, path) in
                    [format!("/containers/{id}/start"), format!("/containers/{id}/kill")].iter().enumerate()
                {
                    let begun = Instant::now();
                    assert_eq!(post(engine, path), 204);
                    times[which + 2 * what].push(begun.elapsed());
                }
            }
        }
        for (times, what) in times.iter_mut().zip(["start, own", "start, other", "kill, own", "kill, other"])
        {
            times.sort();
            println!("{network}: {what}: best {:?}, a sixth {:?}, half {:?}", times[0], times[10], times[30]);
        }
    }
}
