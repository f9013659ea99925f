//! What goes over the wire, with a daemon that is played.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};

use serde_json::json;

use crate::harness::run;
use crate::stand_in::{CONTAINER, Reply, StandIn, close, frame, read_all};
use crate::{clean, one_container, ours, send};

#[test]
fn input_is_half_closed_and_output_taken_apart() {
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).take(3_000_000).collect();
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
