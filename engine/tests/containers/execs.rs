//! Further processes in a container: they are its supervising process's, not the daemon's.

use std::sync::{Arc, Mutex};

use super::*;

/// Makes an exec of a container and lets it begin.
fn begin(engine: &Engine, container: &str, script: &str) -> String {
    let body = json!({ "Cmd": ["sh", "-c", script], "Tty": true, "User": "nobody" }).to_string();
    let made = engine.http("POST", &format!("/containers/{container}/exec"), body.as_bytes()).json();
    let id = made["Id"].as_str().unwrap().to_owned();
    let started = engine.http("POST", &format!("/exec/{id}/start"), b"{\"Detach\": true}");
    assert_eq!(started.status, 200, "{}", started.text());
    id
}

fn describe(engine: &Engine, exec: &str) -> Value {
    engine.http("GET", &format!("/exec/{exec}/json"), b"").json()
}

/// A number in what the kernel tells of a process.
fn told(pid: i64, name: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
}

fn children(pid: i64) -> Vec<i64> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Their folders, and what the runtime makes for them in those of containers.
fn left_of_execs(engine: &Engine) -> String {
    let folder = format!("{}/containers", engine.exec_root());
    engine.inside("find", [folder.as_str(), "-name", "exec-*", "-o", "-name", "tenant-*"]).ok()
}

#[test]
fn execs_outlive_the_daemon() {
    let mut engine = engine();
    let container = engine.docker(["run", "-d", "--name", "host", "busybox", "sleep", "1000"]).ok();
    let container = container.trim();
    let inside = format!("/proc/{}/root/tmp", inspect(&engine, "host")["State"]["Pid"]);
    let until = |file: &str, code: u8| format!("until [ -e /tmp/{file} ]; do sleep 0.1; done; exit {code}");
    let (lasting, brief) =
        (begin(&engine, "host", &until("late", 7)), begin(&engine, "host", &until("soon", 5)));
    let before = describe(&engine, &lasting);
    assert_eq!(before["Running"], true);
    // Made, and never begun.
    let idle = engine.http("POST", "/containers/host/exec", b"{\"Cmd\": [\"true\"]}").json();
    engine.kill();
    fs::write(format!("{inside}/soon"), "").unwrap();
    let folder = engine.within(Path::new(engine.exec_root()).join("containers").join(container));
    wait_for("its exit", || folder.join(format!("exec-{}/exit.json", &brief[..16])).exists());
    engine.launch();

    let ended = describe(&engine, &brief);
    assert_eq!((&ended["Running"], &ended["ExitCode"]), (&json!(false), &json!(5)));
    wait_for("the other one", || describe(&engine, &lasting) == before);
    for exec in [&brief, &lasting] {
        assert_eq!(engine.http("POST", &format!("/exec/{exec}/start"), b"{\"Detach\": true}").status, 409);
    }
    assert_eq!(inspect(&engine, "host")["ExecIDs"], json!([lasting]));
    let idle = idle["Id"].as_str().unwrap();
    assert_eq!(engine.http("GET", &format!("/exec/{idle}/json"), b"").status, 404);
    assert_eq!(engine.http("POST", &format!("/exec/{lasting}/resize?h=10&w=20"), b"").status, 200);
    fs::write(format!("{inside}/late"), "").unwrap();
    wait_for("its end", || describe(&engine, &lasting)["Running"] == false);
    assert_eq!(describe(&engine, &lasting)["ExitCode"], 7);
    for (exec, code) in [(&brief, 5), (&lasting, 7)] {
        wait_for("its event", || {
            let ends = ["events", "--since", "5m", "--until", "0s", "--filter", "event=exec_die"];
            let is_its =
                |line: &str| line.contains(exec.as_str()) && line.contains(&format!("exitCode={code}"));
            engine.docker(ends).ok().lines().any(is_its)
        });
    }
    wait_for("nothing to be left", || left_of_execs(&engine).is_empty());
    assert_eq!(engine.docker(["exec", "-t", "host", "echo", "more"]).ok(), "more\r\n");
    wait_for("nothing to be left", || left_of_execs(&engine).is_empty());
}

