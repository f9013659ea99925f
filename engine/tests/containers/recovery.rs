//! What the engine keeps on disk may be torn by a power cut or a failing disk: nothing is lost that is not torn itself.

use super::*;

fn tear(path: &Path) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

fn record(engine: &Engine, container: &str, file: &str) -> PathBuf {
    let id = inspect(engine, container)["Id"].as_str().unwrap().to_owned();
    engine.data_root().join("containers").join(id).join(file)
}

/// What `docker info` warns of.
fn warnings(engine: &Engine) -> String {
    engine.http("GET", "/info", b"").json()["Warnings"].to_string()
}

#[test]
fn torn_descriptions_of_layers_take_no_image_away() {
    let mut engine = engine();
    engine.docker(["run", "-d", "--name", "running", "busybox", "sleep", "1000"]).ok();
    engine.docker(["run", "--name", "stopped", "busybox", "true"]).ok();
    engine.kill();
    for layer in fs::read_dir(engine.data_root().join("images/layers")).unwrap() {
        tear(&layer.unwrap().path().join("layer.json"));
    }
    engine.launch();
    assert_eq!(engine.docker(["exec", "running", "echo", "alive"]).ok(), "alive\n");
    engine.docker(["start", "-a", "stopped"]).ok();
    assert_eq!(engine.docker(["run", "--rm", "busybox", "echo", "new"]).ok(), "new\n");
    assert!(warnings(&engine).contains("layer.json"), "{}", warnings(&engine));
}

#[test]
fn a_torn_state_does_not_stop_what_is_to_run() {
    let mut engine = engine();
    engine.docker(["run", "-d", "--name", "running", "-p", "8081:80", "busybox", "sleep", "1000"]).ok();
    engine.docker(["run", "-d", "--name", "keeper", "--restart", "always", "busybox", "sleep", "1000"]).ok();
    engine.docker(["create", "--name", "fresh", "--restart", "always", "busybox", "sleep", "1000"]).ok();
    let before = inspect(&engine, "running");
    let states: Vec<PathBuf> =
        ["running", "keeper", "fresh"].iter().map(|name| record(&engine, name, "state.json")).collect();
    let pid = inspect(&engine, "keeper")["State"]["Pid"].as_i64().unwrap();
    engine.kill();
    harness::run(Command::new("kill").args(["-KILL", &pid.to_string()]), b"").ok();
    for state in &states {
        tear(state);
    }
    engine.launch();
    let after = inspect(&engine, "running");
    assert_eq!(after["State"]["Status"], "running");
    assert_eq!(before["State"]["Pid"], after["State"]["Pid"]);
    for key in ["IPAddress", "Ports", "SandboxKey"] {
        assert_eq!(before["NetworkSettings"][key], after["NetworkSettings"][key]);
    }
    wait_for("what always runs", || status(&engine, "keeper") == "running");
    assert_eq!(status(&engine, "fresh"), "created");
    assert!(warnings(&engine).matches("state.json").count() == 3, "{}", warnings(&engine));
    engine.docker(["stop", "-t", "0", "running"]).ok();
    engine.docker(["start", "running"]).ok();
}

#[test]
fn a_container_whose_record_is_torn_keeps_everything() {
    let mut engine = engine();
    let script = "echo kept > /data/file; echo kept > /own";
    engine.docker(["run", "--name", "torn", "-v", "/data", "busybox", "sh", "-c", script]).ok();
    engine.docker(["run", "--name", "lost", "busybox", "touch", "/own"]).ok();
    let path = record(&engine, "torn", "config.json");
    let lost = record(&engine, "lost", "config.json");
    let volume = inspect(&engine, "torn")["Mounts"][0]["Source"].as_str().unwrap().to_owned();
    engine.kill();
    let whole = fs::read(&path).unwrap();
    tear(&path);
    fs::remove_file(&lost).unwrap();
    engine.launch();
    assert!(engine.docker(["volume", "prune", "-f"]).failed().contains("record cannot be read"));
    engine.docker(["image", "prune", "-af"]).ok();
    assert!(warnings(&engine).contains(path.parent().unwrap().to_str().unwrap()), "{}", warnings(&engine));
    assert!(lost.with_file_name("upper").join("own").exists(), "what was written stays");
    engine.kill();
    fs::write(&path, whole).unwrap();
    fs::remove_dir_all(lost.parent().unwrap()).unwrap();
    engine.launch();
    assert_eq!(fs::read_to_string(Path::new(&volume).join("file")).unwrap(), "kept\n");
    engine.docker(["start", "-a", "torn"]).ok();
    engine.docker(["volume", "prune", "-f"]).ok();
}

