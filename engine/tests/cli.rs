//! Our docker command line: beside the stock one, on the wire, on a terminal, and against a real daemon.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used)]

mod harness;
mod stand_in;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Engine, Output, run, wait_for};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;
use stand_in::{CONTAINER, Reply, Request, StandIn, close, frame, populated, read_all};

const VARIABLES: [&str; 7] = [
    "DOCKER_HOST",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONTEXT",
    "DOCKER_API_VERSION",
    "DOCKER_CONFIG",
];

fn clean(mut command: Command) -> Command {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.env("HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Our command line, called as `docker`.
fn ours(host: &str, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_engine")));
    command.arg0("docker").args(arguments).env("DOCKER_HOST", host);
    command
}

/// The stock command line.
fn stock(host: &str, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new("docker"));
    command.args(arguments).env("DOCKER_HOST", host);
    command
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[test]
fn the_same_answers_are_shown_as_by_the_stock_client() {
    let now = now();
    let daemon = StandIn::start(move |request| populated(request, now));
    let host = daemon.host();
    let mut different = Vec::new();
    for line in
        include_str!("stand_in/lines.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words: Vec<&str> = split(line);
        let theirs = run(&mut stock(&host, &words), b"");
        let mine = run(&mut ours(&host, &words), b"");
        if (theirs.code, &theirs.stdout, &theirs.stderr) != (mine.code, &mine.stdout, &mine.stderr) {
            different.push(format!("{line}\n  stock: {theirs:?}\n  ours:  {mine:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Words, of which those in single quotes may have spaces.
fn split(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap(),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[test]
fn the_requests_to_make_a_container_are_those_of_the_stock_client() {
    let now = now();
    let daemon = StandIn::start(move |request| populated(request, now));
    let folder = daemon.path("env");
    fs::write(&folder, "FROM_FILE=1\n# comment\n").unwrap();
    let file = folder.to_str().unwrap();
    for arguments in [
        vec!["create", "busybox"],
        vec![
            "create",
            "-it",
            "--name",
            "x",
            "--rm",
            "-e",
            "A=1",
            "--env-file",
            file,
            "busybox",
            "sh",
            "-c",
            "-x",
        ],
        vec!["create", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-P", "--expose", "90-91", "busybox"],
        vec![
            "create",
            "-v",
            "/a:/b:ro",
            "-v",
            "data:/c",
            "-v",
            "/anonymous",
            "--tmpfs",
            "/run:size=1m",
            "busybox",
        ],
        vec![
            "create",
            "--mount",
            "type=bind,src=/a,dst=/b,readonly",
            "--mount",
            "type=tmpfs,dst=/t,tmpfs-size=1m",
            "busybox",
        ],
        vec![
            "create",
            "-m",
            "64m",
            "--cpus",
            "1.5",
            "-c",
            "5",
            "--pids-limit",
            "9",
            "--shm-size",
            "1g",
            "busybox",
        ],
        vec![
            "create",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop=ALL",
            "--privileged",
            "--read-only",
            "--init",
            "busybox",
        ],
        vec![
            "create",
            "--restart",
            "on-failure:3",
            "--stop-signal",
            "INT",
            "--stop-timeout",
            "3",
            "-w",
            "/tmp",
            "busybox",
        ],
        vec![
            "create",
            "--network",
            "host",
            "-h",
            "h1",
            "-u",
            "1:2",
            "--add-host",
            "a:1.2.3.4",
            "--dns",
            "1.1.1.1",
            "busybox",
        ],
        vec![
            "create",
            "--ulimit",
            "nofile=1:2",
            "--sysctl",
            "net.core.somaxconn=9",
            "--security-opt",
            "no-new-privileges",
            "busybox",
        ],
        vec![
            "create",
            "--log-driver",
            "none",
            "--log-opt",
            "max-size=1m",
            "-l",
            "a=b",
            "--entrypoint",
            "/x",
            "busybox",
        ],
        vec![
            "create",
            "--device",
            "/dev/null:/dev/n:rw",
            "--ipc",
            "host",
            "--pid",
            "host",
            "--userns",
            "host",
            "busybox",
        ],
        vec!["create", "--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2", "busybox"],
        vec!["create", "-a", "stdout", "--tty=false", "busybox", "--", "x"],
    ] {
        run(&mut stock(&daemon.host(), &arguments), b"").ok();
        run(&mut ours(&daemon.host(), &arguments), b"").ok();
        let requests = daemon.requests();
        let [.., theirs, mine] = requests.as_slice() else { panic!("two requests") };
        assert_eq!((&mine.path, &mine.query), (&theirs.path, &theirs.query), "{arguments:?}");
        let (theirs, mine) = (theirs.json(), mine.json());
        let mut wrong = Vec::new();
        compare("", &theirs, &mine, &mut wrong);
        assert!(wrong.is_empty(), "{arguments:?}: {wrong:#?}");
    }
}

/// Everything of theirs must be in ours; a value that says nothing may be left out.
fn compare(path: &str, theirs: &serde_json::Value, mine: &serde_json::Value, wrong: &mut Vec<String>) {
    use serde_json::Value;
    fn says_nothing(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.iter().all(says_nothing),
            Value::Object(map) => map.values().all(says_nothing),
        }
    }
    // They name the default network in vain.
    if path == "/NetworkingConfig/EndpointsConfig" && mine == &json!({}) {
        return;
    }
    match (theirs, mine) {
        (Value::Object(theirs), Value::Object(mine)) => {
            for (key, value) in theirs {
                let path = format!("{path}/{key}");
                compare(&path, value, mine.get(key).unwrap_or(&Value::Null), wrong);
            }
            for (key, value) in mine.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
                compare(&format!("{path}/{key}"), &Value::Null, value, wrong);
            }
        }
        _ if theirs == mine || (says_nothing(theirs) && says_nothing(mine)) => {}
        _ => wrong.push(format!("{path}: theirs {theirs}, ours {mine}")),
    }
}

/// A stand-in that makes and starts one container, whose streams are a conversation and whose exit code is given.
fn one_container(
    code: i64,
    conversation: impl Fn(std::io::BufReader<std::os::unix::net::UnixStream>) + Send + Sync + 'static,
) -> StandIn {
    let conversation = Arc::new(conversation);
    let (finished, ended) = mpsc::channel();
    let ended = Mutex::new(Some(ended));
    let finished = Mutex::new(finished);
    StandIn::start(move |request: &Request| match request.line().as_str() {
        "POST /containers/create" => Reply::Json(201, json!({"Id": CONTAINER, "Warnings": []})),
        line if line == format!("POST /containers/{CONTAINER}/attach") => {
            let conversation = Arc::clone(&conversation);
            let finished = finished.lock().unwrap().clone();
            Reply::upgrade(move |stream| {
                conversation(stream);
                let _ = finished.send(json!({"StatusCode": code}));
            })
        }
        line if line == format!("POST /containers/{CONTAINER}/wait") => {
            Reply::Later(ended.lock().unwrap().take().unwrap())
        }
        _ => Reply::Json(204, json!(null)),
    })
}

#[test]
fn input_is_half_closed_and_output_taken_apart() {
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).take(3_000_000).collect();
    let expected = input.clone();
    let daemon = one_container(7, move |mut stream| {
        // The whole input is there before anything is answered: the end of it must have come alone.
        let received = read_all(&mut stream);
        assert_eq!(received.len(), expected.len());
        assert!(received == expected);
        let out = stream.get_mut();
        for chunk in received.chunks(100_000) {
            out.write_all(&frame(1, chunk)).unwrap();
        }
        out.write_all(&frame(2, b"to the other side\n")).unwrap();
        close(&stream);
    });
    let mut child = ours(&daemon.host(), &["run", "-i", "busybox", "cat"]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "to the other side\n");
    assert!(output.stdout == input);
    let prefix = format!("POST /containers/{CONTAINER}");
    let order: Vec<String> = daemon.lines().iter().map(|line| line.replace(&prefix, "")).collect();
    assert_eq!(order, ["POST /containers/create", "/attach", "/wait", "/start"]);
    let requests = daemon.requests();
    assert_eq!(requests[1].query, "stderr=1&stdin=1&stdout=1&stream=1");
    assert_eq!(requests[2].query, "condition=next-exit");
}

#[test]
fn a_stream_that_is_no_stream_of_frames_is_an_error() {
    let daemon = one_container(0, |mut stream| {
        stream.get_mut().write_all(b"\x07nonsense").unwrap();
        close(&stream);
    });
    let output = run(&mut ours(&daemon.host(), &["run", "busybox"]), b"");
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("Unrecognized input header: 7"), "{}", output.stderr);
}

#[test]
fn exit_codes_say_who_failed() {
    for (message, code) in [
        ("driver failed programming external connectivity: port is already allocated", 125),
        ("exec: \"nope\": executable file not found in $PATH: unknown", 127),
        ("exec: \"/nope\": stat /nope: no such file or directory: unknown", 127),
        ("exec: \"/etc/passwd\": permission denied: unknown", 126),
        ("exec: \"/etc\": is a directory: unknown", 126),
    ] {
        let daemon = StandIn::start(move |request| match request.line().as_str() {
            "POST /containers/create" => Reply::Json(201, json!({"Id": CONTAINER, "Warnings": []})),
            line if line.ends_with("/start") => Reply::error(500, message),
            line if line.ends_with("/attach") => Reply::upgrade(|mut stream| drop(read_all(&mut stream))),
            _ => Reply::Later(mpsc::channel().1),
        });
        let output = run(&mut ours(&daemon.host(), &["run", "busybox", "nope"]), b"");
        assert_eq!(output.code, Some(code), "{output:?}");
        let expected = format!(
            "docker: Error response from daemon: {message}\n\nRun 'docker run --help' for more information\n"
        );
        assert_eq!(output.stderr, expected);
    }
    let refused =
        StandIn::start(|_| Reply::error(409, "Conflict. The container name \"/x\" is already in use"));
    let output = run(&mut ours(&refused.host(), &["run", "--name", "x", "busybox"]), b"");
    assert_eq!(output.code, Some(125), "{output:?}");
}

#[test]
fn an_image_that_is_not_there_is_pulled() {
    let pulled = Mutex::new(false);
    let daemon = StandIn::start(move |request| match request.line().as_str() {
        "POST /containers/create" if *pulled.lock().unwrap() => Reply::Json(201, json!({"Id": CONTAINER})),
        "POST /containers/create" => Reply::error(404, "No such image: x/y:latest"),
        "POST /images/create" => {
            assert_eq!(request.query, "fromImage=docker.io%2Fx%2Fy&tag=latest");
            *pulled.lock().unwrap() = true;
            Reply::Body(
                concat!(
                    r#"{"status":"Pulling from x/y","id":"latest"}"#,
                    "\r\n",
                    r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"aa"}"#,
                    "\r\n",
                    r#"{"status":"Status: Downloaded newer image for x/y:latest"}"#,
                    "\r\n",
                )
                .as_bytes()
                .to_vec(),
            )
        }
        _ => Reply::Json(204, json!(null)),
    });
    let output = run(&mut ours(&daemon.host(), &["run", "-d", "x/y"]), b"");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout, format!("{CONTAINER}\n"));
    assert_eq!(
        output.stderr,
        "Unable to find image 'x/y:latest' locally\nlatest: Pulling from x/y\nStatus: Downloaded newer image for x/y:latest\n"
    );
    let never = run(&mut ours(&daemon.host(), &["run", "-d", "--pull", "never", "x/y"]), b"");
    assert_eq!(never.code, Some(0));
    let failing = StandIn::start(|request| match request.path.as_str() {
        "/images/create" => Reply::Body(
            b"{\"errorDetail\":{\"message\":\"no space left\"},\"error\":\"no space left\"}\n".to_vec(),
        ),
        _ => Reply::error(404, "No such image: x:latest"),
    });
    let output = run(&mut ours(&failing.host(), &["run", "x"]), b"");
    assert_eq!(output.code, Some(125));
    assert!(output.stderr.contains("docker: no space left"), "{}", output.stderr);
    let output = run(&mut ours(&failing.host(), &["run", "--pull=never", "x"]), b"");
    assert_eq!(output.code, Some(125));
    assert!(output.stderr.contains("No such image: x:latest"), "{}", output.stderr);
}

#[test]
fn signals_reach_the_process() {
    let (told, heard) = mpsc::channel::<()>();
    let heard = Mutex::new(Some(heard));
    let told = Mutex::new(told);
    let (finished, ended) = mpsc::channel();
    let ended = Mutex::new(Some(ended));
    let finished = Mutex::new(finished);
    let daemon = StandIn::start(move |request| match request.line().as_str() {
        "POST /containers/create" => Reply::Json(201, json!({"Id": CONTAINER})),
        line if line.ends_with("/attach") => {
            let heard = heard.lock().unwrap().take().unwrap();
            let finished = finished.lock().unwrap().clone();
            Reply::upgrade(move |mut stream| {
                stream.get_mut().write_all(&frame(1, b"ready\n")).unwrap();
                heard.recv().unwrap();
                close(&stream);
                finished.send(json!({"StatusCode": 143})).unwrap();
            })
        }
        line if line.ends_with("/wait") => Reply::Later(ended.lock().unwrap().take().unwrap()),
        line if line.ends_with("/kill") => {
            told.lock().unwrap().send(()).unwrap();
            Reply::Json(204, json!(null))
        }
        _ => Reply::Json(204, json!(null)),
    });
    let mut child = ours(&daemon.host(), &["run", "busybox"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let kill = daemon.requests().into_iter().find(|request| request.path.ends_with("/kill")).unwrap();
    assert_eq!(kill.query, "signal=TERM");
}

fn send(child: &Child, signal: &str) {
    let status =
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn exec_has_the_exit_code_of_its_process() {
    let daemon = StandIn::start(|request| match request.line().as_str() {
        "GET /containers/web/json" => Reply::Json(200, json!({"Id": CONTAINER})),
        "POST /containers/web/exec" => {
            let body = request.json();
            assert_eq!(body["Cmd"], json!(["sh", "-c", "exit 9"]));
            assert_eq!(body["Env"], json!(["A=1"]));
            assert_eq!(body["AttachStdin"], json!(true));
            Reply::Json(201, json!({"Id": "e1"}))
        }
        "POST /exec/e1/start" => Reply::upgrade(|mut stream| {
            assert_eq!(read_all(&mut stream), b"input");
            stream.get_mut().write_all(&frame(1, b"done\n")).unwrap();
            close(&stream);
        }),
        "GET /exec/e1/json" => Reply::Json(200, json!({"ExitCode": 9, "Running": false})),
        _ => Reply::error(404, "No such container: nope"),
    });
    let output =
        run(&mut ours(&daemon.host(), &["exec", "-i", "-e", "A=1", "web", "sh", "-c", "exit 9"]), b"input");
    assert_eq!((output.code, output.stdout.as_str()), (Some(9), "done\n"), "{output:?}");
    let output = run(&mut ours(&daemon.host(), &["exec", "nope", "true"]), b"");
    assert_eq!(output.stderr, "Error response from daemon: No such container: nope\n");
    assert_eq!(output.code, Some(1));
}

#[test]
fn logs_are_taken_apart_or_raw() {
    for tty in [false, true] {
        let daemon = StandIn::start(move |request| match request.path.as_str() {
            "/containers/web/json" => Reply::Json(200, json!({"Id": CONTAINER, "Config": {"Tty": tty}})),
            _ if tty => Reply::Body(b"raw\r\n".to_vec()),
            _ => Reply::Body([frame(1, b"out\n"), frame(2, b"err\n")].concat()),
        });
        let output = run(&mut ours(&daemon.host(), &["logs", "--tail", "5", "-t", "-f", "web"]), b"");
        let expected = if tty { ("raw\r\n", "") } else { ("out\n", "err\n") };
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), expected);
        let query = &daemon.requests()[1].query;
        assert_eq!(query, "follow=1&stderr=1&stdout=1&tail=5&timestamps=1");
    }
}

#[test]
fn an_archive_is_sent_whole_and_saved_whole() {
    let archive: Vec<u8> = (0..2_000_000_u32).map(|number| number.to_be_bytes()[2]).collect();
    let saved = archive.clone();
    let daemon = StandIn::start(move |request| match request.line().as_str() {
        "POST /images/load" => {
            assert!(request.body == saved);
            Reply::Body(b"{\"stream\":\"Loaded image: busybox:latest\\n\"}\n".to_vec())
        }
        "GET /images/get" => Reply::Body(saved.clone()),
        _ => Reply::error(404, "not found"),
    });
    let file = daemon.path("in.tar");
    fs::write(&file, &archive).unwrap();
    let loaded = run(&mut ours(&daemon.host(), &["load", "-i", file.to_str().unwrap()]), b"").ok();
    assert_eq!(loaded, "Loaded image: busybox:latest\n");
    assert_eq!(run(&mut ours(&daemon.host(), &["load"]), &archive).ok(), loaded);
    let out = daemon.path("out.tar");
    run(&mut ours(&daemon.host(), &["save", "-o", out.to_str().unwrap(), "busybox", "other"]), b"").ok();
    assert!(fs::read(&out).unwrap() == archive);
    assert_eq!(daemon.requests().last().unwrap().query, "names=busybox&names=other");
    let missing = run(&mut ours(&daemon.host(), &["load", "-i", "/nowhere/at/all"]), b"");
    assert!(missing.failed().contains("`/nowhere/at/all`"));
}

#[test]
fn a_daemon_that_is_not_there_or_makes_no_sense() {
    let output = run(&mut ours("unix:///nowhere/at/all.sock", &["ps"]), b"");
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (
            Some(1),
            "Cannot connect to the Docker daemon at unix:///nowhere/at/all.sock. Is the docker daemon running?\n"
        )
    );
    let output = run(&mut ours("unix:///nowhere/at/all.sock", &["version"]), b"");
    assert_eq!(output.code, Some(1));
    assert!(output.stdout.contains("API version:"), "{}", output.stdout);
    let nonsense = StandIn::start(|_| Reply::Body(b"<html>".to_vec()));
    let output = run(&mut ours(&nonsense.host(), &["ps"]), b"").failed();
    assert!(output.starts_with("The daemon answered something that is not understood: "), "{output}");
    let wrong = StandIn::start(|_| Reply::Json(200, json!({"unexpected": 1})));
    for arguments in [["ps", "-a"], ["images", "-a"], ["network", "ls"], ["system", "df"]] {
        assert!(run(&mut ours(&wrong.host(), &arguments), b"").code.is_some());
    }
}

/// A pseudo-terminal: our end, and the end of the program.
fn terminal() -> (File, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(master), OwnedFd::from(slave))
}

fn on_terminal(mut command: Command, slave: &OwnedFd) -> Child {
    let end = || Stdio::from(slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

fn is_raw(terminal: &OwnedFd) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// Reads from the terminal until the text is there.
fn read_until(master: &mut File, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        if master.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        seen.push(byte[0]);
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.contains(text), "{seen:?}");
    seen
}

#[test]
fn a_terminal_is_raw_for_as_long_as_the_process_and_told_of_its_size() {
    let daemon = one_container(5, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        let mut typed = [0; 4];
        stream.read_exact(&mut typed).unwrap();
        // As typed: ctrl-c and the carriage return are the process's business.
        assert_eq!(&typed, b"a\x03\r\x1a");
        stream.get_mut().write_all(b"bye\r\n").unwrap();
        close(&stream);
    });
    let (mut master, slave) = terminal();
    resize(&slave, 40, 120);
    assert!(!is_raw(&slave));
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    wait_for("the raw terminal", || is_raw(&slave));
    let sizes = || -> Vec<String> {
        let requests = daemon.requests();
        requests
            .into_iter()
            .filter(|request| request.path.ends_with("/resize"))
            .map(|request| request.query)
            .collect()
    };
    wait_for("the first size", || sizes() == ["h=40&w=120"]);
    resize(&slave, 50, 130);
    send(&child, "WINCH");
    wait_for("the second size", || sizes() == ["h=40&w=120", "h=50&w=130"]);
    master.write_all(b"a\x03\r\x1a").unwrap();
    read_until(&mut master, "bye");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!is_raw(&slave));
}

#[test]
fn detach_keys_leave_the_process_alone_and_the_terminal_as_it_was() {
    let daemon = one_container(0, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        // Nothing of the sequence arrives.
        assert_eq!(read_all(&mut stream), b"x");
    });
    let (mut master, slave) = terminal();
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    wait_for("the raw terminal", || is_raw(&slave));
    master.write_all(b"x\x10").unwrap();
    master.write_all(b"\x11").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
}

