//! Containers from create to remove, with the stock docker command line and over the bare API.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod harness;

use harness::{Engine, wait_for};

fn engine() -> Engine {
    let engine = Engine::start();
    engine.load_busybox();
    engine
}

fn inspect(engine: &Engine, name: &str) -> Value {
    engine.http("GET", &format!("/containers/{name}/json"), b"").json()
}

fn create(engine: &Engine, name: &str, body: &Value) -> String {
    let answer = engine.http("POST", &format!("/containers/create?name={name}"), body.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["Id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn post(engine: &Engine, path: &str) -> u16 {
    engine.http("POST", path, b"").status
}

fn status(engine: &Engine, name: &str) -> String {
    inspect(engine, name)["State"]["Status"].as_str().unwrap().to_owned()
}

/// Takes a connection over, as attach and exec do.
fn takeover(engine: &Engine, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// Parts a stream of frames into standard output and standard error.
fn frames(mut bytes: &[u8]) -> (String, String) {
    let mut outputs = [Vec::new(), Vec::new()];
    while let [stream, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        outputs[usize::from(*stream) - 1].extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    let [out, err] = outputs.map(|output| String::from_utf8(output).unwrap());
    (out, err)
}

#[test]
fn run_passes_output_input_and_exit_code_on() {
    let engine = engine();
    assert_eq!(engine.docker(["run", "--rm", "busybox", "echo", "hello"]).ok(), "hello\n");
    let both = engine.docker(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((both.code, both.stdout.as_str(), both.stderr.as_str()), (Some(3), "out\n", "err\n"));
    let data: Vec<u8> = (0..3_000_000u32).flat_map(|number| [(number % 251) as u8 | 1]).collect();
    let data = data.into_iter().map(|byte| (byte % 94) + 33).collect::<Vec<u8>>();
    let echoed = engine.docker_with_input(["run", "--rm", "-i", "busybox", "cat"], &data).ok();
    assert_eq!(echoed.as_bytes(), data);
    assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
    let left: Vec<_> = fs::read_dir(engine.data_root().join("containers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_program_that_cannot_run_is_told_apart() {
    let engine = engine();
    for (program, code, text) in [
        ("nosuch", 127, "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", 127, "stat /nosuch: no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        let output = engine.docker(["run", "--name", "failed", "busybox", program]);
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(
            output.stderr.contains("OCI runtime create failed") && output.stderr.contains(text),
            "{output:?}"
        );
        let state = inspect(&engine, "failed")["State"].clone();
        assert_eq!(
            (state["Status"].as_str(), state["ExitCode"].as_i64()),
            (Some("created"), Some(code.into()))
        );
        engine.docker(["rm", "failed"]).ok();
    }
    let user = engine.docker(["run", "--rm", "-u", "stranger", "busybox", "true"]).failed();
    assert!(user.contains("unable to find user stranger: no matching entries in passwd file"), "{user}");
    assert_eq!(engine.docker(["ps", "-aq", "--filter", "name=x"]).ok(), "");
}

#[test]
fn a_container_is_confined() {
    let engine = engine();
    let script = "grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status; cat /proc/1/comm; \
                  ls /proc/1/fd | wc -l; mknod /tmp/disk b 8 0 && cat /tmp/disk; echo x > /proc/sys/kernel/domainname; \
                  mount -t tmpfs x /tmp; cat /proc/keys; date -s 2000-01-01 >/dev/null";
    let output = engine.docker(["run", "--rm", "busybox", "sh", "-c", script]);
    let expected = ["CapEff:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t2", "sh"];
    assert_eq!(output.stdout.lines().take(4).collect::<Vec<_>>(), expected, "{output:?}");
    for refusal in ["/tmp/disk", "domainname: Read-only", "permission denied", "can't set date"] {
        assert!(output.stderr.to_lowercase().contains(&refusal.to_lowercase()), "{refusal}: {output:?}");
    }
    let options = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "-u", "nobody"];
    let script = "grep -E '^(CapBnd|NoNewPrivs|Groups):' /proc/self/status; id -u; touch /x; echo $HOME";
    let strict =
        engine.docker(["run", "--rm"].into_iter().chain(options).chain(["busybox", "sh", "-c", script]));
    assert_eq!(
        strict.stdout.lines().map(str::trim).collect::<Vec<_>>(),
        ["Groups:\t65534", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "65534", "/home"],
        "{strict:?}"
    );
    assert!(strict.stderr.contains("Read-only file system"), "{strict:?}");
    let free = [
        "run",
        "--rm",
        "--security-opt",
        "seccomp=unconfined",
        "busybox",
        "grep",
        "Seccomp:",
        "/proc/self/status",
    ];
    assert_eq!(engine.docker(free).ok(), "Seccomp:\t0\n");
    let privileged =
        ["run", "--rm", "--privileged", "busybox", "sh", "-c", "mount -t tmpfs x /tmp && echo mounted"];
    assert_eq!(engine.docker(privileged).ok(), "mounted\n");
}

#[test]
fn exec_joins_with_the_same_confinement() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "host", "-e", "A=1", "busybox", "sleep", "1000"]).ok();
    let script = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status; echo $A$B; pwd; id -u; cat; exit 7";
    let arguments = ["exec", "-i", "-e", "B=2", "-w", "/tmp", "-u", "nobody", "host", "sh", "-c", script];
    let output = engine.docker_with_input(arguments, b"typed");
    assert_eq!(output.code, Some(7), "{output:?}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "CapEff:\t0000000000000000",
            "CapBnd:\t00000000a80425fb",
            "NoNewPrivs:\t0",
            "Seccomp:\t2",
            "12",
            "/tmp",
            "65534",
            "typed"
        ]
    );
    let root = engine.docker(["exec", "host", "grep", "CapEff", "/proc/self/status"]).ok();
    assert_eq!(root, "CapEff:\t00000000a80425fb\n");
    let missing = engine.docker(["exec", "host", "nosuch"]);
    assert_eq!(missing.code, Some(127), "{missing:?}");
    assert!(missing.stdout.contains("executable file not found in $PATH"), "{missing:?}");
    engine.docker(["exec", "-d", "host", "touch", "/tmp/made"]).ok();
    wait_for("the file", || engine.docker(["exec", "host", "test", "-e", "/tmp/made"]).code == Some(0));
    engine.docker(["pause", "host"]).ok();
    assert!(engine.docker(["exec", "host", "true"]).failed().contains("is paused"));
    engine.docker(["unpause", "host"]).ok();
    engine.docker(["rm", "-f", "host"]).ok();
    assert!(engine.docker(["exec", "host", "true"]).failed().contains("No such container: host"));
}

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
    let waiter = engine.docker_command(["wait", "long"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the wait", || true);
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

#[test]
fn limits_hold() {
    let engine = engine();
    let hog = "x=a; while true; do x=$x$x; done";
    let output = engine.docker(["run", "--name", "hog", "-m", "16m", "busybox", "sh", "-c", hog]);
    assert_eq!(output.code, Some(137), "{output:?}");
    assert_eq!(inspect(&engine, "hog")["State"]["OOMKilled"], true);
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait";
    let output = engine.docker(["run", "--rm", "--pids-limit", "5", "busybox", "sh", "-c", forks]);
    assert!(output.stderr.contains("can't fork"), "{output:?}");
    engine
        .docker(["run", "-d", "--name", "limited", "-m", "32m", "--cpus", "0.5", "busybox", "sleep", "1000"])
        .ok();
    let id = inspect(&engine, "limited")["Id"].as_str().unwrap().to_owned();
    let read = |v1: &str, v2: &str| {
        let found =
            harness::run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &id]), b"").ok();
        let folders: Vec<&str> = found.lines().collect();
        let texts = folders
            .iter()
            .flat_map(|folder| [v1, v2].map(|file| fs::read_to_string(Path::new(folder).join(file))));
        texts.flatten().next().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "33554432");
    assert!(matches!(read("cpu.cfs_quota_us", "cpu.max").as_str(), "50000" | "50000 100000"));
    engine.docker(["update", "-m", "64m", "--restart", "on-failure:2", "limited"]).ok();
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "67108864");
    let host = inspect(&engine, "limited")["HostConfig"].clone();
    assert_eq!(
        (host["Memory"].as_i64(), host["RestartPolicy"]["Name"].as_str()),
        (Some(64 << 20), Some("on-failure"))
    );
    engine.docker(["rm", "-f", "limited", "hog"]).ok();
    let left =
        harness::run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &id]), b"").ok();
    assert_eq!(left, "");
}

