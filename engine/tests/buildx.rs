//! Images from Dockerfiles, with the stock client and its plug-ins buildx and compose, which speak BuildKit's protocol.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

mod harness;

use harness::{Engine, Output};

/// An engine with `busybox`, plug-ins and a context of these files. `None`, and said, if there are no plug-ins.
fn engine(files: &[(&str, &str)]) -> Option<Engine> {
    let engine = Engine::start();
    if !engine.with_plugins() {
        skipped::say(
            "buildx",
            "there are no plug-ins buildx and compose here: `cargo xtask test` fetches them",
        );
        return None;
    }
    engine.load_busybox();
    for (name, content) in files {
        write(&engine, name, content);
    }
    Some(engine)
}

fn write(engine: &Engine, name: &str, content: &str) {
    let path = engine.path("context").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// Builds the context with the command that people type.
fn build(engine: &Engine, more: &[&str]) -> Output {
    let context = engine.path("context");
    let mut arguments = vec!["build", "--progress", "plain"];
    arguments.extend_from_slice(more);
    arguments.push(context.to_str().unwrap());
    engine.docker(arguments)
}

/// What a build leaves on disk besides images: nothing.
#[track_caller]
fn assert_nothing_left(engine: &Engine) {
    let entries =
        |path: &Path| fs::read_dir(path).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let empty = || {
        [engine.data_root().join("build/tmp"), engine.within(format!("{}/lent", engine.exec_root()))]
            .iter()
            .all(|folder| entries(folder).is_empty())
    };
    harness::wait_for("the end of what the build has left", empty);
    assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
}

#[test]
fn docker_build_and_buildx_make_images() {
    let Some(engine) = engine(&[
        (
            "Dockerfile",
            "FROM busybox\nCOPY file /file\nRUN echo said; cat /file > /copied\nCMD [\"cat\", \"/copied\"]\n",
        ),
        ("file", "content\n"),
        ("other", "not asked for\n"),
    ]) else {
        return;
    };
    let built = build(&engine, &["-t", "one", "-t", "team/two:2"]);
    let shown = built.stderr.clone();
    built.ok();
    for line in [
        "[internal] load build definition from Dockerfile",
        "[internal] load .dockerignore",
        "[internal] load build context",
        "[1/3] FROM docker.io/library/busybox:latest",
        "[2/3] COPY file /file",
        "[3/3] RUN echo said; cat /file > /copied",
        "exporting to image",
        "naming to docker.io/library/one:latest",
        "naming to docker.io/team/two:2",
    ] {
        assert!(shown.contains(line), "{line} is missing: {shown}");
    }
    assert_eq!(engine.docker(["run", "--rm", "one"]).ok(), "content\n");
    assert_eq!(engine.docker(["run", "--rm", "team/two:2"]).ok(), "content\n");
    let context = engine.path("context");
    let again = engine.docker(["buildx", "build", "-q", "-t", "three", context.to_str().unwrap()]);
    let id = again.ok();
    let own = engine.docker(["image", "inspect", "-f", "{{.Id}}", "one"]).ok();
    assert_eq!(id, own, "it was built before");
    assert_nothing_left(&engine);
}