#[test]
fn a_supervising_process_of_an_exec_has_nothing_of_the_containers() {
    let engine = engine();
    // It ends with its input, unless somebody else holds that open.
    let mut docker = engine.docker_command(["run", "-i", "--name", "reader", "busybox", "cat"]);
    let mut docker = docker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the container", || engine.docker(["exec", "reader", "true"]).code == Some(0));
    let first = inspect(&engine, "reader")["State"]["Pid"].as_i64().unwrap();
    let supervisor = told(first, "PPid:");
    wait_for("what has ended to be collected", || children(supervisor) == [first]);
    let exec = begin(&engine, "reader", "sleep 1000");
    let all = children(supervisor);
    let branch = *all.iter().find(|child| **child != first).unwrap();
    assert_eq!((all.len(), told(describe(&engine, &exec)["Pid"].as_i64().unwrap(), "PPid:")), (2, branch));
    let open = |pid: i64| -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| !link.starts_with("/dev") && !link.starts_with("anon_inode:[pidfd]")).collect()
    };
    let (of_supervisor, of_branch) = (open(supervisor), open(branch));
    assert!(of_branch.is_disjoint(&of_supervisor), "{of_branch:?} {of_supervisor:?}");
    drop(docker.stdin.take());
    assert!(docker.wait().unwrap().success());
    // The claim is free as well.
    engine.docker(["start", "reader"]).ok();
}

/// It may speak the same, and have the faults of another version.
#[test]
fn another_program_is_not_asked_for_copies_of_itself() {
    let mut engine = engine();
    let id = engine.docker(["create", "--name", "other", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    engine.kill();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&asked);
    dialects::play(&engine, &id, std::process::id(), move |line, socket| {
        lines.lock().unwrap().push(line.to_owned());
        if line.contains("Hello") {
            let known = r#""Hello","Start","Wait","Kill","Resize","Attach","Follow","Exec""#;
            dialects::say(socket, &format!(r#"{{"Hello":{{"version":3,"requests":[{known}]}}}}"#));
        } else if line.contains("Start") {
            dialects::say(socket, "\"Done\"");
        }
        true
    });
    engine.launch();
    // It is no container that this could join.
    engine.docker(["exec", "other", "true"]).failed();
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|line| line.contains("Hello")), "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains("Exec")), "{asked:?}");
}

#[test]
fn a_supervising_process_supervises_only_what_joins_its_container() {
    let engine = engine();
    let id = engine.docker(["run", "-d", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let ask = |directory: &str| {
        let mut connection = dialects::with_socket(&engine, &id, UnixStream::connect).unwrap();
        dialects::say(&mut connection, &json!({ "Exec": { "directory": directory } }).to_string());
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/nowhere").contains("Could not read the configuration `/nowhere/shim.json`"));
    let own = format!("{}/containers/{id}", engine.exec_root());
    assert!(ask(&own).contains("no process that joins a container"));
    assert_eq!(engine.docker(["exec", &id, "echo", "alive"]).ok(), "alive\n");
}

#[test]
fn what_cannot_be_run_says_why_by_its_code() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "host", "busybox", "sleep", "1000"]).ok();
    for (options, code, said) in [
        (&["host", "nothing"][..], 127, "executable file not found in $PATH"),
        (&["host", "/not/there"], 127, "no such file or directory"),
        (&["host", "/etc/passwd"], 126, "permission denied"),
        (&["host", "/etc"], 126, "is a directory"),
        (
            &["-w", "/not/there", "host", "true"],
            127,
            "chdir to cwd (\"/not/there\") set in config.json failed: no such file",
        ),
        (&["-w", "/etc/passwd", "host", "true"], 126, "set in config.json failed: not a directory"),
        (&["-u", "nobody-else", "host", "true"], 126, "unable to find user nobody-else"),
        (&["-w", "/proc/self", "host", "true"], 0, ""),
    ] {
        let output = engine.docker(["exec"].iter().chain(options));
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(output.stderr.contains(said) || output.stdout.contains(said), "{output:?}");
    }
}