#[test]
fn a_signal_restores_the_terminal() {
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let daemon = one_container(0, |mut stream| {
            stream.get_mut().write_all(b"prompt> ").unwrap();
            drop(read_all(&mut stream));
        });
        let (mut master, slave) = terminal();
        let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
        read_until(&mut master, "prompt> ");
        wait_for("the raw terminal", || is_raw(&slave));
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!is_raw(&slave), "{signal}");
    }
}

#[test]
fn a_daemon_that_dies_restores_the_terminal() {
    let daemon = one_container(0, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        close(&stream);
    });
    let (mut master, slave) = terminal();
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
}

#[test]
fn the_program_is_also_swarm() {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_engine")));
    command.arg0("swarm").arg("--help");
    let help = run(&mut command, b"").ok();
    assert!(help.starts_with("Usage:  docker swarm COMMAND"), "{help}");
    for name in ["init", "join", "join-token", "leave", "update", "ca", "unlock", "unlock-key"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
    }
    let daemon = StandIn::start(|_| Reply::error(503, "Swarm mode is not supported by this engine yet"));
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_engine")));
    command.arg0("swarm").arg("init").env("DOCKER_HOST", daemon.host());
    let refused = run(&mut command, b"").failed();
    assert_eq!(refused, "Error response from daemon: Swarm mode is not supported by this engine yet\n");
}

