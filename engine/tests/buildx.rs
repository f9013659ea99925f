//! Images from Dockerfiles, with the stock client and its plug-ins buildx and compose, which speak BuildKit's protocol.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

mod context;
mod harness;
mod repositories;
mod web;

#[path = "buildx/exports.rs"]
mod exports;
#[path = "buildx/fetched.rs"]
mod fetched;
#[path = "buildx/lent.rs"]
mod lent;
#[path = "buildx/vanished.rs"]
mod vanished;

use context::write;
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
    // What takes no time is over before its client has said what it wants with the result.
    for _ in 0..10 {
        engine.docker(["build", "-q", context.to_str().unwrap()]).ok();
    }
    assert_nothing_left(&engine);
}

#[test]
fn options_reach_the_build() {
    let Some(engine) = engine(&[(
        "other/File",
        "ARG VERSION=1\nFROM busybox AS one\nARG VERSION\n\
         RUN echo \"$VERSION\" > /seen; grep fixed.test /etc/hosts | cut -f1 >> /seen; ulimit -n >> /seen; \
         df -k /dev/shm | tail -1 | awk '{print $2}' >> /seen; ls /sys/class/net >> /seen; cat /proc/sys/kernel/random/uuid > /time\n\
         FROM one AS two\nRUN exit 3\n",
    )]) else {
        return;
    };
    let file = engine.path("context/other/File");
    let options = [
        "-f",
        file.to_str().unwrap(),
        "-t",
        "result",
        "--target",
        "one",
        "--build-arg",
        "VERSION=2",
        "--build-arg",
        "NOBODY=1",
        "--label",
        "own=1 $HOME",
        "--add-host",
        "fixed.test:10.1.2.3",
        "--network",
        "none",
        "--shm-size",
        "8m",
        "--ulimit",
        "nofile=500:600",
    ];
    let built = build(&engine, &options);
    assert!(built.stderr.contains("One or more build-args [NOBODY] were not consumed"), "{}", built.stderr);
    built.ok();
    let seen = engine.docker(["run", "--rm", "result", "cat", "/seen"]).ok();
    assert_eq!(seen, "2\n10.1.2.3\n500\n8192\nlo\n");
    let label = engine.docker(["image", "inspect", "-f", "{{.Config.Labels.own}}", "result"]).ok();
    assert_eq!(label, "1 $HOME\n");
    let time = || engine.docker(["run", "--rm", "result", "cat", "/time"]).ok();
    let first = time();
    let again = build(&engine, &options);
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    assert_eq!(time(), first);
    for anew in [["--no-cache-filter", "one"], ["--no-cache-filter", "ONE"]] {
        let before = time();
        build(&engine, &[&options[..], &anew].concat()).ok();
        assert_ne!(time(), before);
    }
    let before = time();
    build(&engine, &[&options[..], &["--no-cache-filter", "two"]].concat()).ok();
    assert_eq!(time(), before);
    build(&engine, &[&options[..], &["--no-cache"]].concat()).ok();
    assert_ne!(time(), before);
    assert_nothing_left(&engine);
}

