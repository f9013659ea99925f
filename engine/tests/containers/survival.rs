//! Containers live longer than daemons, and daemons find them again.

use super::*;

#[test]
fn a_container_survives_its_daemon() {
    let mut engine = engine();
    let script = "trap 'exit 42' TERM; i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done";
    engine.docker(["run", "-d", "--name", "long", "busybox", "sh", "-c", script]).ok();
    engine.docker(["run", "-d", "--name", "short", "busybox", "sh", "-c", "sleep 1.5; exit 9"]).ok();
    engine.docker(["run", "-d", "--name", "keeper", "--restart", "always", "busybox", "sleep", "1.5"]).ok();
    engine.docker(["create", "--name", "fresh", "busybox", "true"]).ok();
    let before = inspect(&engine, "long");
    engine.kill();
    std::thread::sleep(Duration::from_secs(2));
    engine.launch();
    assert_eq!(status(&engine, "long"), "running");
    let after = inspect(&engine, "long");
    assert_eq!(before["State"]["Pid"], after["State"]["Pid"]);
    assert_eq!(before["NetworkSettings"]["IPAddress"], after["NetworkSettings"]["IPAddress"]);
    let short = inspect(&engine, "short")["State"].clone();
    assert_eq!((short["Status"].as_str(), short["ExitCode"].as_i64()), (Some("exited"), Some(9)));
    assert_eq!(status(&engine, "fresh"), "created");
    wait_for("a new start by the policy", || inspect(&engine, "keeper")["RestartCount"].as_i64() >= Some(1));
    let count = |engine: &Engine| engine.docker(["logs", "long"]).ok().lines().count();
    let seen = count(&engine);
    assert!(seen > 15, "{seen} lines were written while there was no daemon");
    wait_for("more lines", || count(&engine) > seen);
    let lines = engine.docker(["logs", "long"]).ok();
    assert!(lines.lines().enumerate().all(|(number, line)| line == format!("line {number}")), "{lines}");
    let mut waiter = engine.docker_command(["wait", "long"]).stdout(Stdio::piped()).spawn().unwrap();
    assert!(waiter.try_wait().unwrap().is_none(), "it runs on");
    engine.docker(["stop", "long"]).ok();
    let answer = waiter.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "42\n");
    engine.docker(["rm", "-f", "long", "short", "keeper", "fresh"]).ok();
}

