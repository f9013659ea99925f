//! Libraries of clients, by the tests that their own makers have written of them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

mod harness;
#[path = "registry/servers.rs"]
#[allow(dead_code, unused_imports)]
mod servers;
mod web;

use harness::{Engine, Output, run};
use servers::Registry;

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
    // Not kept from whoever runs the tests, as what is printed would be.
    std::io::stderr().write_all(format!("Docker's library for Python: {count}\n").as_bytes()).unwrap();
    assert_eq!(code, Some(0), "{stdout}\n{stderr}\nThe engine's log:\n{}", engine.log());
}

fn is_of_containers(file: &str) -> bool {
    file.starts_with("api_container")
}

fn is_of_objects(file: &str) -> bool {
    !file.starts_with("api_")
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