#[test]
fn an_interrupted_rm_does_not_take_volumes_that_were_to_stay() {
    let mut engine = engine();
    for name in ["one", "both"] {
        engine.docker(["run", "--name", name, "-v", "/data", "busybox", "true"]).ok();
    }
    let volumes =
        ["one", "both"].map(|name| inspect(&engine, name)["Mounts"][0]["Name"].as_str().unwrap().to_owned());
    let states = ["one", "both"].map(|name| record(&engine, name, "state.json"));
    engine.kill();
    for (path, with_volumes) in states.iter().zip([false, true]) {
        let mut state: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        state["status"] = "removing".into();
        if with_volumes {
            state["with_volumes"] = true.into();
        }
        fs::write(path, state.to_string()).unwrap();
    }
    engine.launch();
    assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
    let left = engine.docker(["volume", "ls", "-q"]).ok();
    assert_eq!(left.trim(), volumes[0], "{volumes:?}");
}

/// The ends of cables that are plugged into bridges.
fn cables(engine: &Engine) -> Vec<String> {
    let links = engine.inside("ip", ["-o", "link"]).ok();
    let names =
        links.lines().filter_map(|line| line.split(": ").nth(1)).filter(|name| name.starts_with("veth"));
    names.map(|name| name.split('@').next().unwrap().to_owned()).collect()
}

#[test]
fn a_running_container_whose_record_is_torn_stays_connected() {
    let mut engine = engine();
    engine.docker(["run", "-d", "--name", "torn", "-v", "shared:/data", "busybox", "sleep", "1000"]).ok();
    engine.docker(["run", "--name", "other", "-v", "/own", "busybox", "true"]).ok();
    let other = inspect(&engine, "other")["Mounts"][0]["Source"].as_str().unwrap().to_owned();
    let path = record(&engine, "torn", "config.json");
    let pid = inspect(&engine, "torn")["State"]["Pid"].as_i64().unwrap();
    let before = cables(&engine);
    assert_eq!(before.len(), 1);
    engine.kill();
    let whole = fs::read(&path).unwrap();
    tear(&path);
    // Nor does it matter what else lies there.
    fs::write(path.parent().unwrap().with_file_name("notes.txt"), "").unwrap();
    engine.launch();
    assert_eq!(cables(&engine), before);
    engine.docker(["rm", "-v", "other"]).ok();
    assert!(Path::new(&other).exists(), "it may be the other container's as well");
    assert!(engine.docker(["rmi", "-f", "busybox"]).failed().contains("record cannot be read"));
    assert!(engine.docker(["volume", "rm", "shared"]).failed().contains("record cannot be read"));
    engine.kill();
    fs::write(&path, whole).unwrap();
    engine.launch();
    let after = inspect(&engine, "torn");
    assert_eq!((after["State"]["Pid"].as_i64(), cables(&engine)), (Some(pid), before));
    engine.docker(["volume", "rm", "shared"]).failed();
}

