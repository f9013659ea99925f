//! Judges from outside: dockerd itself, libraries of clients by the tests of their own makers, and programs that live on the API.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

#[path = "clients/bollard.rs"]
mod bollard;
#[path = "clients/dockerd/mod.rs"]
mod dockerd;
#[path = "clients/gitlab.rs"]
mod gitlab;
mod harness;
#[path = "registry/servers.rs"]
#[allow(dead_code, unused_imports)]
mod servers;
mod web;

use harness::{Engine, Output, run};
use servers::Registry;

/// Not kept from whoever runs the tests, as what is printed would be.
fn say(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
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

/// Docker's library for Python as `cargo xtask clients` fetches it: the programs of its virtual environment are in `bin`, its tests
/// in `tests`.
fn python_library() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    Some(target.join("tools/docker-sdk")).filter(|library| library.join("tests").exists())
}

/// An engine that finds in "the public registry" what those tests want from there.
fn engine() -> (Engine, Registry) {
    let configuration = json!({ "registry-mirrors": ["http://127.0.0.1:5000"] });
    let engine = Engine::start_with(&configuration.to_string(), &[]);
    let registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    engine.load_busybox();
    let dockerfile = "FROM busybox\n\
        RUN mkdir -p /var/opt && echo 'postgres:x:70:70::/:/bin/sh' >> /etc/passwd\n\
        CMD [\"/bin/sh\"]\n";
    let build = |name: &str, dockerfile: &str| {
        let name = format!("127.0.0.1:5000/library/{name}");
        engine.docker_with_input(["build", "-q", "-t", &name, "-"], dockerfile.as_bytes()).ok();
        engine.docker(["push", "-q", &name]).ok();
    };
    for name in ["alpine:3.10", "alpine:latest", "busybox:latest"] {
        build(name, dockerfile);
    }
    // It shares nothing with the others, so that its removal makes room.
    let hello =
        "FROM scratch\nCOPY --from=busybox /bin/busybox /echo\nCMD [\"/echo\", \"Hello from Docker!\"]\n";
    build("hello-world", hello);
    engine.docker(["system", "prune", "--all", "--force"]).ok();
    for name in ["alpine:3.10", "alpine", "busybox"] {
        engine.docker(["pull", "-q", name]).ok();
    }
    (engine, registry)
}

/// Runs the tests in those files whose names are meant, and says how many passed.
fn python(is_meant: impl Fn(&str) -> bool) {
    let Some(library) = python_library() else {
        return skipped::say("Docker's library for Python", "`cargo xtask clients` fetches it");
    };
    let (engine, _registry) = engine();
    let tests = library.join("tests/integration");
    let mut found: Vec<PathBuf> = fs::read_dir(&tests).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with("_test.py") && is_meant(name)
    });
    found.sort();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = Command::new(library.join("bin/pytest"));
    command
        .args(["-q", "-p", "listed", "-p", "no:cacheprovider", "--timeout", "120", "--tb", "short"])
        .args(found);
    command.current_dir(&library).env("PYTHONPATH", own).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    command.env("DOCKER_CONFIG", engine.path("docker-config"));
    let Output { code, stdout, stderr, .. } = run(&mut command, b"");
    let count = stdout.lines().last().unwrap_or_default();
    say(&format!("Docker's library for Python: {count}"));
    assert_eq!(code, Some(0), "{stdout}\n{stderr}\nThe engine's log:\n{}", engine.log());
}

fn is_of_containers(file: &str) -> bool {
    file.starts_with("api_container")
}

fn is_of_objects(file: &str) -> bool {
    !file.starts_with("api_")
}

/// testcontainers for Python, in the engine's own network: its containers' ports are there.
#[test]
fn testcontainers_for_python() {
    let Some(library) = python_library() else {
        return skipped::say("testcontainers", "`cargo xtask clients` fetches it");
    };
    let engine = Engine::start();
    engine.load_busybox();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/testcontainers_test.py");
    let mut command = engine.enter(library.join("bin/pytest").to_str().unwrap());
    command.args(["-q", "-p", "no:cacheprovider", "--timeout", "120", "--tb", "short"]).arg(tests);
    if !engine.with_plugins() {
        skipped::say("buildx", "neither it nor compose is in `target/tools`");
        command.args(["-k", "not compose"]);
    }
    command.current_dir(engine.path("")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    command.env("DOCKER_CONFIG", engine.path("docker-config")).env("TESTCONTAINERS_RYUK_DISABLED", "true");
    let Output { code, stdout, stderr, .. } = run(&mut command, b"");
    say(&format!("testcontainers for Python: {}", stdout.lines().last().unwrap_or_default()));
    assert_eq!(code, Some(0), "{stdout}\n{stderr}\nThe engine's log:\n{}", engine.log());
}

#[test]
fn the_python_library_and_containers() {
    python(is_of_containers);
}

#[test]
fn the_python_library_and_its_objects() {
    python(is_of_objects);
}

#[test]
fn the_python_library_and_everything_else() {
    python(|file| !is_of_containers(file) && !is_of_objects(file));
}