#[test]
fn an_interrupted_create_and_a_lost_supervisor_are_cleared_up() {
    let mut engine = engine();
    let id =
        engine.docker(["run", "-d", "--name", "orphan", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let pid = inspect(&engine, "orphan")["State"]["Pid"].as_i64().unwrap();
    let status_file = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status_file.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    engine.kill();
    harness::run(Command::new("kill").args(["-KILL", &shim]), b"").ok();
    wait_for("the container to go with its supervisor", || {
        // Whoever has taken it over may take its time to collect it.
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    let half = engine.data_root().join("containers").join("f".repeat(64));
    fs::create_dir_all(half.join("upper")).unwrap();
    engine.launch();
    assert!(!half.exists());
    let state = inspect(&engine, "orphan")["State"].clone();
    assert_eq!((state["Status"].as_str(), state["ExitCode"].as_i64()), (Some("exited"), Some(255)));
    engine.docker(["start", "orphan"]).ok();
    assert_eq!(inspect(&engine, &id)["State"]["Running"], true);
    engine.docker(["kill", "orphan"]).ok();
    assert_eq!(inspect(&engine, &id)["State"]["ExitCode"], 137);
}

/// The ids of all processes that run as supervisors for this engine, the youngest last.
fn supervisors(engine: &Engine) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.starts_with("engine shim") && command.contains(engine.exec_root()) {
            found.extend(process.file_name().to_str().and_then(|id| id.parse::<u32>().ok()));
        }
    }
    found.sort_unstable();
    found.iter().map(u32::to_string).collect()
}

#[test]
fn a_daemon_killed_at_any_moment_finds_its_containers_again() {
    let mut engine = engine();
    for round in 0..5u64 {
        let working = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (engine, working) = (&engine, &working);
                scope.spawn(move || {
                    let mut number = 0;
                    // Whatever the daemon's end does to these commands is right.
                    while working.load(std::sync::atomic::Ordering::Relaxed) {
                        let name = format!("chaos{round}x{worker}x{number}");
                        let _ = engine.docker(["run", "-d", "--name", &name, "busybox", "sleep", "1000"]);
                        let _ = engine.docker(["stop", "-t", "0", &name]);
                        let _ = engine.docker(["start", &name]);
                        if number % 2 == 0 {
                            let _ = engine.docker(["rm", "-f", &name]);
                        }
                        number += 1;
                    }
                });
            }
            wait_for("something to be killed", || {
                let listed = engine.http("GET", "/containers/json?all=1", b"").json();
                !listed.as_array().unwrap().is_empty()
            });
            std::thread::sleep(Duration::from_millis(137 * round));
            engine.signal("KILL");
            working.store(false, std::sync::atomic::Ordering::Relaxed);
        });
        engine.kill();
        engine.launch();
        let listed = engine.http("GET", "/containers/json?all=1", b"").json();
        let running = |view: &&Value| view["State"] == "running";
        let running =
            listed.as_array().unwrap().iter().filter(running).map(|view| view["Id"].as_str().unwrap());
        let mut running: Vec<&str> = running.collect();
        running.sort_unstable();
        let pinned = engine.inside("ls", [format!("{}/netns", engine.exec_root())]).stdout;
        assert_eq!(pinned.lines().collect::<Vec<_>>(), running);
        for container in listed.as_array().unwrap() {
            let id = container["Id"].as_str().unwrap();
            let view = inspect(&engine, id);
            let state = &view["State"];
            let pid = state["Pid"].as_i64().unwrap();
            let expected = state["Status"] == "running";
            assert_eq!(pid != 0 && Path::new(&format!("/proc/{pid}")).exists(), expected, "{state}");
            if expected {
                assert_eq!(engine.docker(["exec", id, "echo", "alive"]).ok(), "alive\n");
            } else {
                engine.docker(["start", id]).ok();
            }
        }
    }
    let all = engine.docker(["ps", "-aq"]).ok();
    let ids: Vec<&str> = all.split_whitespace().collect();
    engine.docker(["rm", "-f"].into_iter().chain(ids)).ok();
    wait_for("all supervisors to end", || supervisors(&engine).is_empty());
    let left: Vec<_> = fs::read_dir(engine.data_root().join("containers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    for folder in ["containers", "netns"] {
        let left = engine.inside("ls", [format!("{}/{folder}", engine.exec_root())]).ok();
        assert_eq!(left, "", "{folder}");
    }
    let links = engine.inside("ip", ["-o", "link"]).ok();
    assert!(!links.contains("veth"), "{links}");
}

/// That a supervisor cannot be reached, for want of descriptors or whatever, does not mean that it is gone.
#[test]
fn a_container_whose_supervisor_cannot_be_reached_for_a_while_still_runs() {
    let mut engine = engine();
    let script = "trap 'exit 42' TERM; while true; do sleep 0.1; done";
    let run = ["run", "-d", "--name", "there", "--restart", "always", "busybox", "sh", "-c", script];
    let id = engine.docker(run).ok().trim().to_owned();
    let pid = inspect(&engine, "there")["State"]["Pid"].clone();
    engine.kill();
    let socket = format!("{}/containers/{id}/shim.sock", engine.exec_root());
    // A link to itself leads to an error that is neither "nothing there" nor "nobody there".
    engine.inside("mv", [&socket, &format!("{socket}.away")]).ok();
    engine.inside("ln", ["-s", "shim.sock", &socket]).ok();
    engine.launch();
    let view = inspect(&engine, "there");
    assert_eq!((view["State"]["Status"].as_str(), &view["State"]["Pid"]), (Some("running"), &pid));
    assert_eq!(view["RestartCount"], 0);
    engine.inside("mv", [&format!("{socket}.away"), &socket]).ok();
    engine.docker(["stop", "there"]).ok();
    assert_eq!(inspect(&engine, "there")["State"]["ExitCode"], 42);
}

/// However far a supervisor has come when its daemon is killed: the next daemon waits for it before it begins another, or
/// finds what it supervises.
#[test]
fn a_supervisor_that_outlives_its_daemon_while_it_comes_up_is_waited_for() {
    let mut engine = engine();
    for round in 0..12 {
        let name = format!("late{round}");
        engine.docker(["create", "--name", &name, "busybox", "sleep", "1000"]).ok();
        let before = processes();
        let mut client = engine.docker_command(["start", &name]).stderr(Stdio::null()).spawn().unwrap();
        let late = next_supervisor(engine.pid(), before);
        // It is stopped at once, or when it has done some of its work.
        std::thread::sleep(Duration::from_millis(2 * (round % 6)));
        let signal = |name: &str| harness::run(Command::new("kill").args([name, &late.to_string()]), b"");
        let _ = signal("-STOP");
        engine.kill();
        let _ = client.wait();
        engine.launch();
        let client = engine.docker_command(["start", &name]).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let _ = signal("-CONT");
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(engine.docker(["exec", &name, "echo", "alive"]).ok(), "alive\n", "round {round}");
        let expected = usize::try_from(round).unwrap() + 1;
        wait_for("one supervisor each", || supervisors(&engine).len() == expected);
    }
}

