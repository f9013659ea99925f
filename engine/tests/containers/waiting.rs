//! `wait`, with restart policies.

use super::*;

/// Begins to wait; the header of the answer says that it has begun.
pub(crate) fn begin(engine: &Engine, name: &str, condition: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let head = format!("POST /containers/{name}/wait?condition={condition} HTTP/1.1\r\nHost: e\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    reader
}

/// What the wait ends with.
fn answer(mut reader: BufReader<UnixStream>) -> Value {
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0);
        if let Some(start) = line.find("{\"") {
            return serde_json::from_str(&line[start..]).unwrap();
        }
    }
}

/// The code that the wait ends with.
pub(crate) fn end(reader: BufReader<UnixStream>) -> i64 {
    answer(reader)["StatusCode"].as_i64().unwrap()
}

/// The start says why, and nobody else: docker's `run` would print it twice.
#[test]
fn a_start_that_fails_is_no_end() {
    let engine = engine();
    create(&engine, "never", &json!({ "Image": "busybox", "Cmd": ["nope"] }));
    let next = begin(&engine, "never", "next-exit");
    assert_eq!(post(&engine, "/containers/never/start"), 400);
    assert_eq!(engine.http("DELETE", "/containers/never", b"").status, 204);
    let answer = answer(next);
    assert!(answer["Error"].is_null(), "{answer}");
}

/// As with dockerd: a restart that follows by itself, or that somebody asks for, does not hide the end before it.
#[test]
fn a_wait_ends_with_the_first_end() {
    let engine = engine();
    let body = |command: &str| {
        json!({ "Image": "busybox", "Cmd": ["sh", "-c", command],
                "HostConfig": { "RestartPolicy": { "Name": "always" } } })
    };
    create(&engine, "ever", &body("exit 3"));
    let next = begin(&engine, "ever", "next-exit");
    assert_eq!(post(&engine, "/containers/ever/start"), 204);
    assert_eq!(end(next), 3);
    wait_for("some restarts", || inspect(&engine, "ever")["RestartCount"].as_u64().unwrap() > 2);
    // It waits to be started again, which is not the same as not running; that it is stopped meanwhile is an end, too.
    let waits: Vec<_> =
        ["not-running", "next-exit"].map(|condition| begin(&engine, "ever", condition)).into();
    let removed = begin(&engine, "ever", "removed");
    assert!([204, 304].contains(&post(&engine, "/containers/ever/stop")));
    for reader in waits {
        end(reader);
    }
    // It does not run, so this is over at once.
    end(begin(&engine, "ever", "not-running"));
    assert_eq!(engine.http("DELETE", "/containers/ever", b"").status, 204);
    end(removed);

    create(&engine, "long", &body("trap 'exit 5' TERM; sleep 1000 & wait"));
    assert_eq!(post(&engine, "/containers/long/start"), 204);
    let waits: Vec<_> =
        ["not-running", "next-exit"].map(|condition| begin(&engine, "long", condition)).into();
    assert_eq!(post(&engine, "/containers/long/restart"), 204);
    for reader in waits {
        end(reader);
    }
    assert_eq!(engine.http("DELETE", "/containers/long?force=1", b"").status, 204);
}
