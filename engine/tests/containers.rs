//! Containers from create to remove, with the stock docker command line and over the bare API.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod harness;

#[path = "containers/confinement.rs"]
mod confinement;
#[path = "containers/dialects.rs"]
mod dialects;
#[path = "containers/endings.rs"]
mod endings;
#[path = "containers/execs.rs"]
mod execs;
#[path = "containers/files.rs"]
mod files;
#[path = "containers/groups.rs"]
mod groups;
#[path = "containers/health.rs"]
mod health;
#[path = "containers/inputs.rs"]
mod inputs;
#[path = "containers/logging.rs"]
mod logging;
#[path = "containers/recovery.rs"]
mod recovery;
#[path = "containers/sandbox.rs"]
mod sandbox;
#[path = "containers/streams.rs"]
mod streams;
#[path = "containers/survival.rs"]
mod survival;
#[path = "containers/takeover.rs"]
mod takeover;
#[path = "containers/users.rs"]
mod users;
#[path = "containers/vanished.rs"]
mod vanished;
#[path = "containers/volumes.rs"]
mod volumes;
#[path = "containers/waiting.rs"]
mod waiting;

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
    engine.docker(["run", "--name", "keeper", "-v", "/data", "busybox", "touch", "/data/x"]).ok();
    let data = inspect(&engine, "keeper")["Mounts"][0]["Source"].as_str().unwrap().to_owned();
    let pruned = engine.docker(["container", "prune", "-f"]).ok();
    assert!(pruned.contains(&id), "{pruned}");
    assert!(Path::new(&data).join("x").exists(), "pruning never takes data");
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
fn events_tell_a_life() {
    let engine = engine();
    let since = now() - 1;
    engine.docker(["run", "--name", "told", "-d", "busybox", "sleep", "1000"]).ok();
    engine.docker(["pause", "told"]).ok();
    engine.docker(["unpause", "told"]).ok();
    engine.docker(["rename", "told", "again"]).ok();
    engine.docker(["stop", "-t", "0", "again"]).ok();
    engine.docker(["rm", "again"]).ok();
    let until = now() + 1;
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

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