#[test]
fn a_terminal_has_a_size_and_an_end() {
    let engine = engine();
    create(
        &engine,
        "tty",
        &json!({ "Image": "busybox", "Cmd": ["sh"], "Tty": true, "OpenStdin": true, "StdinOnce": true,
                 "HostConfig": { "ConsoleSize": [11, 22] } }),
    );
    let mut stream = takeover(&engine, "/containers/tty/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    assert_eq!(post(&engine, "/containers/tty/start"), 204);
    let mut seen = String::new();
    let mut read_until = |stream: &mut UnixStream, wanted: &str| {
        let mut buffer = [0; 1024];
        while !seen.contains(wanted) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        seen.clear();
    };
    stream.write_all(b"stty size; tty\n").unwrap();
    read_until(&mut stream, "11 22\r\n");
    assert_eq!(post(&engine, "/containers/tty/resize?h=33&w=44"), 200);
    stream.write_all(b"stty size; test -t 2 && echo is-a-'terminal'\n").unwrap();
    read_until(&mut stream, "33 44\r\nis-a-terminal\r\n");
    // Ctrl-P, Ctrl-Q: leaves it running, and one can come back.
    stream.write_all(b"\x10\x11").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(status(&engine, "tty"), "running");
    let mut stream = takeover(&engine, "/containers/tty/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    stream.write_all(b"exit 6\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    wait_for("the end", || status(&engine, "tty") == "exited");
    assert_eq!(inspect(&engine, "tty")["State"]["ExitCode"], 6);
}

#[test]
fn attach_frames_streams_and_closes_halves() {
    let engine = engine();
    let script = "cat; echo done >&2";
    create(
        &engine,
        "framed",
        &json!({ "Image": "busybox", "Cmd": ["sh", "-c", script], "OpenStdin": true, "StdinOnce": true }),
    );
    let mut first = takeover(&engine, "/containers/framed/attach?stream=1&stdin=1&stdout=1&stderr=1", "");
    let mut second = takeover(&engine, "/containers/framed/attach?stream=1&stderr=1", "");
    assert_eq!(post(&engine, "/containers/framed/start"), 204);
    first.write_all(b"some input").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let read = |stream: &mut UnixStream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        frames(&bytes)
    };
    assert_eq!(read(&mut first), ("some input".to_owned(), "done\n".to_owned()));
    assert_eq!(read(&mut second), (String::new(), "done\n".to_owned()));
    let mut late = takeover(&engine, "/containers/framed/attach?logs=1&stdout=1&stderr=1", "");
    assert_eq!(read(&mut late), ("some input".to_owned(), "done\n".to_owned()));
}

#[test]
fn wait_answers_its_header_at_once() {
    let engine = engine();
    create(&engine, "waited", &json!({ "Image": "busybox", "Cmd": ["sh", "-c", "sleep 0.5; exit 4"] }));
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(b"POST /v1.47/containers/waited/wait?condition=next-exit HTTP/1.1\r\nHost: e\r\n\r\n")
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    let not_running = engine.http("POST", "/containers/waited/wait", b"");
    assert_eq!(not_running.json()["StatusCode"], 0);
    assert_eq!(post(&engine, "/containers/waited/start"), 204);
    let mut rest = String::new();
    while !rest.contains("StatusCode") {
        line.clear();
        reader.read_line(&mut line).unwrap();
        rest.push_str(&line);
    }
    assert!(rest.contains("{\"StatusCode\":4}"), "{rest}");
    assert_eq!(engine.http("POST", "/containers/waited/wait?condition=never", b"").status, 400);
}

#[test]
fn logs_rotate_follow_and_filter() {
    let engine = Engine::start_with("{\"log-opts\":{\"max-size\":\"2k\",\"max-file\":\"3\"}}", &[]);
    engine.load_busybox();
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done";
    engine.docker(["run", "--name", "chatty", "busybox", "sh", "-c", script]).ok();
    let log_path = inspect(&engine, "chatty")["LogPath"].as_str().unwrap().to_owned();
    let folder = Path::new(&log_path).parent().unwrap();
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| file.metadata().unwrap().len() < 2300));
    let lines = engine.docker(["logs", "chatty"]).ok();
    let numbers: Vec<u32> = lines.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert!(
        numbers.last() == Some(&299)
            && numbers.len() > 30
            && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1])
    );
    assert_eq!(engine.docker(["logs", "--tail", "2", "chatty"]).ok(), "line 298\nline 299\n");
    assert_eq!(engine.docker(["logs", "--since", "2040-01-01T00:00:00", "chatty"]).ok(), "");
    let stamped = engine.docker(["logs", "-t", "-n", "1", "chatty"]).ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 299\n"), "{stamped}");
    let own = ["run", "-d", "--name", "growing", "--log-opt", "max-size=1k", "busybox", "sh", "-c"];
    let script = "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; echo end >&2";
    engine.docker(own.into_iter().chain([script])).ok();
    let followed = engine.docker(["logs", "-f", "growing"]);
    let seen: Vec<u32> = followed.stdout.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert_eq!(
        (seen.len() > 50, seen.last(), followed.stderr.as_str()),
        (true, Some(&99), "end\n"),
        "{seen:?}"
    );
    engine.docker(["run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "x"]).ok();
    assert!(
        engine
            .docker(["logs", "mute"])
            .failed()
            .contains("configured logging driver does not support reading")
    );
    let bad = engine.docker(["run", "--rm", "--log-opt", "max-size=much", "busybox", "true"]).failed();
    assert!(bad.contains("max-size"), "{bad}");
}

#[test]
fn symbolic_links_do_not_lead_out() {
    let engine = engine();
    let outside = engine.path("outside");
    fs::create_dir(&outside).unwrap();
    let outside_text = outside.to_str().unwrap();
    let folder = engine.path("layer");
    fs::create_dir_all(folder.join("etc")).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let link = |layer: &mut tar::Builder<Vec<u8>>, path: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, path, target).unwrap();
    };
    let busybox = fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/sh", busybox.as_slice()).unwrap();
    let climb = format!("../../../../../../../../../..{outside_text}");
    link(&mut layer, "volume", outside_text);
    link(&mut layer, "work", &climb);
    link(&mut layer, "etc/passwd", "/../../../../../../../etc/passwd");
    link(&mut layer, "proc", outside_text);
    let archive = harness::image("links", &[layer.into_inner().unwrap()], &json!({}));
    engine.docker_with_input(["load"], &archive).ok();
    let source = engine.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let bind = format!("{}:/volume/deep", source.display());
    for options in
        [vec!["-v", &bind], vec!["-w", "/work/here"], vec!["-v", "named:/work/made"], vec!["-u", "root"]]
    {
        let arguments = ["run", "--rm"].into_iter().chain(options.iter().copied());
        let output = engine.docker(arguments.chain(["links", "/bin/sh", "-c", ":"]));
        // Whether it works inside or is refused: nothing may happen outside. /proc as a link is refused.
        assert_ne!(output.code, Some(0), "{output:?}");
        let made: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert!(made.is_empty(), "{options:?}: {made:?}");
    }
    symlink(&outside, source.join("link")).unwrap();
    let whole = format!("{}:/data", source.display());
    let output = engine.docker(["run", "--rm", "-v", &whole, "-v", "vol:/data/link/x", "busybox", "true"]);
    let made: Vec<_> = fs::read_dir(&outside).unwrap().collect();
    assert!(made.is_empty(), "{output:?}: {made:?}");
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
fn ten_at_once() {
    let engine = engine();
    std::thread::scope(|scope| {
        for number in 0..10 {
            let engine = &engine;
            scope.spawn(move || {
                let name = format!("many{number}");
                engine.docker(["run", "-d", "--name", &name, "busybox", "sleep", "1000"]).ok();
                engine.docker(["stop", "-t", "0", &name]).ok();
                engine.docker(["start", &name]).ok();
                assert_eq!(engine.docker(["exec", &name, "echo", &name]).ok().trim(), name);
                engine.docker(["rm", "-f", &name]).ok();
            });
        }
    });
    assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
}

