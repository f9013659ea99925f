//! Clients of builds that are killed in the middle: the build ends, and leaves nothing.

use std::fs::File;
use std::process::{Child, Stdio};

use super::{assert_nothing_left, engine, harness, write};
use harness::Engine;

fn begin(engine: &Engine) -> Child {
    let plugin = harness::plugins().unwrap().join("docker-buildx");
    let mut command = std::process::Command::new(plugin);
    // The plug-in itself, as a kill of the command line would leave it running.
    command.arg("build").arg(engine.path("context"));
    command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    command.env("DOCKER_CONFIG", engine.path("docker-config"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_command_ends_with_the_client() {
    let Some(engine) = engine(&[("Dockerfile", "FROM busybox\nRUN sleep 1000\n")]) else { return };
    let mut client = begin(&engine);
    harness::wait_for("the command", || !engine.docker(["ps", "-q"]).ok().is_empty());
    client.kill().unwrap();
    client.wait().unwrap();
    harness::wait_for("the end of the command", || engine.docker(["ps", "-aq"]).ok().is_empty());
    assert_nothing_left(&engine);
}

#[test]
fn files_on_their_way_end_with_the_client() {
    let Some(engine) = engine(&[("Dockerfile", "FROM busybox\nCOPY . /\n")]) else { return };
    write(&engine, "large", "");
    // Larger than anything that is sent before the client is killed.
    File::options().write(true).open(engine.path("context/large")).unwrap().set_len(40 << 30).unwrap();
    let mut client = begin(&engine);
    let folder = engine.data_root().join("build/tmp");
    harness::wait_for("the first bytes", || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.path().join("context/large").metadata().ok())
            .any(|file| file.len() > 0)
    });
    client.kill().unwrap();
    client.wait().unwrap();
    assert_nothing_left(&engine);
}

/// A call to a build that nobody has begun, and connections that say nothing, hold nothing up.
#[test]
fn requests_that_are_no_builds_are_refused() {
    let Some(engine) = engine(&[]) else { return };
    for path in ["/grpc", "/session"] {
        assert_eq!(engine.http("POST", path, b"").status, 400, "{path}");
    }
    assert_eq!(engine.http("GET", "/_ping", b"").headers["builder-version"], "2");
}