/// The disk fills up, and is empty again later.
#[test]
fn a_full_disk_costs_lines_of_a_log_and_nothing_else() {
    let mut engine = Engine::prepare("{}", &[]);
    let data = engine.data_root();
    fs::create_dir(&data).unwrap();
    engine.inside("mount", ["-t", "tmpfs", "-o", "size=24m", "data", data.to_str().unwrap()]).ok();
    engine.launch();
    engine.load_busybox();
    let script = "echo before; dd if=/dev/zero of=/fill bs=4k 2>/dev/null; i=0
        while [ $i -lt 30000 ]; do echo a line that is lost, number $i; i=$((i+1)); done
        rm /fill; echo after; sleep 1000";
    engine.docker(["run", "-d", "--name", "writer", "busybox", "sh", "-c", script]).ok();
    wait_for("the last line", || engine.docker(["logs", "--tail", "1", "writer"]).ok() == "after\n");
    let id = inspect(&engine, "writer")["Id"].as_str().unwrap().to_owned();
    let path = data.join("containers").join(&id).join(format!("{id}-json.log"));
    let log = engine.inside("cat", [path.to_str().unwrap()]).ok();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line:.200}")))
        .collect();
    assert!(lines.len() < 30_000, "the disk was not full");
    assert_eq!((&lines[0]["log"], &lines[lines.len() - 1]["log"]), (&json!("before\n"), &json!("after\n")));
    // What is said of it lies in memory.
    let said = engine.inside("du", ["-sk", engine.exec_root()]).ok();
    let kilobytes: u64 = said.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kilobytes < 200, "{said}");
}