#[test]
fn names_are_unique_and_errors_are_dockers() {
    let engine = engine();
    let id = engine.docker(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let taken = engine.docker(["create", "--name", "one", "busybox"]).failed();
    let expected = format!(
        "Conflict. The container name \"/one\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    );
    assert!(taken.contains(&expected), "{taken}");
    let running = engine.docker(["rm", "one"]).failed();
    assert!(running.contains("cannot remove container \"one\": container is running: stop the container before removing or force remove"), "{running}");
    assert!(
        engine
            .docker(["inspect", "--type", "container", "none"])
            .failed()
            .contains("No such container: none")
    );
    assert!(
        engine.docker(["create", "--name", "-bad-", "busybox"]).failed().contains("Invalid container name")
    );
    engine.docker(["rename", "one", "two"]).ok();
    assert_eq!(inspect(&engine, &id[..12])["Name"], "/two");
    engine.docker(["create", "--name", "one", "busybox"]).ok();
    assert!(engine.docker(["rename", "one", "two"]).failed().contains("is already in use"));
    assert_eq!(post(&engine, "/containers/two/start"), 304);
    engine.docker(["stop", "-t", "0", "two"]).ok();
    assert_eq!(post(&engine, "/containers/two/stop"), 304);
    assert_eq!(post(&engine, "/containers/two/kill"), 409);
    let pruned = engine.docker(["container", "prune", "-f"]).ok();
    assert!(pruned.contains(&id), "{pruned}");
    let random = engine.docker(["create", "busybox"]).ok();
    let name = inspect(&engine, random.trim())["Name"].as_str().unwrap().to_owned();
    assert!(name.starts_with('/') && name.contains('_'), "{name}");
    let nothing = engine.http("POST", "/containers/create", b"{\"Image\":\"busybox\",\"Cmd\":[]");
    assert_eq!(nothing.status, 400);
}

#[test]
fn lists_are_filtered() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "up", "-l", "kind=a", "busybox", "sleep", "1000"]).ok();
    engine.docker(["run", "--name", "down", "-l", "kind=b", "busybox", "sh", "-c", "exit 3"]);
    let names = |filters: &[&str]| {
        let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
        let output = engine.docker(["ps", "-a", "--format", "{{.Names}}"].into_iter().chain(filters)).ok();
        output.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["down", "up"]);
    assert_eq!(names(&["status=running"]), ["up"]);
    assert_eq!(names(&["exited=3"]), ["down"]);
    assert_eq!(names(&["label=kind=b"]), ["down"]);
    assert_eq!(names(&["ancestor=busybox", "name=^u"]), ["up"]);
    assert_eq!(names(&["before=down"]), ["up"]);
    assert!(engine.docker(["ps", "-q", "--filter", "status=nonsense"]).failed().contains("invalid filter"));
    assert_eq!(engine.docker(["ps", "-aqn", "1"]).ok().lines().count(), 1);
    let line =
        engine.docker(["ps", "-a", "--filter", "name=down", "--format", "{{.Status}}|{{.Command}}"]).ok();
    assert!(line.starts_with("Exited (3) ") && line.contains("\"sh -c 'exit 3'\""), "{line}");
    let sized = engine.docker(["ps", "-as", "--format", "{{.Size}}"]).ok();
    assert!(sized.contains("virtual"), "{sized}");
}