fn ours_against(engine: &Engine, arguments: &[&str]) -> Output {
    run(&mut ours(&format!("unix://{}", engine.socket().display()), arguments), b"")
}

#[test]
fn both_clients_show_a_real_daemon_alike() {
    let engine = Engine::start();
    engine.load_busybox();
    let script = "echo out; echo err >&2; exec sleep 1000";
    let made = ours_against(
        &engine,
        &["run", "-d", "--name", "web", "-l", "a=b", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script],
    );
    assert_eq!(made.ok().trim().len(), 64);
    engine.docker(["create", "--name", "other", "-m", "64m", "busybox", "true"]).ok();
    for line in [
        "ps -a --no-trunc --format '{{.ID}} {{.Image}} {{.Command}} {{.Ports}} {{.Names}} {{.State}} {{.Labels}} {{.Networks}}'",
        "ps -a --format 'table {{.ID}}\\t{{.Image}}\\t{{.Names}}\\t{{.Label \"a\"}}'",
        "ps -aq",
        "ps -q -f name=web",
        "ps -q -f status=exited",
        "ps -lq",
        "images --no-trunc",
        "images -q",
        "images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}'",
        "inspect web",
        "inspect busybox",
        "inspect -f '{{.Id}} {{.State.Status}} {{.HostConfig.Memory}} {{.Config.Hostname}} {{.RestartCount}}' web other",
        "inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}' web",
        "inspect -f '{{json .Config.Labels}} {{index .Config.Labels \"a\"}}' web",
        "inspect -f '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}' web",
        "port web",
        "port web 80",
        "logs web",
        "logs --tail 1 web",
        "history busybox",
        "network ls",
        "network inspect bridge",
        "version -f '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}} {{.Server.Arch}}'",
        "info -f '{{.Containers}} {{.ContainersRunning}} {{.Images}} {{.Driver}} {{.ServerVersion}}'",
        "inspect nope",
        "logs nope",
        "start nope",
        "rm nope",
        "rmi nope",
        "stop nope",
        "exec nope true",
        "exec other true",
        "attach other",
        "network inspect nope",
        "run --name web busybox",
        "run busybox nope",
        "run busybox /etc/passwd",
        "run --rm busybox sh -c 'exit 42'",
        "run --rm busybox sh -c 'kill -9 $$'",
        "run --rm busybox echo hello",
        "exec web sh -c 'echo here; exit 3'",
        "exec web nope",
        "tag busybox again:1",
        "rmi again:1",
        "rename other third",
        "rename third other",
        "pause web",
        "unpause web",
        "swarm init",
    ] {
        let words = split(line);
        let theirs = engine.docker(&words);
        let mine = ours_against(&engine, &words);
        // Each `run` that fails to start makes a container with a new identifier; the texts have none.
        assert_eq!(
            (mine.code, &mine.stdout, &mine.stderr),
            (theirs.code, &theirs.stdout, &theirs.stderr),
            "{line}"
        );
    }
    let removed = ours_against(&engine, &["rm", "-f", "web", "other"]).ok();
    assert_eq!(removed, "web\nother\n");
}

