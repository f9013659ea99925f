//! bollard, the library for Rust, by the tests that came with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Engine, run};
use crate::say;
use crate::servers::Registry;

/// What each test is listed as, by its name: `differs`, with the reason.
const LISTED: &str = include_str!("bollard.txt");

/// The programs of the tests, as `cargo xtask clients` builds them: the newest of each name.
fn programs() -> BTreeMap<String, PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("tools/bollard/target/debug/deps");
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort_by_key(|path| fs::metadata(path).and_then(|file| file.modified()).ok());
    let named = |path: PathBuf| {
        let (test, _) = path.file_name()?.to_str()?.split_once("_test-")?;
        path.extension().is_none().then(|| (test.to_owned(), path.clone()))
    };
    found.into_iter().filter_map(named).collect()
}

/// An engine, and a registry with what those tests want from there.
fn engine() -> (Engine, Registry) {
    let engine = Engine::start();
    engine.inside("ln", ["-s", engine.socket().to_str().unwrap(), "/run/docker.sock"]).ok();
    let registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &serde_json::json!({}));
    engine.load_busybox();
    for (name, dockerfile) in [
        ("alpine", "FROM busybox\nCMD [\"/bin/sh\"]\n"),
        (
            "fussybeaver/uhttpd",
            "FROM busybox\nRUN mkdir -p /www /usr/sbin /etc/config && echo hello > /www/index.html && \
             printf '\\nconfig uhttpd main\\n' > /etc/config/uhttpd && \
             printf '#!/bin/sh\\nexec httpd \"$@\"\\n' > /usr/sbin/run_uhttpd && chmod 755 /usr/sbin/run_uhttpd\nEXPOSE 80\n\
             CMD [\"/usr/sbin/run_uhttpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n",
        ),
        (
            "hello-world:linux",
            "FROM busybox\nRUN printf '#!/bin/sh\\necho\\necho Hello from Docker!\\n' > /hello && chmod 755 /hello\n\
             CMD [\"/hello\"]\n",
        ),
    ] {
        let name = format!("localhost:5000/{name}");
        engine.docker_with_input(["build", "-q", "-t", &name, "-"], dockerfile.as_bytes()).ok();
        engine.docker(["push", "-q", &name]).ok();
    }
    engine.docker(["system", "prune", "--all", "--force"]).ok();
    (engine, registry)
}

#[test]
fn bollard_by_its_own_tests() {
    let programs = programs();
    if programs.is_empty() {
        return skipped::say("bollard", "`cargo xtask clients` builds its tests, which takes minutes");
    }
    let (engine, _registry) = engine();
    let (mut passed, mut wrong, mut listed) = (0, Vec::new(), 0);
    for program in programs.into_values() {
        let mut command = engine.enter(program.to_str().unwrap());
        command.args(["--test-threads", "1"]);
        command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
        command.env("REGISTRY_HTTP_ADDR", "localhost:5000").env("REGISTRY_PASSWORD", "unused");
        let output = run(&mut command, b"");
        for line in output.stdout.lines().filter_map(|line| line.strip_prefix("test ")) {
            let Some((name, outcome)) = line.split_once(" ... ") else { continue };
            let is_listed = LISTED.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
            match (outcome, is_listed) {
                ("ok", false) => passed += 1,
                ("FAILED", true) => listed += 1,
                ("ignored", _) => {}
                _ => wrong.push(format!("{name}: {outcome}\n{}", output.stdout)),
            }
        }
    }
    say(&format!("bollard: {passed} passed, {listed} differ as listed, {} otherwise", wrong.len()));
    assert!(wrong.is_empty(), "{}\nThe engine's log:\n{}", wrong.join("\n"), engine.log());
}