#[test]
fn volumes_keep_data_and_begin_with_the_image() {
    let engine = engine();
    let write = ["run", "--rm", "-v", "store:/etc", "busybox", "sh", "-c", "echo more > /etc/new; ls /etc"];
    let listed = engine.docker(write).ok();
    assert!(listed.contains("passwd") && listed.contains("new"), "{listed}");
    let read = ["run", "--rm", "-v", "store:/mnt:ro", "busybox", "sh", "-c", "cat /mnt/new; touch /mnt/x"];
    let again = engine.docker(read);
    assert_eq!(again.stdout, "more\n");
    assert!(again.stderr.contains("Read-only file system"), "{again:?}");
    engine.docker(["run", "--name", "anon", "-v", "/data", "busybox", "touch", "/data/x"]).ok();
    let source = inspect(&engine, "anon")["Mounts"][0]["Source"].as_str().unwrap().to_owned();
    assert!(Path::new(&source).join("x").exists());
    let from = engine.docker(["run", "--rm", "--volumes-from", "anon", "busybox", "ls", "/data"]).ok();
    assert_eq!(from, "x\n");
    engine.docker(["rm", "-v", "anon"]).ok();
    assert!(!Path::new(&source).exists());
    assert!(engine.data_root().join("volumes/store/_data/new").exists());
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "store\n");
    engine.docker(["volume", "create", "--label", "kind=x", "extra"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-qf", "label=kind=x"]).ok(), "extra\n");
    let place = engine.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "store"]).ok();
    assert!(Path::new(place.trim()).join("new").exists(), "{place}");
    engine.docker(["create", "--name", "user", "-v", "store:/x", "-v", "/y", "busybox"]).ok();
    assert!(engine.docker(["volume", "rm", "store"]).failed().contains("volume is in use - ["));
    engine.docker(["rm", "user"]).ok();
    let pruned = engine.docker(["volume", "prune", "-f"]).ok();
    assert_eq!(pruned.lines().filter(|line| line.len() == 64).count(), 1, "{pruned}");
    engine.docker(["volume", "prune", "-af"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
    assert!(engine.docker(["volume", "rm", "store"]).failed().contains("no such volume"));
    let script = "df -k /scratch | tail -1; touch /scratch/x && echo fine; id -u";
    let tmpfs =
        ["run", "--rm", "--tmpfs", "/scratch:size=1m", "--shm-size", "2m", "busybox", "sh", "-c", script];
    let output = engine.docker(tmpfs).ok();
    assert!(output.contains("1024") && output.contains("fine"), "{output}");
}

#[test]
fn events_tell_a_life() {
    let engine = engine();
    let since = jiff_now() - 1;
    engine.docker(["run", "--name", "told", "-d", "busybox", "sleep", "1000"]).ok();
    engine.docker(["pause", "told"]).ok();
    engine.docker(["unpause", "told"]).ok();
    engine.docker(["rename", "told", "again"]).ok();
    engine.docker(["stop", "-t", "0", "again"]).ok();
    engine.docker(["rm", "again"]).ok();
    let until = jiff_now() + 1;
    let arguments = [
        "events",
        "--since",
        &since.to_string(),
        "--until",
        &until.to_string(),
        "--filter",
        "type=container",
        "--format",
        "{{.Action}} {{index .Actor.Attributes \"exitCode\"}}",
    ];
    let events = engine.docker(arguments).ok();
    let events: Vec<&str> = events.lines().map(str::trim).collect();
    let expected =
        ["create", "start", "pause", "unpause", "rename", "kill", "kill", "die 137", "stop", "destroy"];
    assert_eq!(events, expected);
}

fn jiff_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn networks_modes_and_names() {
    let engine = engine();
    let run = |options: &[&str], script: &str| {
        engine.docker(["run", "--rm"].iter().chain(options).chain(&["busybox", "sh", "-c", script])).ok()
    };
    assert_eq!(
        run(&["--network", "none"], "ip -o addr | wc -l; ping -c1 -w2 127.0.0.1 >/dev/null && echo up"),
        "2\nup\n"
    );
    assert_eq!(
        run(&["-h", "box", "--add-host", "other:10.1.2.3"], "hostname; grep other /etc/hosts"),
        "box\n10.1.2.3\tother\n"
    );
    let resolver = run(&["--dns", "10.9.8.7", "--dns-search", "example.test"], "cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 10.9.8.7") && resolver.contains("example.test"), "{resolver}");
    engine.docker(["run", "-d", "--name", "first", "busybox", "sleep", "1000"]).ok();
    let address = inspect(&engine, "first")["NetworkSettings"]["IPAddress"].as_str().unwrap().to_owned();
    let shared = run(
        &["--network", "container:first", "--pid", "container:first"],
        "hostname -i 2>/dev/null; ip -o -4 addr show eth0; ps",
    );
    assert!(shared.contains(&address) && shared.contains("sleep 1000"), "{shared}");
    assert!(run(&[], &format!("ping -c1 -w5 {address} >/dev/null && echo reached")).contains("reached"));
    let host = run(&["--network", "host"], "ip -o link show docker0 | wc -l");
    assert_eq!(host, "1\n");
}