#[test]
fn torn_networks_cut_nobody_off() {
    // Of what was written about the networks alone, and of who is on them as well: then containers know it themselves.
    for files in [&["networks.json"][..], &["networks.json", "endpoints.json"]] {
        let mut engine = engine();
        let create = ["network", "create", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.9"];
        engine.docker(create.iter().chain(&["-o", "com.docker.network.bridge.name=odd0", "mine"])).ok();
        engine.docker(["network", "create", "--internal", "unused"]).ok();
        engine
            .docker(["run", "-d", "--name", "running", "--network", "mine", "busybox", "sleep", "1000"])
            .ok();
        let command = ["busybox", "nc", "-ll", "-p", "80", "-e", "echo", "served"];
        engine.docker(["run", "-d", "--name", "web", "-p", "8082:80"].iter().chain(&command)).ok();
        let seen = |engine: &Engine| {
            let settings = ["running", "web"].map(|name| inspect(engine, name)["NetworkSettings"].clone());
            let known = ["mine", "bridge"].map(|name| {
                let network = engine.http("GET", &format!("/networks/{name}"), b"").json();
                (network["Id"].clone(), network["IPAM"].clone(), network["Containers"].clone())
            });
            (cables(engine), settings, known)
        };
        let before = seen(&engine);
        engine.kill();
        for file in files {
            tear(&engine.data_root().join("network").join(file));
        }
        engine.launch();
        assert_eq!(seen(&engine), before, "{files:?}");
        assert!(warnings(&engine).contains("networks.json"), "{}", warnings(&engine));
        let address = "busybox nc -w 5 127.0.0.1 8082 </dev/null";
        assert_eq!(engine.inside("sh", ["-c", address]).ok(), "served\n");
        let more = ["run", "--rm", "--network", "mine", "busybox", "ping", "-c1", "-w5", "running"];
        engine.docker(more).ok();
        engine.docker(["restart", "-t", "0", "running"]).ok();
        // What was made anew stays.
        engine.kill();
        engine.launch();
        assert_eq!(engine.docker(["network", "ls", "-qf", "name=mine"]).ok().lines().count(), 1);
        engine.docker(["exec", "running", "ping", "-c1", "-w5", "10.77.0.9"]).ok();
    }
}

#[test]
fn an_image_that_cannot_be_read_can_be_removed() {
    let mut engine = engine();
    let id = engine.docker(["images", "-q", "--no-trunc", "busybox"]).ok();
    engine.docker(["create", "--name", "user", "busybox", "true"]).ok();
    engine.kill();
    let config = format!("{}.json", id.trim().trim_start_matches("sha256:"));
    tear(&engine.data_root().join("images/configs").join(config));
    engine.launch();
    assert!(engine.docker(["rmi", "-f", "busybox"]).failed().contains("is being used by container"));
    engine.docker(["rm", "user"]).ok();
    engine.docker(["rmi", "busybox"]).ok();
    engine.kill();
    engine.launch();
    assert_eq!(fs::read_dir(engine.data_root().join("images/layers")).unwrap().count(), 0);
}

/// Engines before health checks kept whatever a client had said of them.
#[test]
fn a_record_with_a_health_check_that_makes_no_sense_is_understood() {
    let mut engine = engine();
    let checks =
        [json!({ "Test": "x" }), json!({ "Interval": 1.5 }), json!({ "Retries": "3" }), json!("none")];
    for number in 0..checks.len() {
        let name = format!("old{number}");
        engine.docker(["run", "--name", &name, "busybox", "echo", "ran"]).ok();
    }
    let records: Vec<PathBuf> =
        (0..checks.len()).map(|number| record(&engine, &format!("old{number}"), "config.json")).collect();
    engine.kill();
    for (path, check) in records.iter().zip(&checks) {
        let mut kept: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        kept["config"]["Healthcheck"] = check.clone();
        fs::write(path, kept.to_string()).unwrap();
    }
    engine.launch();
    for number in 0..checks.len() {
        let name = format!("old{number}");
        assert_eq!(engine.docker(["start", "-a", &name]).ok(), "ran\n");
        assert!(inspect(&engine, &name)["State"].get("Health").is_none(), "{name}");
    }
    assert_eq!(engine.http("GET", "/info", b"").json()["Containers"], checks.len());
    // Who asks for one now is told.
    let body = json!({ "Image": "busybox", "Healthcheck": checks[0] }).to_string();
    assert_eq!(engine.http("POST", "/containers/create", body.as_bytes()).status, 400);
}

/// What a volume is made of may be far away: its own folder is no stand-in for it.
#[test]
fn a_volume_whose_record_is_torn_is_not_taken_for_an_empty_one() {
    let mut engine = engine();
    let folder = engine.path("far");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "far\n").unwrap();
    let device = format!("device={}", folder.display());
    let bind = ["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device];
    engine.docker(bind.iter().chain(&["named"])).ok();
    engine.docker(bind.iter().chain(&["held"])).ok();
    engine.docker(bind.iter().chain(&["idle"])).ok();
    engine.docker(["run", "--name", "user", "-v", "named:/v", "busybox", "cat", "/v/file"]).ok();
    let mount =
        format!("type=volume,src=asked,dst=/v,volume-opt=type=none,volume-opt=o=bind,volume-opt={device}");
    engine.docker(["run", "--name", "asker", "--mount", &mount, "busybox", "cat", "/v/file"]).ok();
    let full = [
        "run",
        "--name",
        "plain",
        "-v",
        "full:/v",
        "busybox",
        "sh",
        "-c",
        "cat /v/file || echo own > /v/file",
    ];
    engine.docker(full).ok();
    engine.docker(["run", "-d", "--name", "holder", "-v", "held:/v", "busybox", "sleep", "1000"]).ok();
    engine.kill();
    for volume in ["named", "asked", "full", "held", "idle"] {
        tear(&engine.data_root().join("volumes").join(volume).join("volume.json"));
    }
    for _ in 0..2 {
        engine.launch();
        let said = engine.docker(["start", "-a", "user"]).failed();
        assert!(said.contains("named") && said.contains("docker volume create"), "{said}");
        // The container itself knows what it has asked for, and what holds files is a folder of its own.
        assert_eq!(engine.docker(["start", "-a", "asker"]).ok(), "far\n");
        assert_eq!(engine.docker(["start", "-a", "plain"]).ok(), "own\n");
        // It is mounted, and stays so for as long as it is used.
        assert_eq!(
            engine.docker(["run", "--rm", "-v", "held:/v", "busybox", "cat", "/v/file"]).ok(),
            "far\n"
        );
        assert_eq!(engine.docker(["exec", "holder", "cat", "/v/file"]).ok(), "far\n");
        engine.docker(["volume", "prune", "--all", "--force"]).ok();
        let volumes = engine.docker(["volume", "ls", "--quiet"]).ok();
        assert_eq!(volumes, "asked\nfull\nheld\nidle\nnamed\n");
        let told = warnings(&engine);
        for volume in ["full", "held", "idle", "named"] {
            assert!(told.contains(&format!("volumes/{volume}/volume.json")), "{told}");
        }
        engine.kill();
    }
    engine.launch();
    engine.docker(bind.iter().chain(&["named"])).ok();
    assert_eq!(engine.docker(["start", "-a", "user"]).ok(), "far\n");
    engine.docker(["rm", "user"]).ok();
    engine.docker(["volume", "rm", "named", "idle"]).ok();
    assert!(folder.join("file").exists());
}
