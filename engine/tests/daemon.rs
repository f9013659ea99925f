//! The daemon from outside: its API's frame, TLS, reload, stop, prune.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

mod harness;

#[path = "daemon/cleaning.rs"]
mod cleaning;
#[path = "daemon/metrics.rs"]
mod metrics;
#[path = "daemon/power_loss.rs"]
mod power_loss;
#[path = "daemon/strangers.rs"]
mod strangers;
#[path = "daemon/unread.rs"]
mod unread;

use harness::{Engine, run, wait_for};

#[test]
fn ping_tells_clients_what_they_need_to_know() {
    let engine = Engine::start();
    for method in ["GET", "HEAD"] {
        let answer = engine.http(method, "/_ping", b"");
        assert_eq!(answer.status, 200);
        let header = |name: &str| answer.headers.get(name).map(String::as_str);
        assert_eq!(header("api-version"), Some("1.51"));
        assert_eq!(header("ostype"), Some("linux"));
        assert_eq!(header("docker-experimental"), Some("false"));
        assert_eq!(header("swarm"), Some("inactive"));
        assert!(header("server").unwrap().starts_with("Engine/"));
        assert_eq!(answer.body, if method == "GET" { &b"OK"[..] } else { b"" });
    }
}

#[test]
fn versions_and_unknown_paths_are_answered_in_dockers_words() {
    let engine = Engine::start();
    let message = |method: &str, path: &str| {
        let answer = engine.http(method, path, b"");
        (answer.status, answer.json()["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(engine.http("GET", "/v1.24/version", b"").status, 200);
    assert_eq!(engine.http("GET", "/v1.51/version", b"").status, 200);
    let too_old = "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to \
                   a newer version";
    assert_eq!(message("GET", "/v1.10/version"), (400, too_old.to_owned()));
    let too_new = "client version 1.99 is too new. Maximum supported API version is 1.51";
    assert_eq!(message("GET", "/v1.99/version"), (400, too_new.to_owned()));
    for (method, path) in
        [("GET", "/nothing"), ("GET", "/"), ("DELETE", "/version"), ("GET", "/v1.44/"), ("GET", "/%ff")]
    {
        assert_eq!(message(method, path), (404, "page not found".to_owned()), "{method} {path}");
    }
    let not_a_manager = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
                         this node to swarm and try again.";
    for path in ["/swarm", "/nodes", "/services", "/v1.44/tasks", "/secrets", "/configs"] {
        assert_eq!(message("GET", path), (503, not_a_manager.to_owned()), "{path}");
    }
    let (status, text) = message("POST", "/swarm/init");
    assert_eq!((status, text.contains("not supported by this engine yet")), (501, true), "{text}");
}

#[test]
fn the_stock_client_shows_version_and_info() {
    let engine = Engine::start_with("{}", &["--label", "place=test"]);
    let version = engine.docker(["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}"]).ok();
    assert_eq!(version.trim(), format!("{} 1.51", env!("CARGO_PKG_VERSION")));
    let info = engine.docker(["info"]).ok();
    for expected in
        ["Storage Driver: overlay2", "place=test", "Swarm: inactive", "Live Restore Enabled: true", "seccomp"]
    {
        assert!(info.contains(expected), "{expected} is not in\n{info}");
    }
    let id = engine.docker(["info", "--format", "{{.ID}}"]).ok();
    let mut engine = engine;
    assert_eq!(engine.stop(), Some(0));
    engine.launch();
    assert_eq!(engine.docker(["info", "--format", "{{.ID}}"]).ok(), id, "the id stays");
}

fn validate(configuration: &str, flags: &[&str]) -> harness::Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("daemon.json");
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.args(["daemon", "--validate", "--config-file"]).arg(file).args(flags);
    run(&mut command, b"")
}

#[test]
fn a_configuration_can_be_checked_without_starting() {
    assert_eq!(validate(r#"{"log-opts": {"max-size": "5m"}}"#, &[]).ok(), "configuration OK\n");
    for (configuration, flags, expected) in [
        (r#"{"no-such-key": 1}"#, &[][..], "no-such-key"),
        (
            r#"{"labels": ["a=b"]}"#,
            &["--label", "c=d"],
            "specified both as a flag and in the configuration file: labels",
        ),
        (r#"{"hosts": ["tcp://0.0.0.0:2376"]}"#, &[], "without encryption"),
        (r#"{"tlsverify": true, "tlscacert": "/nonexistent"}"#, &[], "/nonexistent"),
    ] {
        let output = validate(configuration, flags);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{configuration}");
        assert!(output.stderr.contains(expected), "{configuration}: {}", output.stderr);
    }
    assert_eq!(validate("{}", &["--no-such-flag"]).code, Some(2));
}

#[test]
fn one_daemon_for_each_pid_file_and_a_killed_one_leaves_nothing_in_the_way() {
    let mut engine = Engine::start();
    let pid = engine.pid().to_string();
    assert_eq!(fs::read_to_string(engine.path("engine.pid")).unwrap().trim(), pid);
    let mut second = engine.enter(env!("CARGO_BIN_EXE_engine"));
    second.args([
        "daemon",
        "--config-file",
        "/dev/null",
        "--host",
        "unix:///run/other.sock",
        "--exec-root",
        "/run/other",
    ]);
    second.arg("--pidfile").arg(engine.path("engine.pid")).arg("--data-root").arg(engine.path("other"));
    let output = run(&mut second, b"");
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains(&pid), "{}", output.stderr);

    engine.kill();
    assert!(engine.socket().exists() && engine.path("engine.pid").exists());
    engine.launch();
    assert_eq!(engine.stop(), Some(0));
    assert!(!engine.socket().exists() && !engine.path("engine.pid").exists());
}

#[test]
fn the_socket_is_for_root_and_its_group_only() {
    let engine = Engine::start_with("{}", &["--group", "4242"]);
    let metadata = fs::metadata(engine.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&metadata), 4242);
    let mut without = Engine::prepare("{}", &["--group", "no-such-group"]);
    without.spawn();
    assert_eq!(without.wait(), Some(1));
    assert!(without.log().contains("no-such-group"), "{}", without.log());
}

/// A CA with what it signs.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    fn sign(&self, purpose: ExtendedKeyUsagePurpose, common_name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.extended_key_usages = vec![purpose];
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What `docker --tlsverify` reads; the server is always checked against `trusted`.
    fn client(&self, trusted: &Self, directory: PathBuf) -> PathBuf {
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ClientAuth, "client");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("ca.pem"), &trusted.certificate).unwrap();
        fs::write(directory.join("cert.pem"), certificate).unwrap();
        fs::write(directory.join("key.pem"), key).unwrap();
        directory
    }

    fn serve(&self, directory: &Path, common_name: &str) {
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ServerAuth, common_name);
        fs::write(directory.join("ca.pem"), &self.certificate).unwrap();
        fs::write(directory.join("server.pem"), certificate).unwrap();
        fs::write(directory.join("server-key.pem"), key).unwrap();
        fs::set_permissions(directory.join("server-key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// An engine on 127.0.0.1:2376 of its own network namespace.
fn engine_with_tls(authority: &Authority, more: &str) -> Engine {
    let mut engine = Engine::prepare("{}", &["--host", "tcp://127.0.0.1:2376"]);
    authority.serve(&engine.path("."), "first");
    write_configuration(&engine, more);
    engine.launch();
    engine
}

fn write_configuration(engine: &Engine, more: &str) {
    let path = |name: &str| engine.path(name).display().to_string();
    let (ca, certificate, key) = (path("ca.pem"), path("server.pem"), path("server-key.pem"));
    let configuration = format!(
        r#"{{"tlsverify": true, "tlscacert": "{ca}", "tlscert": "{certificate}", "tlskey": "{key}"{more}}}"#
    );
    fs::write(engine.path("daemon.json"), configuration).unwrap();
}

/// The stock client over TCP, from inside the namespace.
fn docker_over_tls(engine: &Engine, certificates: &Path, arguments: &[&str]) -> harness::Output {
    let mut command = engine.enter("docker");
    command.env("DOCKER_CONFIG", engine.path("docker-config")).env_remove("DOCKER_CONTEXT");
    command.args(["--host", "tcp://127.0.0.1:2376", "--tlsverify"]);
    for (flag, file) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
        command.arg(flag).arg(certificates.join(file));
    }
    run(command.args(arguments), b"")
}

#[test]
fn only_clients_of_our_authority_get_in() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let engine = engine_with_tls(&ours, "");
    let good = ours.client(&ours, engine.path("good"));
    let version = docker_over_tls(&engine, &good, &["version", "--format", "{{.Server.Version}}"]).ok();
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"));

    let bad = other.client(&ours, engine.path("bad"));
    let refused = docker_over_tls(&engine, &bad, &["version"]).failed();
    assert!(refused.contains("tls:"), "{refused}");

    // A server certificate does not make a client.
    let server_as_client = engine.path("server-as-client");
    ours.client(&ours, server_as_client.clone());
    fs::copy(engine.path("server.pem"), server_as_client.join("cert.pem")).unwrap();
    fs::copy(engine.path("server-key.pem"), server_as_client.join("key.pem")).unwrap();
    docker_over_tls(&engine, &server_as_client, &["version"]).failed();

    // No certificate.
    fs::copy(good.join("ca.pem"), engine.path("docker-config/ca.pem")).unwrap();
    let mut none = engine.enter("docker");
    none.env("DOCKER_CONFIG", engine.path("docker-config")).env_remove("DOCKER_CONTEXT");
    let refused = run(none.args(["--host", "tcp://127.0.0.1:2376", "--tls", "version"]), b"").failed();
    assert!(refused.contains("certificate required"), "{refused}");

    // No TLS: not a byte of HTTP.
    let script =
        r"exec 3<>/dev/tcp/127.0.0.1/2376; printf 'GET /version HTTP/1.1\r\nHost: x\r\n\r\n' >&3; cat <&3";
    let plain = engine.inside("bash", ["-c", script]);
    assert!(!plain.stdout.contains("HTTP") && !plain.stdout.contains("message"), "{}", plain.stdout);
}

#[test]
fn a_client_that_never_speaks_is_let_go() {
    let ours = Authority::new("ours");
    let engine = engine_with_tls(&ours, "");
    // Ends when the engine closes the connection.
    let output = engine.inside("bash", ["-c", "exec 3<>/dev/tcp/127.0.0.1/2376; cat <&3; echo closed"]);
    assert_eq!(output.ok(), "closed\n");
    wait_for("a word about it", || engine.log().contains("A TLS handshake took too long"));
}

#[test]
fn certificates_are_renewed_without_a_restart() {
    let (ours, next) = (Authority::new("ours"), Authority::new("next"));
    let engine = engine_with_tls(&ours, r#", "labels": ["age=old"]"#);
    let client = ours.client(&ours, engine.path("client"));
    // The same client, but only content with a server that the other authority signed.
    let demanding = ours.client(&next, engine.path("demanding"));
    let label =
        |certificates: &Path| docker_over_tls(&engine, certificates, &["info", "--format", "{{.Labels}}"]);
    assert_eq!(label(&client).ok(), "[age=old]\n");
    label(&demanding).failed();
    // A stream that is open across the reloads.
    let mut events = engine.enter("docker");
    events.env("DOCKER_CONFIG", engine.path("docker-config")).args([
        "--host",
        "tcp://127.0.0.1:2376",
        "--tlsverify",
    ]);
    for (flag, file) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
        events.arg(flag).arg(client.join(file));
    }
    let mut events =
        events.args(["events", "--filter", "type=image"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("a reader of events", || engine.http("GET", "/info", b"").json()["NEventsListener"] == 1);

    next.serve(&engine.path("."), "second");
    fs::write(engine.path("ca.pem"), &ours.certificate).unwrap();
    write_configuration(&engine, r#", "labels": ["age=new"]"#);
    engine.signal("HUP");
    wait_for("the new certificate", || label(&demanding).code == Some(0));
    assert_eq!(label(&demanding).ok(), "[age=new]\n");

    // What is wrong changes nothing.
    fs::write(engine.path("server.pem"), "no certificate").unwrap();
    engine.signal("HUP");
    wait_for("the complaint", || engine.log().contains("The certificates are not right"));
    fs::write(engine.path("daemon.json"), r#"{"labels": ["age=broken"]"#).unwrap();
    engine.signal("HUP");
    wait_for("the complaint", || engine.log().contains("The configuration is not right"));
    assert_eq!(label(&demanding).ok(), "[age=new]\n");

    engine.load_busybox();
    let mut line = String::new();
    BufReader::new(events.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("image load"), "the old connection goes on: {line}");
    events.kill().unwrap();
    events.wait().unwrap();
}

#[test]
fn a_stop_ends_open_streams() {
    let mut engine = Engine::start();
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    wait_for("a reader of events", || engine.http("GET", "/info", b"").json()["NEventsListener"] == 1);
    assert_eq!(engine.stop(), Some(0));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200"), "{rest}");
}

#[test]
fn events_are_told_live_and_remembered() {
    let engine = Engine::start();
    let mut live = engine.docker_command(["events", "--format", "{{.Type}} {{.Action}}"]);
    let mut live = live.stdout(Stdio::piped()).spawn().unwrap();
    wait_for("a reader of events", || engine.http("GET", "/info", b"").json()["NEventsListener"] == 1);
    engine.load_busybox();
    engine.docker(["tag", "busybox", "other:1"]).ok();
    engine.docker(["rmi", "other:1"]).ok();
    engine.docker(["rmi", "busybox"]).ok();
    let mut seen = BufReader::new(live.stdout.take().unwrap()).lines();
    for expected in ["image load", "image tag", "image untag", "image untag", "image delete"] {
        assert_eq!(seen.next().unwrap().unwrap(), expected);
    }
    live.kill().unwrap();
    live.wait().unwrap();
    let past = |filter: &str| {
        let format = "{{.Action}} {{.Actor.Attributes.name}}";
        let until = run(Command::new("date").arg("+%s.%N"), b"").ok();
        engine
            .docker([
                "events",
                "--since",
                "0",
                "--until",
                until.trim(),
                "--filter",
                filter,
                "--format",
                format,
            ])
            .ok()
    };
    assert_eq!(past("event=tag"), "tag other:1\n");
    // A name that is gone is told by what it named.
    let untagged = past("event=untag");
    assert_eq!(untagged.matches("untag sha256:").count(), 2, "{untagged}");
    assert_eq!(past("type=container"), "");
}

/// A layer with one file.
fn tar_of(name: &str) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(name.len() as u64);
    layer.append_data(&mut header, name, name.as_bytes()).unwrap();
    layer.into_inner().unwrap()
}

/// Both connections of a build become something else than HTTP inside of TLS.
#[test]
fn builds_go_over_tls() {
    let authority = Authority::new("ours");
    let engine = engine_with_tls(&authority, "");
    if !engine.with_plugins() {
        skipped::say(
            "buildx",
            "there are no plug-ins buildx and compose here: `cargo xtask test` fetches them",
        );
        return;
    }
    engine.load_busybox();
    let certificates = authority.client(&authority, engine.path("good"));
    let context = engine.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY file /\nRUN cat /file\n").unwrap();
    // More than what fits into one window of either protocol.
    fs::write(context.join("file"), "x".repeat(3 << 20)).unwrap();
    docker_over_tls(&engine, &certificates, &["build", "-q", "-t", "built", context.to_str().unwrap()]).ok();
    assert_eq!(engine.docker(["run", "--rm", "built", "wc", "-c", "/file"]).ok(), "3145728 /file\n");
}