#[test]
fn a_flood_of_output_arrives_whole_and_a_slow_reader_is_waited_for() {
    let engine = engine();
    let script =
        "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789 $i; i=$((i+1)); done";
    let begin = Instant::now();
    let mut command =
        engine.docker_command(["run", "--rm", "--name", "flood", "busybox", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text.lines().count(), 20000, "after {:?}", begin.elapsed());
    assert!(text.lines().enumerate().all(|(number, line)| line.ends_with(&format!(" {number}"))));
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let engine = engine();
    let script =
        "trap 'echo caught; exit 8' TERM; (sleep 0.1 &) ; echo ready; while true; do sleep 0.1; done";
    engine.docker(["run", "-d", "--init", "--name", "tended", "busybox", "sh", "-c", script]).ok();
    wait_for("the program", || engine.docker(["logs", "tended"]).ok().contains("ready"));
    wait_for("the orphan to be reaped", || {
        let processes = engine.docker(["exec", "tended", "ps", "-o", "pid,stat,comm"]).ok();
        !processes.contains('Z') && processes.contains("docker-init")
    });
    engine.docker(["stop", "tended"]).ok();
    assert_eq!(inspect(&engine, "tended")["State"]["ExitCode"], 8);
    assert_eq!(engine.docker(["logs", "tended"]).ok(), "ready\ncaught\n");
}

#[test]
fn files_are_copied_in_and_out() {
    let engine = engine();
    let source = engine.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "content").unwrap();
    symlink("sub/file", source.join("link")).unwrap();
    engine
        .docker(["create", "--name", "still", "-v", "kept:/kept", "busybox", "cat", "/tmp/source/link"])
        .ok();
    engine.docker(["run", "-d", "--name", "alive", "busybox", "sleep", "1000"]).ok();
    for name in ["still", "alive"] {
        engine.docker(["cp", source.to_str().unwrap(), &format!("{name}:/tmp")]).ok();
        let out = engine.path(format!("out-{name}"));
        engine.docker(["cp", &format!("{name}:/tmp/source"), out.to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(out.join("link")).unwrap(), "content");
        let missing = engine.docker(["cp", &format!("{name}:/none"), "-"]).failed();
        assert!(missing.contains("Could not find the file /none in container"), "{missing}");
    }
    assert_eq!(engine.docker(["start", "-a", "still"]).ok(), "content");
    engine.docker(["cp", source.join("sub").to_str().unwrap(), "still:/kept/"]).ok();
    assert!(engine.data_root().join("volumes/kept/_data/sub/file").exists());
    let changes = engine.docker(["diff", "alive"]).ok();
    assert_eq!(
        changes,
        "C /tmp\nA /tmp/source\nA /tmp/source/link\nA /tmp/source/sub\nA /tmp/source/sub/file\n"
    );
    engine.docker(["exec", "alive", "rm", "/etc/passwd"]).ok();
    assert!(engine.docker(["diff", "alive"]).ok().contains("D /etc/passwd\n"));
    // A link made by the container leads nowhere outside of it.
    let outside = engine.path("outside");
    fs::create_dir(&outside).unwrap();
    engine.docker(["exec", "alive", "ln", "-s", outside.to_str().unwrap(), "/escape"]).ok();
    let _ = engine.docker(["cp", source.to_str().unwrap(), "alive:/escape/"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// All processes that run as supervisors for this engine.
fn supervisors(engine: &Engine) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.starts_with("engine shim") && command.contains(engine.exec_root()) {
            found.push(command);
        }
    }
    found
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
            std::thread::sleep(Duration::from_millis(150 + 137 * round));
            engine.signal("KILL");
            working.store(false, std::sync::atomic::Ordering::Relaxed);
        });
        engine.kill();
        engine.launch();
        let listed = engine.http("GET", "/containers/json?all=1", b"").json();
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
    let left = engine.inside("ls", [format!("{}/containers", engine.exec_root())]).ok();
    assert_eq!(left, "");
    let links = engine.inside("ip", ["-o", "link"]).ok();
    assert!(!links.contains("veth"), "{links}");
}
