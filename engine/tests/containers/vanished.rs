//! Clients that vanish, stall, or never come to the point: nothing of them stays, and nobody waits for them.

use super::*;

/// Open descriptors of the daemon, and of the supervisor of a running container.
fn descriptors(engine: &Engine, name: &str) -> (usize, usize) {
    let count = |pid: &str| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let process = inspect(engine, name)["State"]["Pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    (count(&engine.pid().to_string()), count(&parent))
}

/// Sends the head of a request and leaves as soon as there is an answer.
fn look_and_leave(engine: &Engine, method: &str, path: &str, more: &str) {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: engine\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    let start = String::from_utf8_lossy(&start).into_owned();
    assert!(["HTTP/1.1 200", "HTTP/1.1 101"].contains(&start.as_str()), "{method} {path}: {start}");
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let engine = engine();
    let silent = ["sh", "-c", "cat; sleep 1000"];
    create(&engine, "silent", &json!({ "Image": "busybox", "Cmd": silent, "OpenStdin": true }));
    create(&engine, "never", &json!({ "Image": "busybox", "Cmd": ["echo", "here"], "OpenStdin": true }));
    assert_eq!(post(&engine, "/containers/silent/start"), 204);
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let streams = "stream=1&stdin=1&stdout=1&stderr=1";
    let visits: Vec<(&str, String, &str, usize)> = vec![
        ("GET", "/events".into(), "", 2000),
        ("POST", "/containers/silent/wait".into(), "", 100),
        ("POST", "/containers/never/wait?condition=removed".into(), "", 100),
        ("GET", "/containers/silent/logs?stdout=1&follow=1".into(), "", 100),
        ("GET", "/containers/silent/stats".into(), "", 20),
        ("POST", format!("/containers/silent/attach?{streams}"), upgrade, 100),
        ("POST", format!("/containers/silent/attach?{streams}"), "", 100),
        ("POST", format!("/containers/never/attach?{streams}"), upgrade, 100),
        ("POST", format!("/containers/never/attach?{streams}"), "", 100),
    ];
    look_and_leave(&engine, "GET", "/events", "");
    wait_for("the first one to be gone", || engine.http("GET", "/info", b"").json()["NEventsListener"] == 0);
    let before = descriptors(&engine, "silent");
    for (method, path, more, times) in &visits {
        for _ in 0..*times {
            look_and_leave(&engine, method, path, more);
        }
        wait_for(&format!("the end of what {method} {path} held"), || {
            let now = descriptors(&engine, "silent");
            now.0 <= before.0 + 2 && now.1 <= before.1
        });
    }
    assert_eq!(engine.http("GET", "/info", b"").json()["NEventsListener"], 0);
    // Those who only closed their half are still served.
    let mut first = takeover(&engine, &format!("/containers/never/attach?{streams}"), "");
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(post(&engine, "/containers/never/start"), 204);
    let mut answer = Vec::new();
    first.read_to_end(&mut answer).unwrap();
    assert_eq!(frames(&answer).0, "here\n");
}

#[test]
fn an_attach_that_vanished_does_not_hold_up_the_output() {
    let engine = engine();
    let script = "read go; i=0; while [ $i -lt 60000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done";
    create(&engine, "flood", &json!({ "Image": "busybox", "Cmd": ["sh", "-c", script], "OpenStdin": true }));
    let mut reader = takeover(&engine, "/containers/flood/attach?stream=1&stdin=1&stdout=1", "");
    assert_eq!(post(&engine, "/containers/flood/start"), 204);
    reader.write_all(b"go\n").unwrap();
    let mut start = [0; 100];
    reader.read_exact(&mut start).unwrap();
    // It stalls until nothing fits between the two any more; then it is gone.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(status(&engine, "flood"), "running");
    drop(reader);
    wait_for("the end", || status(&engine, "flood") == "exited");
    let lines = engine.docker(["logs", "flood"]).ok();
    assert_eq!(lines.lines().count(), 60000);
}

/// A request whose body, or answer, goes no further.
fn stall(engine: &Engine, method: &str, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[0; 100]).unwrap();
    stream
}

#[test]
fn transfers_that_stall_keep_nobody_from_anything() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "alive", "busybox", "sleep", "1000"]).ok();
    engine.docker(["create", "--name", "still", "busybox", "sleep", "1000"]).ok();
    engine.docker(["create", "--name", "big", "busybox", "sleep", "1000"]).ok();
    let mut stalled = Vec::new();
    for _ in 0..35 {
        stalled.push(stall(&engine, "POST", "/images/load"));
        stalled.push(stall(&engine, "PUT", "/containers/alive/archive?path=/tmp"));
    }
    for _ in 0..5 {
        stalled.push(stall(&engine, "PUT", "/containers/still/archive?path=/tmp"));
        for path in [
            "/containers/big/export",
            "/containers/alive/export",
            "/containers/big/archive?path=/bin",
            "/images/busybox/get",
        ] {
            let mut stream = UnixStream::connect(engine.socket()).unwrap();
            stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n").as_bytes()).unwrap();
            // The answer has begun, and is larger than what lies between.
            stream.read_exact(&mut [0; 1000]).unwrap();
            stalled.push(stream);
        }
    }
    assert!(engine.http("GET", "/containers/json?all=1", b"").json().as_array().unwrap().len() == 3);
    // Containers whose files are under way are started, stopped and removed all the same.
    for name in ["still", "big"] {
        assert_eq!(post(&engine, &format!("/containers/{name}/start")), 204);
        assert_eq!(engine.http("DELETE", &format!("/containers/{name}?force=1"), b"").status, 204);
    }
    assert_eq!(engine.docker(["run", "--rm", "busybox", "echo", "fine"]).ok(), "fine\n");
    // A stalled download goes on where it was.
    let mut last = stalled.pop().unwrap();
    let mut count = 0;
    let mut buffer = vec![0; 1 << 16];
    while count < 500_000 {
        let read = last.read(&mut buffer).unwrap();
        assert!(read > 0, "the download ended after {count} bytes");
        count += read;
    }
}

#[test]
fn execs_that_are_never_started_or_whose_client_left_leave_nothing() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "host", "busybox", "sleep", "1000"]).ok();
    let make = || {
        let body = json!({ "Cmd": ["sleep", "1000"], "AttachStdout": true }).to_string();
        let answer = engine.http("POST", "/containers/host/exec", body.as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["Id"].as_str().unwrap().to_owned()
    };
    let first = make();
    assert_eq!(engine.http("GET", &format!("/exec/{first}/json"), b"").status, 200);
    for _ in 0..1000 {
        make();
    }
    assert_eq!(engine.http("GET", &format!("/exec/{first}/json"), b"").status, 404);
    // A body that is none, and a program that is none: known to have ended.
    let body = json!({ "Cmd": ["nosuch"], "AttachStdout": true }).to_string();
    let answer = engine.http("POST", "/containers/host/exec", body.as_bytes()).json();
    let id = answer["Id"].as_str().unwrap();
    engine.http("POST", &format!("/exec/{id}/start"), b"{\"Detach\": true}");
    let exec = engine.http("GET", &format!("/exec/{id}/json"), b"").json();
    assert_eq!((&exec["Running"], &exec["ExitCode"]), (&json!(false), &json!(127)));
    let folder = format!("{}/containers", engine.exec_root());
    let left = engine.inside("find", [folder.as_str(), "-name", "exec-*"]).ok();
    assert_eq!(left, "");
}