fn processes() -> BTreeSet<u32> {
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// A supervisor that `daemon` begins, as early as can be seen from outside. Before it is a program of its own it holds what
/// the daemon has open, its locks included.
fn next_supervisor(daemon: u32, mut known: BTreeSet<u32>) -> u32 {
    let begun = Instant::now();
    let mut children = Vec::new();
    while begun.elapsed() < Duration::from_secs(30) {
        for id in processes().into_iter().filter(|id| known.insert(*id)) {
            // `ID (NAME) STATE PARENT …`
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            children.extend((parent == Some(daemon)).then_some(id));
        }
        for id in &children {
            if fs::read(format!("/proc/{id}/cmdline"))
                .is_ok_and(|command| command.starts_with(b"engine\0shim\0"))
            {
                return *id;
            }
        }
    }
    panic!("no supervisor came");
}

#[test]
fn restart_policies_are_kept() {
    let engine = engine();
    let failing =
        ["run", "-d", "--name", "failing", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 5"];
    engine.docker(failing).ok();
    wait_for("two new starts", || {
        let view = inspect(&engine, "failing");
        view["State"]["Status"] == "exited" && view["RestartCount"] == 2
    });
    engine.docker(["run", "-d", "--name", "fine", "--restart", "on-failure", "busybox", "true"]).ok();
    wait_for("the end", || status(&engine, "fine") == "exited");
    engine.docker(["run", "-d", "--name", "steady", "--restart", "always", "busybox", "sleep", "0.2"]).ok();
    wait_for("several starts", || inspect(&engine, "steady")["RestartCount"].as_i64() >= Some(2));
    engine.docker(["stop", "-t", "0", "steady"]).ok();
    assert_eq!(status(&engine, "steady"), "exited");
    engine.docker(["start", "steady"]).ok();
    engine.docker(["rm", "-f", "steady"]).ok();
    let both = engine.docker(["run", "--rm", "--restart", "always", "busybox", "true"]).failed();
    assert!(both.contains("--restart and --rm") || both.contains("AutoRemove"), "{both}");
}

#[test]
fn a_container_that_is_deaf_does_not_hold_up_the_shutdown_of_the_host() {
    let mut engine = engine();
    // The first process of a container gets no signal that it does not handle.
    engine.docker(["run", "-d", "--name", "deaf", "busybox", "sleep", "1000"]).ok();
    let pid = inspect(&engine, "deaf")["State"]["Pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    engine.stop();
    harness::run(Command::new("kill").args(["-TERM", &supervisor, &pid]), b"").ok();
    wait_for("the supervisor to end", || supervisors(&engine).is_empty());
    engine.launch();
    assert_eq!(inspect(&engine, "deaf")["State"]["ExitCode"], 137);
}

#[test]
fn a_shutdown_of_the_host_ends_containers_in_order() {
    let mut engine = engine();
    let script = "trap 'echo saved; exit 0' TERM; echo ready; while true; do sleep 0.1; done";
    engine
        .docker([
            "run",
            "-d",
            "--name",
            "server",
            "--restart",
            "unless-stopped",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    wait_for("the program", || engine.docker(["logs", "server"]).ok().contains("ready"));
    let pid = inspect(&engine, "server")["State"]["Pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    // SIGTERM, SIGINT and SIGHUP, which the supervisor does not listen to.
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & (1 << 14 | 1 << 1 | 1), 0, "{status}");
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    engine.stop();
    harness::run(Command::new("kill").args(["-TERM", &supervisor, &pid]), b"").ok();
    wait_for("the supervisor to end", || supervisors(&engine).is_empty());
    let record = engine.data_root().join("containers").join(inspect_id(&engine)).join("exit.json");
    let exit: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(exit["code"], 0);
    engine.launch();
    wait_for("the new start", || {
        let text = engine.docker(["logs", "server"]).ok();
        text.matches("ready").count() == 2 && text.contains("saved")
    });
    engine.docker(["rm", "-f", "server"]).ok();
}

/// The only container's id, while no daemon can be asked.
fn inspect_id(engine: &Engine) -> String {
    let mut entries = fs::read_dir(engine.data_root().join("containers")).unwrap();
    entries.next().unwrap().unwrap().file_name().into_string().unwrap()
}
