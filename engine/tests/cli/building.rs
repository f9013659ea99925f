//! `build` and `context` of both clients, by turns against one daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Engine, Output, run};
use crate::{ours, stock};

fn both(engine: &Engine, folder: &Path, arguments: &[&str], input: &[u8]) -> [Output; 2] {
    let host = format!("unix://{}", engine.socket().display());
    [stock(&host, arguments), ours(&host, arguments)]
        .map(|mut command: Command| run(command.current_dir(folder).env("DOCKER_BUILDKIT", "0"), input))
}

/// What differs from build to build.
fn plain(text: &str) -> String {
    let words = |line: &str| {
        let is_id = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        line.split(' ').map(|word| if is_id(word) { "ID" } else { word }).collect::<Vec<_>>().join(" ")
    };
    // Sizes of archives differ by how much they are padded.
    let lines = text.lines().filter(|line| !line.starts_with("Sending build context"));
    lines.map(words).collect::<Vec<_>>().join("\n")
}

#[test]
fn both_clients_build_alike() {
    let engine = Engine::start();
    engine.load_busybox();
    let folder = engine.path("context");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("Dockerfile"), "FROM busybox\nARG A=1\nCOPY . /all\nRUN echo $A $(ls /all)\n")
        .unwrap();
    fs::write(folder.join("sub/Other"), "FROM busybox\nRUN false\n").unwrap();
    fs::write(folder.join(".dockerignore"), "secret\n*.log\n").unwrap();
    for name in ["secret", "x.log", "kept"] {
        fs::write(folder.join(name), name).unwrap();
    }
    fs::write(engine.path("Outside"), "FROM busybox\nCOPY . /all\nRUN ls -a /all\n").unwrap();
    let outside = engine.path("Outside").display().to_string();
    let iid = engine.path("iid").display().to_string();
    let alone = b"FROM busybox\nRUN echo from stdin\n";
    for (arguments, input) in [
        (&["build", "--no-cache", "-t", "one", "--build-arg", "A=2", "."][..], &b""[..]),
        (
            &[
                "build",
                "--no-cache",
                "-t",
                "one:x",
                "--build-arg",
                "A=2",
                "--label",
                "a=b",
                "--memory",
                "64m",
                ".",
            ],
            b"",
        ),
        (&["build", "-q", "--iidfile", &iid, "."], b""),
        (&["build", "--no-cache", "-f", "sub/Other", "."], b""),
        (&["build", "--no-cache", "-f", &outside, "."], b""),
        (&["image", "build", "--no-cache", "-f", "-", "."], alone),
        (&["build", "--no-cache", "-"], alone),
        (&["build", "nowhere"], b""),
        (&["build", "-f", "nothing", "."], b""),
        (&["build", "-f", "-", "-"], b""),
        (&["build", "--target", "none", "."], b""),
        (&["build", "--ulimit", "nofile", "."], b""),
        (&["build"], b""),
    ] {
        let [theirs, mine] = both(&engine, &folder, arguments, input);
        assert_eq!(mine.code, theirs.code, "{arguments:?}\n{theirs:?}\n{mine:?}");
        assert_eq!(plain(&mine.stdout), plain(&theirs.stdout), "{arguments:?}");
        if theirs.code != Some(0) {
            let first = |text: &str| {
                let hints = ["DEPRECATED", "            ", "Install the buildx", "BuildKit is enabled"];
                let is_hint =
                    |line: &&str| line.is_empty() || hints.iter().any(|hint| line.starts_with(hint));
                text.lines().find(|line| !is_hint(line)).unwrap_or_default().to_owned()
            };
            assert_eq!(first(&mine.stderr), first(&theirs.stderr), "{arguments:?}");
        }
    }
    let id = engine.docker(["inspect", "-f", "{{.Id}}", "one"]).ok();
    assert!(!id.is_empty() && fs::read_to_string(&iid).unwrap().starts_with("sha256:"));
    let [_, pruned] = both(&engine, &folder, &["builder", "prune", "-af"], b"");
    assert!(pruned.ok().contains("Total reclaimed space: "));
}

#[test]
fn contexts_are_the_same_files_for_both_clients() {
    let engine = Engine::start();
    let config = engine.path("contexts");
    let host = format!("host=unix://{}", engine.socket().display());
    let call = |mut command: Command, more: &[&str]| {
        run(command.args(more).env_remove("DOCKER_HOST").env("DOCKER_CONFIG", &config), b"")
    };
    let theirs = |arguments: &[&str]| call(stock("", arguments), &[]);
    let mine = |arguments: &[&str]| call(ours("", arguments), &[]);
    theirs(&["context", "create", "one", "--description", "The first", "--docker", &host]).ok();
    let made = mine(&["context", "create", "two", "--docker", &host]);
    assert_eq!(
        (made.stdout.as_str(), made.stderr.as_str()),
        ("two\n", "Successfully created context \"two\"\n")
    );
    mine(&["context", "use", "one"]).ok();
    assert_eq!(theirs(&["context", "show"]).ok(), "one\n");
    for question in [
        &["context", "ls"][..],
        &["context", "ls", "--format", "json"],
        &["context", "inspect", "one", "two"],
        &["context", "inspect"],
        &["context", "rm", "one"],
        &["context", "create", "two", "--docker", &host],
        &["context", "create", "x/y", "--docker", &host],
        &["-c", "nope", "ps"],
        &["-c", "two", "-H", "unix:///x", "ps"],
        &["version", "-f", "{{.Server.Version}}"],
        &["-c", "two", "version", "-f", "{{.Server.Version}}"],
    ] {
        let (theirs, mine) = (theirs(question), mine(question));
        assert_eq!(
            (mine.code, &mine.stdout),
            (theirs.code, &theirs.stdout),
            "{question:?}\n{theirs:?}\n{mine:?}"
        );
        if question[0] == "context" {
            assert_eq!(mine.stderr, theirs.stderr, "{question:?}");
        }
    }
    theirs(&["context", "use", "two"]).ok();
    assert_eq!(mine(&["context", "show"]).ok(), "two\n");
    mine(&["context", "update", "two", "--description", "Other"]).ok();
    assert!(theirs(&["context", "inspect", "two"]).ok().contains("\"Description\": \"Other\""));
    mine(&["context", "create", "three", "--from", "two"]).ok();
    assert_eq!(theirs(&["context", "ls", "-q"]).ok(), "default\none\nthree\ntwo\n");
    mine(&["context", "rm", "-f", "two", "three"]).ok();
    assert_eq!(theirs(&["context", "ls", "-q"]).ok(), "default\none\n");
    assert_eq!(mine(&["context", "show"]).ok(), "default\n");
}
