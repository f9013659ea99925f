//! Whoever can reach a port without being let in: they hold nothing up, and make nobody else act for them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::{Authority, docker_over_tls, engine_with_tls};
use crate::harness::{Engine, run, wait_for};

/// Opens that many connections that never say a word; then, for each line of input, says how many of them are closed.
const SILENCE: &str = "for number in $(seq $1); do exec {one}<>/dev/tcp/127.0.0.1/2376; all=\"$all $one\"; done; echo open; \
                       while read line; do closed=0; for one in $all; do \
                       if read -t 0 -u $one; then closed=$((closed+1)); fi; done; echo closed $closed; done";

#[test]
fn silent_connections_lock_nobody_out() {
    let ours = Authority::new("ours");
    let engine = engine_with_tls(&ours, "");
    let client = ours.client(&ours, engine.path("client"));
    let mut silent = engine.enter("bash");
    silent.args(["-c", SILENCE, "silence", "128"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut silent = silent.spawn().unwrap();
    let mut said = BufReader::new(silent.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "open");
    docker_over_tls(&engine, &client, &["version"]).ok();
    // Nobody had to be let go for it, whatever their time ended meanwhile.
    assert!(!engine.log().contains("Too many TLS handshakes"), "{}", engine.log());
    drop(silent.stdin.take());
    silent.wait().unwrap();
}

#[test]
fn the_kernel_asks_silent_connections_whether_they_are_there() {
    let ours = Authority::new("ours");
    let engine = engine_with_tls(&ours, "");
    let mut silent = engine.enter("bash");
    silent.args(["-c", SILENCE, "silence", "1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut silent = silent.spawn().unwrap();
    wait_for("a connection with a keepalive timer", || {
        let connections = fs::read_to_string(format!("/proc/{}/net/tcp", engine.pid())).unwrap();
        connections.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Ours is the end with the port 2376, established; the timer of kind 2 is the keepalive's.
            fields[1].ends_with(":0948") && fields[3] == "01" && fields[5].starts_with("02:")
        })
    });
    drop(silent.stdin.take());
    silent.wait().unwrap();
}

#[test]
fn pages_in_a_browser_get_nothing_from_a_port_without_tls() {
    let engine = Engine::start_with(r#"{"tlsverify": false}"#, &["--host", "tcp://127.0.0.1:2375"]);
    engine.load_busybox();
    for host in ["127.0.0.1", "localhost"] {
        let mut docker = engine.enter("docker");
        docker.env("DOCKER_CONFIG", engine.path("docker-config")).env_remove("DOCKER_CONTEXT");
        let address = format!("tcp://{host}:2375");
        let name = format!("from-{host}");
        run(docker.args(["--host", &address, "create", "--name", &name, "busybox", "true"]), b"").ok();
        let mut docker = engine.enter("docker");
        docker.env("DOCKER_CONFIG", engine.path("docker-config")).env_remove("DOCKER_CONTEXT");
        let target = format!("{name}:/tmp/");
        run(docker.args(["--host", &address, "cp", "/etc/hostname", &target]), b"").ok();
    }
    let answer = |head: &str, body: &str| {
        let length = body.len();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/2375; printf '%b' '{head}\\r\\nConnection: close\\r\\nContent-Length: {length}\\r\\n\
             \\r\\n{body}' >&3; head -n 1 <&3"
        );
        engine.inside("bash", ["-c", &script]).ok()
    };
    let status = |head: &str, body: &str| answer(head, body).split(' ').nth(1).unwrap_or_default().to_owned();
    let good = "Host: 127.0.0.1:2375";
    assert_eq!(status(&format!("GET /_ping HTTP/1.1\\r\\n{good}"), ""), "200");
    assert_eq!(status("GET /_ping HTTP/1.1\\r\\nHost: rebound.example:2375", ""), "403");
    let kill = "POST /containers/from-localhost/start HTTP/1.1\\r\\n";
    assert_eq!(status(&format!("{kill}{good}\\r\\nOrigin: https://evil.example"), ""), "403");
    assert_eq!(status(&format!("{kill}{good}\\r\\nSec-Fetch-Site: cross-site"), ""), "403");
    let create = format!("POST /containers/create HTTP/1.1\\r\\n{good}\\r\\nContent-Type: text/plain");
    assert_eq!(status(&create, "{\"Image\":\"busybox\"}"), "415");
    assert_eq!(engine.docker(["ps", "-aq"]).ok().lines().count(), 2);
}
