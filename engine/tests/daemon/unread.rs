//! A client that still sends its request gets the answer all the same, whatever route refuses it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::harness::{self, Answer, Engine, run};

/// More than the buffers of a socket hold.
const LARGE: usize = 3 << 20;

/// Requests that are answered without their body, and the status of the answer.
const NEEDLESS: [(&str, &str, u16); 24] = [
    ("POST", "/swarm/init", 501),
    ("POST", "/swarm/join", 501),
    ("POST", "/swarm/leave", 503),
    ("POST", "/swarm/update", 503),
    ("POST", "/services/create", 503),
    ("POST", "/secrets/create", 503),
    ("POST", "/configs/create", 503),
    ("POST", "/build?version=2", 501),
    ("POST", "/session", 400),
    ("POST", "/grpc", 400),
    ("POST", "/plugins/pull", 501),
    ("POST", "/images/create?fromImage=x", 500),
    ("POST", "/images/x/push", 200),
    ("POST", "/images/x/tag?repo=y", 404),
    ("DELETE", "/images/x", 404),
    ("GET", "/_ping", 200),
    ("GET", "/info", 200),
    ("POST", "/containers/x/start", 404),
    ("POST", "/containers/x/attach?stream=1&stdin=1", 404),
    ("PUT", "/containers/x/archive?path=/", 404),
    ("POST", "/exec/x/start", 404),
    ("POST", "/nothing/here", 404),
    ("BREW", "/containers/json", 404),
    ("POST", "/v9.99/containers/create", 400),
];

/// Requests whose body is read, and is not what it should be.
const NEEDED: [(&str, &str, u16); 7] = [
    ("POST", "/auth", 413),
    ("POST", "/containers/create", 413),
    ("POST", "/networks/create", 413),
    ("POST", "/volumes/create", 400),
    ("POST", "/images/load", 200),
    ("POST", "/containers/x/exec", 413),
    ("POST", "/commit?container=x", 413),
];

enum Framing {
    Length,
    Chunked,
}

fn connect(engine: &Engine) -> UnixStream {
    let stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
    stream
}

/// Sends all of a request, in two halves with `pause` between them, then reads the answer to its end.
fn send_all(
    engine: &Engine,
    (method, path): (&str, &str),
    framing: &Framing,
    size: usize,
    pause: Duration,
) -> Result<Answer, String> {
    let mut stream = connect(engine);
    let body = vec![b' '; size];
    let length = match framing {
        Framing::Length => format!("Content-Length: {size}"),
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n{length}\r\n\r\n");
    let mut write = |bytes: &[u8]| stream.write_all(bytes).map_err(|error| format!("while sending: {error}"));
    write(head.as_bytes())?;
    for half in body.chunks(size / 2) {
        if matches!(framing, Framing::Chunked) {
            write(format!("{:x}\r\n", half.len()).as_bytes())?;
        }
        write(half)?;
        if matches!(framing, Framing::Chunked) {
            write(b"\r\n")?;
        }
        std::thread::sleep(pause);
    }
    if matches!(framing, Framing::Chunked) {
        write(b"0\r\n\r\n")?;
    }
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|error| format!("while reading: {error}"))?;
    harness::parse_answer(&bytes).ok_or_else(|| "no answer".to_owned())
}

#[test]
fn a_large_request_is_answered_by_every_route() {
    let engine = Engine::start();
    for (method, path, status) in NEEDLESS.into_iter().chain(NEEDED) {
        // Larger than any JSON may be, where it is read at all.
        let size = if status == 413 { LARGE * 2 } else { LARGE };
        for framing in [Framing::Length, Framing::Chunked] {
            let answer = send_all(&engine, (method, path), &framing, size, Duration::ZERO);
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        }
    }
}

/// The pause only makes the client slow: it changes nothing for an engine that waits.
#[test]
fn a_slow_request_is_answered_by_every_route() {
    let engine = Engine::start();
    std::thread::scope(|scope| {
        for (method, path, status) in NEEDLESS {
            let engine = &engine;
            scope.spawn(move || {
                let pause = Duration::from_millis(300);
                let answer = send_all(engine, (method, path), &Framing::Length, 64, pause);
                let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
                assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
            });
        }
    });
}

#[test]
fn a_connection_goes_on_after_a_refusal() {
    let engine = Engine::start();
    let mut stream = connect(&engine);
    write!(stream, "POST /swarm/init HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE}\r\n\r\n").unwrap();
    stream.write_all(&vec![b' '; LARGE]).unwrap();
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 501 "), "{text}");
    assert!(text.contains("HTTP/1.1 200 OK") && text.ends_with("\r\n\r\nOK"), "{text}");
}

#[test]
fn who_asks_before_sending_is_told_at_once() {
    let engine = Engine::start();
    let ask = |path: &str| {
        let mut stream = connect(&engine);
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
        )
        .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        String::from_utf8_lossy(&first).into_owned()
    };
    assert_eq!(ask("/swarm/init"), "HTTP/1.1 501");
    assert_eq!(ask("/images/load"), "HTTP/1.1 100");
}

#[test]
fn a_header_that_is_too_long_is_answered() {
    let engine = Engine::start();
    let mut stream = connect(&engine);
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n").unwrap();
    stream.write_all(format!("X-Long: {}\r\n\r\n", "a".repeat(1 << 20)).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    assert_eq!(engine.http("GET", "/_ping", b"").status, 200);
}

/// What a user met: eight of thirty ended in `write: broken pipe`.
#[test]
fn the_stock_client_reads_every_refusal() {
    let engine = Engine::start();
    for _ in 0..60 {
        let said = engine.docker(["swarm", "init"]).failed();
        assert!(said.contains("Swarm mode is not supported by this engine yet"), "{said}");
    }
    // An archive that breaks at once, and goes on for long.
    let mut archive = vec![b'x'; LARGE];
    archive.extend(std::iter::repeat_n(0, LARGE));
    let mut load = Command::new("docker");
    load.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    load.env("DOCKER_CONFIG", engine.path("docker-config")).env_remove("DOCKER_CONTEXT").arg("load");
    let said = run(&mut load, &archive).failed();
    assert!(!said.contains("broken pipe") && !said.contains("EOF"), "{said}");
}