#[test]
fn contexts_come_from_folders_archives_and_stdin() {
    let Some(engine) = engine(&[
        (
            "Dockerfile",
            "FROM busybox\nCOPY . /all/\nCOPY --from=more own /more\nCOPY --from=base /etc/passwd /base\n",
        ),
        (".dockerignore", "*.md\n!README.md\nDockerfile\n"),
        ("a.md", "ignored"),
        ("README.md", "kept"),
        ("src/ä b", "kept"),
        ("../more/own", "of the other\n"),
        ("../more/.dockerignore", "large\n"),
        ("../more/large", "ignored"),
    ]) else {
        return;
    };
    let more = format!("more={}", engine.path("more").display());
    build(
        &engine,
        &["-t", "result", "--build-context", &more, "--build-context", "base=docker-image://busybox"],
    )
    .ok();
    let shown = engine
        .docker(["run", "--rm", "result", "sh", "-c", "cd /all && find . | sort; cat /more; wc -l < /base"])
        .ok();
    assert_eq!(shown, ".\n./.dockerignore\n./README.md\n./src\n./src/ä b\nof the other\n2\n");
    // A Dockerfile by stdin, with and without a context.
    let context = engine.path("context");
    let context = context.to_str().unwrap();
    let dockerfile = b"FROM busybox\nCOPY README.md /\n";
    engine.docker_with_input(["build", "-t", "by-stdin", "-f", "-", context], dockerfile).ok();
    assert_eq!(engine.docker(["run", "--rm", "by-stdin", "cat", "/README.md"]).ok(), "kept");
    engine.docker_with_input(["build", "-t", "alone", "-"], b"FROM busybox\nRUN echo x > /x\n").ok();
    // A context by stdin.
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("Dockerfile", "FROM busybox\nCOPY x /y\n"), ("x", "of the archive\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    engine.docker_with_input(["build", "-t", "archive", "-"], &archive).ok();
    assert_eq!(engine.docker(["run", "--rm", "archive", "cat", "/y"]).ok(), "of the archive\n");
    assert_nothing_left(&engine);
}

/// The context is brought when only the triggers of a base need it.
#[test]
fn triggers_find_their_context() {
    let Some(engine) = engine(&[
        ("Dockerfile", "FROM busybox AS a\nONBUILD COPY file /copied\nFROM a\n"),
        ("file", "one\n"),
    ]) else {
        return;
    };
    let copied = || engine.docker(["run", "--rm", "result", "cat", "/copied"]).ok();
    build(&engine, &["-t", "result"]).ok();
    assert_eq!(copied(), "one\n");
    build(&engine, &["-t", "triggering", "--target", "a"]).ok();
    write(&engine, "Dockerfile", "FROM base:latest\n");
    write(&engine, "file", "two\n");
    build(&engine, &["-t", "result", "--build-context", "base=docker-image://triggering"]).ok();
    assert_eq!(copied(), "two\n");
    // The same name in another form.
    write(&engine, "file", "three\n");
    build(
        &engine,
        &["-t", "result", "--build-context", "docker.io/library/base:latest=docker-image://triggering"],
    )
    .ok();
    assert_eq!(copied(), "three\n");
    assert_nothing_left(&engine);
}

#[test]
fn failures_say_what_and_where() {
    let Some(engine) =
        engine(&[("Dockerfile", "FROM busybox\nRUN echo before && \\\n    exit 3\nENV A=b\n")])
    else {
        return;
    };
    let error = build(&engine, &[]).failed();
    for part in [
        "> [2/2] RUN echo before &&     exit 3:",
        "before",
        "Dockerfile:2",
        "   2 | >>> RUN echo before && \\",
        "   3 | >>>     exit 3",
        "ERROR: failed to solve: process \"/bin/sh -c echo before &&     exit 3\" did not complete successfully: exit code: 3",
    ] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    for (dockerfile, options, parts) in [
        (
            "FROM busybox\n\nBANANA\n",
            &[][..],
            &["dockerfile parse error on line 3: unknown instruction: BANANA", "3 | >>> BANANA"][..],
        ),
        ("FROM busybox\nCOPY missing /\n", &[], &["missing", "2 | >>> COPY missing /"]),
        ("FROM busybox\n", &["-f", "nothing"], &["nothing"]),
        ("FROM busybox\n", &["--target", "none"], &["failed to reach build target none"]),
        ("FROM busybox\n", &["--platform", "linux/s390x"], &["linux/s390x", "not supported by this engine"]),
        (
            "# syntax=example/front:1\nFROM busybox\n",
            &[],
            &["example/front:1", "not supported by this engine"],
        ),
        (
            "FROM busybox\n",
            &["--output", "type=local,dest=/tmp/never,mode=delete"],
            &["type=local,mode=delete", "not supported by this engine"],
        ),
        ("FROM busybox\n", &["--provenance=mode=max"], &["Attestation", "not supported"]),
        ("FROM busybox\n", &["--cache-to", "type=local,dest=/tmp/never"], &["not supported"]),
    ] {
        write(&engine, "Dockerfile", dockerfile);
        let error = build(&engine, options).failed();
        for part in parts {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
    }
    assert_nothing_left(&engine);
}

#[test]
fn what_builds_keep_is_shown_and_pruned() {
    let Some(engine) = engine(&[(
        "Dockerfile",
        "FROM busybox\nRUN dd if=/dev/zero of=/one bs=1000 count=1000\n\
         RUN --mount=type=cache,target=/kept dd if=/dev/zero of=/kept/two bs=1000 count=2000\n",
    )]) else {
        return;
    };
    build(&engine, &["-t", "kept"]).ok();
    let shown = engine.docker(["buildx", "du"]).ok();
    assert!(shown.contains("Total:") && shown.contains("caches"), "{shown}");
    engine.docker(["buildx", "inspect"]).ok();
    assert!(engine.docker(["buildx", "ls"]).ok().contains("running"));
    let kept = engine.docker(["builder", "prune", "-f"]).ok();
    assert!(kept.contains("Total:\t0B"), "an image needs them: {kept}");
    engine.docker(["rmi", "kept"]).ok();
    let error = engine.docker(["buildx", "prune", "-f", "--filter", "description=x"]).failed();
    assert!(error.contains("not supported by this engine"), "{error}");
    let pruned = engine.docker(["builder", "prune", "-af"]).ok();
    assert!(pruned.contains("caches") && !pruned.contains("Total:\t0B"), "{pruned}");
    let shown = engine.docker(["buildx", "du"]).ok();
    assert!(shown.contains("Total:\t\t0B"), "{shown}");
}

#[test]
fn compose_builds_and_runs() {
    let Some(engine) = engine(&[
        (
            "compose.yaml",
            "name: test\nservices:\n  one:\n    build: {context: one, args: {A: b}}\n  two:\n    build: two\n    image: own:2\n",
        ),
        (
            "one/Dockerfile",
            "FROM busybox\nARG A\nCOPY file /\nRUN echo $A >> /file\nCMD [\"cat\", \"/file\"]\n",
        ),
        ("one/file", "of one\n"),
        ("two/Dockerfile", "FROM busybox\nCMD [\"echo\", \"of two\"]\n"),
    ]) else {
        return;
    };
    let file = engine.path("context/compose.yaml");
    let compose =
        |arguments: &[&str]| engine.docker([&["compose", "-f", file.to_str().unwrap()], arguments].concat());
    compose(&["build"]).ok();
    assert_eq!(engine.docker(["run", "--rm", "test-one"]).ok(), "of one\nb\n");
    write(&engine, "one/file", "changed\n");
    let said = compose(&["up", "--build", "--no-color"]).ok();
    assert!(said.contains("changed") && said.contains("of two"), "{said}");
    compose(&["down"]).ok();
    assert_nothing_left(&engine);
}