#[test]
fn a_shell_in_a_real_container_has_our_terminal() {
    let engine = Engine::start();
    engine.load_busybox();
    let host = format!("unix://{}", engine.socket().display());
    let (mut master, slave) = terminal();
    resize(&slave, 33, 111);
    let mut child =
        on_terminal(ours(&host, &["run", "-it", "--rm", "--name", "shell", "busybox", "sh"]), &slave);
    read_until(&mut master, "/ # ");
    master.write_all(b"stty size; echo mar''ker\r").unwrap();
    read_until(&mut master, "marker");
    wait_for("the size of the terminal in the container", || {
        let sizes = engine.docker([
            "exec",
            "shell",
            "sh",
            "-c",
            "stty size < /dev/console || stty size < /dev/pts/0",
        ]);
        sizes.stdout.contains("33 111")
    });
    // Leaves with the keys, comes back with `attach`, and ends the shell.
    master.write_all(b"\x10\x11").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
    let mut child = on_terminal(ours(&host, &["attach", "shell"]), &slave);
    wait_for("the raw terminal", || is_raw(&slave));
    master.write_all(b"echo mar''ker2; exit 6\r").unwrap();
    read_until(&mut master, "marker2");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert!(!is_raw(&slave));
}

#[test]
fn input_flows_through_a_real_container() {
    let engine = Engine::start();
    engine.load_busybox();
    let host = format!("unix://{}", engine.socket().display());
    let input = vec![b'x'; 5_000_000];
    let output = run(&mut ours(&host, &["run", "--rm", "-i", "busybox", "wc", "-c"]), &input).ok();
    assert_eq!(output.trim(), "5000000");
    engine.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let output = run(&mut ours(&host, &["exec", "-i", "box", "wc", "-c"]), &input).ok();
    assert_eq!(output.trim(), "5000000");
    let output = run(&mut ours(&host, &["run", "--rm", "-i", "busybox", "cat"]), &input);
    assert_eq!(output.stdout.len(), input.len());
}
