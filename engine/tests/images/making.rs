//! Images that are made of containers and of archives.

use serde_json::json;

use crate::harness::Engine;
use crate::{assert_nothing_left, names_in};

/// A second from now: events have finer times than the client.
fn later() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    (now + 1).to_string()
}

#[test]
fn a_container_becomes_an_image() {
    let (engine, other) = (Engine::start(), Engine::start());
    engine.load_busybox();
    let change = "echo hello > /new && ln /new /again && ln -s new /link && mknod /null c 1 3 && mkfifo /pipe && \
                  rm /bin/wc && rm -r /tmp && mkdir /tmp && touch /tmp/only && chmod 2750 /tmp && chown 5:6 /tmp && \
                  dd if=/dev/zero of=/holes bs=1 count=1 seek=10485760 2>/dev/null && touch /etc/made";
    engine
        .docker(["run", "--name", "work", "-v", "/volume", "-e", "OWN=1", "busybox", "sh", "-c", change])
        .ok();
    let id = engine
        .docker([
            "commit",
            "-a",
            "Me <me@example.test>",
            "-m",
            "as it is",
            "-c",
            "ENV A=b",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "work",
            "own/image:1",
        ])
        .ok();
    let format = "{{.Id}} {{.Author}} {{.Comment}} {{len .RootFS.Layers}} {{.Config.Cmd}} {{.Config.Env}}";
    let shown = engine.docker(["image", "inspect", "-f", format, "own/image:1"]).ok();
    assert!(
        shown.starts_with(&format!("{} Me <me@example.test> as it is 2 [cat /new] [", id.trim())),
        "{shown}"
    );
    assert!(shown.contains("OWN=1") && shown.contains("A=b"), "{shown}");
    let history = engine
        .docker(["history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "own/image:1"])
        .ok();
    assert!(history.starts_with("as it is|sh -c echo hello"), "{history}");
    // As it came, it goes to another engine.
    let archive = engine.path("image.tar");
    engine.docker(["save", "-o", archive.to_str().unwrap(), "own/image:1"]).ok();
    other.docker(["load", "-i", archive.to_str().unwrap()]).ok();
    assert_eq!(other.docker(["images", "-q", "--no-trunc"]).ok(), id);
    let look = "cat /new; stat -c '%h %F' /again; readlink /link; stat -c '%F %t %T' /null; stat -c %F /pipe; ls /bin/wc; \
                ls /tmp; stat -c '%a %u %g' /tmp; stat -c '%s' /holes; du -k /holes | cut -f1; ls -d /volume /etc/hosts";
    for (engine, name) in [(&engine, "own/image:1"), (&other, "own/image:1")] {
        let seen = engine.docker(["run", "--rm", name, "sh", "-c", look]);
        let seen: Vec<&str> = seen.stdout.lines().collect();
        let expected = [
            "hello",
            "2 regular file",
            "new",
            "character special file 1 3",
            "fifo",
            "only",
            "2750 5 6",
            "10485761",
        ];
        assert_eq!(seen[..8], expected, "{seen:?}");
        assert!(seen[8].parse::<u32>().unwrap() < 1024, "it has no holes any more: {seen:?}");
        assert_eq!(engine.docker(["run", "--rm", name]).ok(), "hello\n");
    }
    // A repository alone is all of its tags, whether `latest` is among them or not.
    engine.docker(["tag", "own/image:1", "own/image:2"]).ok();
    engine.docker(["tag", "busybox", "own/image:base"]).ok();
    engine.docker(["save", "-o", archive.to_str().unwrap(), "own/image"]).ok();
    other.docker(["load", "-i", archive.to_str().unwrap()]).ok();
    let tags = ["images", "own/image", "--format", "{{.Tag}}"];
    let mut saved: Vec<String> = other.docker(tags).ok().lines().map(str::to_owned).collect();
    saved.sort();
    assert_eq!(saved, ["1", "2", "base"]);
    for name in ["own/image:2", "own/image:base"] {
        engine.docker(["rmi", name]).ok();
        other.docker(["rmi", name]).ok();
    }
    // What was made only to mount something on is no change.
    let listing =
        std::process::Command::new("tar").args(["-xOf"]).arg(&archive).arg("manifest.json").output().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    let layer = manifest[0]["Layers"][1].as_str().unwrap();
    let script = format!("tar -xOf '{}' '{layer}' | tar -tf -", archive.display());
    let entries = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let entries = String::from_utf8_lossy(&entries.stdout).into_owned();
    let mut entries: Vec<&str> = entries.lines().filter(|entry| !entry.starts_with("volume")).collect();
    entries.sort_unstable();
    assert_eq!(
        entries,
        [
            "again",
            "bin/",
            "bin/.wh.wc",
            "etc/",
            "etc/made",
            "holes",
            "link",
            "new",
            "null",
            "pipe",
            "tmp/",
            "tmp/.wh..wh..opq",
            "tmp/only"
        ]
    );
}

#[test]
fn a_commit_pauses_tells_and_refuses() {
    let engine = Engine::start();
    engine.load_busybox();
    engine.docker(["run", "-d", "--name", "work", "busybox", "sleep", "1000"]).ok();
    let one = engine.docker(["commit", "work"]).ok();
    let layers = engine.docker(["image", "inspect", "-f", "{{len .RootFS.Layers}}", one.trim()]).ok();
    assert_eq!(layers, "1\n", "where nothing was changed there is no layer");
    engine.docker(["commit", "--pause=false", "work", "named"]).ok();
    let events = engine.docker([
        "events",
        "--since",
        "1h",
        "--until",
        &later(),
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.Attributes.imageRef}}",
    ]);
    let events = events.ok();
    let told: Vec<&str> =
        events.lines().filter(|line| line.starts_with("container")).map(str::trim_end).collect();
    let after = told.iter().position(|line| line.contains(" start ")).unwrap_or(0);
    let told: Vec<String> =
        told[after..].iter().map(|line| line.replace("<no value>", "").trim_end().to_owned()).collect();
    assert_eq!(
        told.iter()
            .map(|line| line.strip_prefix("container ").unwrap())
            .skip_while(|line| *line != "pause")
            .collect::<Vec<_>>(),
        ["pause", "unpause", "commit", "commit named:latest"]
    );
    assert_eq!(engine.docker(["inspect", "-f", "{{.State.Status}}", "work"]).ok(), "running\n");
    for (arguments, message) in [
        (&["commit", "missing"][..], "No such container: missing"),
        (&["commit", "-c", "RUN true", "work"], "RUN is not a valid change command"),
        (&["commit", "-c", "BANANA", "work"], "unknown instruction: BANANA"),
        (&["commit", "-c", "EXPOSE x", "work"], "invalid containerPort: x"),
    ] {
        let error = engine.docker(arguments).failed();
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    let body = json!({ "Cmd": ["own"], "Labels": { "a": "b" } }).to_string();
    let answer = engine.http("POST", "/commit?container=work&repo=body&tag=1", body.as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let shown =
        engine.docker(["image", "inspect", "-f", "{{.Config.Cmd}} {{.Config.Labels}}", "body:1"]).ok();
    assert_eq!(shown, "[own] map[a:b]\n");
    let answer = engine.http("POST", "/commit?container=work&repo=Bad%20Name", b"");
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(names_in(&engine, "tmp"), Vec::<String>::new());
}

#[test]
fn an_archive_becomes_an_image() {
    let engine = Engine::start();
    engine.load_busybox();
    engine.docker(["run", "--name", "work", "busybox", "sh", "-c", "echo hello > /new"]).ok();
    let archive = engine.path("root.tar");
    engine.docker(["export", "-o", archive.to_str().unwrap(), "work"]).ok();
    let id = engine
        .docker([
            "import",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "-m",
            "from afar",
            archive.to_str().unwrap(),
            "own:2",
        ])
        .ok();
    assert_eq!(engine.docker(["images", "-q", "--no-trunc", "own"]).ok(), id);
    assert_eq!(engine.docker(["run", "--rm", "own:2"]).ok(), "hello\n");
    let history = engine.docker(["history", "--format", "{{.Comment}}", "own:2"]).ok();
    assert_eq!(history, "from afar\n");
    let archive = std::fs::read(&archive).unwrap();
    let id = engine.docker_with_input(["import", "--platform", "linux/arm64/v8", "-"], &archive).ok();
    let format = "{{.Os}}/{{.Architecture}}/{{.Variant}} {{.Comment}}";
    let shown = engine.docker(["image", "inspect", "-f", format, id.trim()]).ok();
    assert_eq!(shown, "linux/arm64/v8 Imported from -\n");
    let events =
        engine.docker(["events", "--since", "1h", "--until", &later(), "--filter", "event=import"]).ok();
    assert_eq!(events.lines().count(), 2, "{events}");
    for (arguments, message) in [
        (&["import", "--platform", "windows/amd64", "-"][..], "operating system is not supported: windows"),
        (&["import", "-c", "COPY a b", "-"], "COPY is not a valid change command"),
        (&["import", "https://example.test/root.tar"], "fromSrc=https://example.test/root.tar"),
        (&["import", "-", "Bad"], "must be lowercase"),
    ] {
        let error = engine.docker_with_input(arguments, &archive).failed();
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
}

#[test]
fn an_archive_that_is_none_leaves_nothing() {
    let engine = Engine::start();
    let error = engine.docker_with_input(["import", "-"], &[7; 10_000]).failed();
    assert!(error.contains("This is not a tar archive"), "{error}");
    assert_nothing_left(&engine);
}
