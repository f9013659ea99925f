//! What goes wrong, what is said of it, and that nothing is left.

use crate::harness::wait_for;
use crate::{assert_nothing_left, build, containers, engine, steps, write};

#[test]
fn a_command_that_fails_ends_the_build_with_its_code() {
    let engine =
        engine(&[("Dockerfile", "FROM busybox\nRUN echo before\nRUN echo out; exit 42\nRUN echo never\n")]);
    let output = build(&engine, &["--force-rm", "-t", "result"]);
    assert_eq!(output.code, Some(42), "{output:?}");
    let message = "The command '/bin/sh -c echo out; exit 42' returned a non-zero code: 42";
    assert!(output.stderr.contains(message), "{output:?}");
    assert!(
        steps(&output.stdout).contains(&"out".to_owned()) && !output.stdout.contains("Step 4/4"),
        "{output:?}"
    );
    assert_eq!(containers(&engine), 0);
    // Without the wish for more, the container stays to be looked at.
    build(&engine, &[]).failed();
    assert_eq!(containers(&engine), 1);
    let quiet = build(&engine, &["-q", "--force-rm"]);
    assert!(quiet.code == Some(42) && quiet.stderr.contains(message), "{quiet:?}");
    assert_eq!(engine.docker(["images", "-q", "result"]).ok(), "");
    assert_nothing_left(&engine);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    let engine = engine(&[("here", "")]);
    for (dockerfile, message) in [
        (
            "FROM busybox\n\nRUM true\n",
            "dockerfile parse error on line 3: unknown instruction: RUM (did you mean RUN?)",
        ),
        ("RUN true\n", "dockerfile parse error on line 1: no build stage in current context"),
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
        ("# nothing\n", "file with no instructions"),
        (
            "FROM busybox\nCOPY missing /\n",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat missing: file does not exist",
        ),
        ("FROM busybox\nCOPY here* /a/ /b/\n", "stat a: file does not exist"),
        ("FROM busybox\nCOPY *.none /\n", "COPY failed: no source files were specified"),
        ("FROM busybox\nCOPY here here /x\n", "the destination must be a directory and end with a /"),
        ("FROM busybox\nCOPY --from=5 / /\n", "invalid from flag value 5"),
        ("FROM busybox\nCOPY --chown=nobody-here here /\n", "can't find uid for nobody-here"),
        ("FROM busybox\nCOPY --chmod=u+x here /\n", "invalid chmod parameter"),
        ("FROM 127.0.0.1:1/here:1\n", "Could not reach https://127.0.0.1:1/v2/"),
        ("FROM ${EMPTY}\n", "base name (${EMPTY}) should not be blank"),
        ("FROM Bad\n", "must be lowercase"),
        ("FROM scratch\n", "No image was generated"),
        ("FROM scratch\nRUN true\n", "FROM scratch"),
        ("FROM --platform=linux/s390x busybox\n", "platform=linux/s390x"),
        ("FROM busybox\nRUN --security=insecure true\n", "RUN --security"),
        ("FROM busybox\nENV A=${B:?needed}\n", "dockerfile parse error on line 2: B: needed"),
        ("FROM busybox\nUSER\n", "dockerfile parse error on line 2: USER requires exactly one argument"),
        ("FROM busybox\nRUN [\"/missing\"]\n", "/missing"),
    ] {
        write(&engine, "Dockerfile", dockerfile);
        let output = build(&engine, &["--force-rm"]);
        assert!(output.code == Some(1) && output.stderr.contains(message), "{dockerfile}: {output:?}");
    }
    for (query, name) in [
        ("version=2&session=x", "session"),
        ("outputs=%5B%7B%22Type%22:%22tar%22%7D%5D", "outputs"),
        ("platform=linux/s390x", "platform"),
        ("buildargs=x", "buildargs"),
        ("memory=x", "memory"),
        ("t=Bad", "lowercase"),
    ] {
        let answer = engine.http("POST", &format!("/build?{query}"), &[0; 1024]);
        assert!(matches!(answer.status, 400 | 501), "{query}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(name), "{query}: {}", answer.text());
    }
    assert_eq!(containers(&engine), 0);
    assert_nothing_left(&engine);
}

/// Nobody waits for a build whose client has gone.
#[test]
fn a_client_that_goes_ends_its_build() {
    let engine = engine(&[(
        "Dockerfile",
        "FROM busybox AS other\nRUN sleep 1000\nFROM busybox\nRUN sleep 1001\nCOPY --from=other / /\n",
    )]);
    let context = engine.path("context");
    let mut client = engine
        .docker_command(["build", context.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("both commands", || engine.docker(["ps", "-q"]).ok().lines().count() == 2);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("the end of the build", || containers(&engine) == 0);
    wait_for("its folder to go", || {
        std::fs::read_dir(engine.data_root().join("build/tmp")).unwrap().count() == 0
    });
    assert_nothing_left(&engine);
}

#[test]
fn an_engine_that_is_killed_leaves_no_build_behind() {
    let mut engine = engine(&[("Dockerfile", "FROM busybox\nRUN echo done > /done\nRUN sleep 1000\n")]);
    let context = engine.path("context");
    let mut client = engine
        .docker_command(["build", context.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the second command", || {
        engine.docker(["ps", "--format", "{{.Command}}"]).ok().contains("sleep")
    });
    // A label makes no container a build's.
    engine
        .docker(["run", "-d", "--name", "own", "--label", "engine.build=1", "busybox", "sleep", "1000"])
        .ok();
    engine.kill();
    client.wait().unwrap();
    engine.launch();
    assert_eq!(engine.docker(["ps", "-a", "--format", "{{.Names}}"]).ok(), "own\n");
    engine.docker(["rm", "-f", "own"]).ok();
    write(&engine, "Dockerfile", "FROM busybox\nRUN exit 1\n");
    build(&engine, &[]).failed();
    assert_eq!(engine.stop(), Some(0));
    engine.launch();
    assert_eq!(containers(&engine), 1, "one that has failed is there to be looked at");
    let id = engine.docker(["ps", "-aq"]).ok();
    engine.docker(["commit", id.trim(), "seen"]).ok();
    let labels = engine.docker(["image", "inspect", "--format", "{{json .Config.Labels}}", "seen"]).ok();
    assert!(!labels.contains("engine.build"), "{labels}");
    engine.docker(["rmi", "seen"]).ok();
    assert_nothing_left(&engine);
    // What was done by then is not done again.
    write(&engine, "Dockerfile", "FROM busybox\nRUN echo done > /done\n");
    let again = build(&engine, &[]).ok();
    assert!(again.contains("Using cache"), "{again}");
}

#[test]
fn hostile_contexts_stay_in_their_place() {
    let engine = engine(&[]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        archive.append(&header, content).unwrap();
    };
    add("Dockerfile", tar::EntryType::Regular, "", b"FROM busybox\nCOPY way/passwd /seen\nCOPY up /up\n");
    add("way", tar::EntryType::Symlink, "/etc", b"");
    add("../../../../climbed", tar::EntryType::Regular, "", b"x");
    add("up", tar::EntryType::Symlink, "../../../../../etc/hostname", b"");
    let answer = engine.http("POST", "/build", &archive.into_inner().unwrap());
    assert!(answer.text().contains("stat way/passwd: file does not exist"), "{}", answer.text());
    for garbage in [&[7; 5000][..], b"\x1f\x8b\x08\x00broken", b"BZh11AY&SY"] {
        let answer = engine.http("POST", "/build", garbage);
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    assert_eq!(engine.http("POST", "/build", b"").status, 400);
    assert_nothing_left(&engine);
}
