//! Calls that come while a container ends: it is still there when they begin, and gone before they are through.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Waits for the next start of a container that does not run, so that only the head of the answer is awaited.
const ATTACH: &str = "/containers/brief/attach?stream=1&stdout=1&logs=1";

/// Calls on the container `brief`; each is a loop of its own.
const CALLS: [(&str, &str, &str); 17] = [
    ("POST", "/containers/brief/pause", ""),
    ("POST", "/containers/brief/unpause", ""),
    ("POST", "/containers/brief/update", r#"{"Memory": 67108864, "MemorySwap": -1}"#),
    ("POST", "/commit?container=brief&repo=made", "{}"),
    ("POST", "/containers/brief/kill?signal=0", ""),
    ("POST", "/containers/brief/resize?h=20&w=20", ""),
    ("POST", "/containers/brief/exec", r#"{"Cmd": ["true"], "AttachStdout": true}"#),
    ("POST", "/containers/brief/wait", ""),
    ("POST", "/networks/other/connect", r#"{"Container": "brief"}"#),
    ("POST", "/networks/other/disconnect", r#"{"Container": "brief"}"#),
    ("GET", "/containers/brief/stats?stream=0&one-shot=1", ""),
    ("GET", "/containers/brief/top", ""),
    ("GET", "/containers/brief/json?size=1", ""),
    ("GET", "/containers/brief/changes", ""),
    ("GET", "/containers/brief/archive?path=/etc", ""),
    ("GET", "/containers/brief/logs?stdout=1&follow=1", ""),
    ("POST", ATTACH, ""),
];

/// What an engine never answers here: it is not at fault when a container ends.
fn faults(engine: &Engine, (method, path, body): (&str, &str, &str), is_over: &AtomicBool) -> Vec<String> {
    let mut faults = Vec::new();
    while path == ATTACH && !is_over.load(Ordering::Acquire) {
        let mut stream = UnixStream::connect(engine.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: engine\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        if start.starts_with(b"HTTP/1.1 5") {
            faults.push(format!("{method} {path}: {}", String::from_utf8_lossy(&start)));
        }
    }
    let mut ask = |method: &str, path: &str, body: &str| {
        let answer = engine.http(method, path, body.as_bytes());
        // These make sense of a container that has ended as well.
        let always = ["commit", "update", "stats", "json", "changes", "archive", "logs", "wait"];
        let refusal = if always.iter().any(|word| path.contains(word)) { 400 } else { 500 };
        if answer.status >= refusal {
            faults.push(format!("{method} {path}: {} {}", answer.status, answer.text()));
        }
        answer
    };
    while !is_over.load(Ordering::Acquire) {
        let answer = ask(method, path, body);
        if path.ends_with("/exec") && answer.status == 201 {
            let id = answer.json()["Id"].as_str().unwrap().to_owned();
            ask("POST", &format!("/exec/{id}/start"), r#"{"Detach": true}"#);
            ask("POST", &format!("/exec/{id}/resize?h=20&w=20"), "");
        }
    }
    faults
}

/// What is mounted in a container is in an archive of it also if the container ends before the archive comes to that.
#[test]
fn an_archive_keeps_what_is_mounted_when_the_container_ends() {
    let engine = engine();
    let fill =
        "mkdir /top/a && head -c 20000000 /dev/zero >/top/a/much && echo kept >/top/vol/file && sleep 1000";
    engine.docker(["run", "-d", "--name", "ends", "-v", "data:/top/vol", "busybox", "sh", "-c", fill]).ok();
    wait_for("the files", || {
        engine.http("HEAD", "/containers/ends/archive?path=/top/vol/file", b"").status == 200
    });
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let request =
        "GET /containers/ends/archive?path=/top HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    // More than lies between the two is still to come.
    let mut answer = vec![0; 1000];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(post(&engine, "/containers/ends/kill"), 204);
    wait_for("the end", || status(&engine, "ends") == "exited");
    stream.read_to_end(&mut answer).unwrap();
    let answer = crate::harness::parse_answer(&answer).unwrap();
    let mut archive = tar::Archive::new(answer.body.as_slice());
    let mut names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
    assert!(names.any(|name| name.ends_with("top/vol/file")));
}

/// Says so when it is dropped, also by what has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn calls_that_come_while_a_container_ends_find_it_running_or_ended() {
    let engine = engine();
    engine.docker(["network", "create", "other"]).ok();
    let mut faults_of_all = BTreeSet::new();
    for round in 0..34 {
        create(
            &engine,
            "brief",
            &json!({ "Image": "busybox", "Cmd": ["sleep", "0.1"], "Tty": round % 2 == 0 }),
        );
        assert_eq!(post(&engine, "/containers/brief/start"), 204);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = Over(&is_over);
            // Not all at once, or each comes too seldom to meet the moment.
            let callers: Vec<_> = (0..4)
                .map(|caller| CALLS[(round * 4 + caller) % CALLS.len()])
                .map(|call| (&engine, call, &is_over))
                .map(|(engine, call, is_over)| scope.spawn(move || faults(engine, call, is_over)))
                .collect();
            wait_for("the end", || {
                // Somebody may have paused it.
                post(&engine, "/containers/brief/unpause");
                status(&engine, "brief") == "exited"
            });
            drop(over);
            for caller in callers {
                faults_of_all.extend(caller.join().unwrap());
            }
        });
        assert_eq!(engine.http("DELETE", "/containers/brief?force=1", b"").status, 204);
    }
    assert!(faults_of_all.is_empty(), "{faults_of_all:#?}");
}
