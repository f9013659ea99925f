//! Results that go to the client as files.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{assert_nothing_left, build, engine, harness, write};

const DOCKERFILE: &str = "FROM busybox AS made\nRUN mkdir -p /out/sub/.hidden /out/empty && cd /out && echo one > a.txt && ln a.txt sub/again && \
    ln -s ../a.txt sub/link && echo run > sub/run && chmod 4755 sub/run && touch -d '2020-01-02 03:04:05' sub/.hidden sub/run && \
    dd if=/dev/zero of=large bs=1000 count=200 && echo x > sub.txt && mkfifo pipe && printf y > \"$(printf 'caf\\351')\"\n\
    FROM scratch\nCOPY --from=made --chown=7:8 /out /\nRUN [\"/never\"]\n";

#[test]
fn results_go_to_directories_and_archives() {
    let dockerfile = DOCKERFILE.replace("RUN [\"/never\"]\n", "");
    let Some(engine) = engine(&[("Dockerfile", &dockerfile)]) else { return };
    let out = engine.path("out");
    build(&engine, &["-o", out.to_str().unwrap()]).ok();
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(
        (text("a.txt"), text("sub/again"), text("sub.txt")),
        ("one\n".into(), "one\n".into(), "x\n".into())
    );
    assert_eq!(fs::read_link(out.join("sub/link")).unwrap(), Path::new("../a.txt"));
    assert_eq!(fs::read(out.join("large")).unwrap(), vec![0; 200_000]);
    let run = fs::metadata(out.join("sub/run")).unwrap();
    assert_eq!((run.permissions().mode() & 0o7777, run.mtime(), run.uid()), (0o4755, 1_577_934_245, 0));
    assert_eq!(fs::metadata(out.join("sub/.hidden")).unwrap().mtime(), 1_577_934_245);
    assert!(out.join("empty").is_dir() && !out.join("bin").exists());
    let name = out.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    assert_eq!(fs::read_to_string(name).unwrap(), "y");
    // Nothing of it is an image that is shown.
    assert_eq!(engine.docker(["images", "-q"]).ok().lines().count(), 1);
    let context = engine.path("context");
    let archive = engine.path("out.tar");
    build(&engine, &["-o", &format!("type=tar,dest={}", archive.display())]).ok();
    let mut seen = std::collections::BTreeMap::new();
    let mut opened = tar::Archive::new(fs::File::open(&archive).unwrap());
    for entry in opened.entries().unwrap() {
        let entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let header = entry.header();
        seen.insert(name, (header.entry_type(), header.uid().unwrap(), header.mode().unwrap()));
    }
    assert_eq!(seen["sub.txt"], (tar::EntryType::Regular, 7, 0o644));
    assert_eq!(seen["sub/run"].2, 0o4755);
    assert_eq!(seen["sub/link"].0, tar::EntryType::Symlink);
    assert_eq!(seen["pipe"].0, tar::EntryType::Fifo);
    // Two names of one file are so where they go to as well.
    let whole = engine.path("whole");
    build(&engine, &["--target", "made", "-o", whole.to_str().unwrap()]).ok();
    let number = |name: &str| fs::metadata(whole.join("out").join(name)).unwrap().ino();
    assert_eq!(number("a.txt"), number("sub/again"));
    assert_ne!(number("a.txt"), number("sub.txt"));
    let mut command = engine.docker_command(["build", "-q", "-o", "-"]);
    let streamed = command.arg(&context).output().unwrap();
    assert!(streamed.status.success(), "{streamed:?}");
    assert_eq!(streamed.stdout, fs::read(&archive).unwrap());
    assert_nothing_left(&engine);
}

#[test]
fn exports_that_fail_say_so_and_leave_nothing() {
    let Some(engine) = engine(&[("Dockerfile", DOCKERFILE)]) else { return };
    let out = engine.path("out");
    let error = build(&engine, &["-o", out.to_str().unwrap()]).failed();
    assert!(error.contains("/never"), "{error}");
    // A client that cannot write what it is sent.
    write(&engine, "Dockerfile", "FROM busybox\n");
    let error = build(&engine, &["-o", "type=tar,dest=/dev/full"]).failed();
    assert!(error.contains("exporting to client tarball") && error.contains("no space left"), "{error}");
    // One that goes in the middle: its other end is closed before all was written.
    write(&engine, "Dockerfile", "FROM busybox\nRUN dd if=/dev/urandom of=/large bs=1000000 count=30\n");
    build(&engine, &["-t", "large"]).ok();
    let mut command = engine.docker_command(["build", "-q", "-o", "-"]);
    let mut client =
        command.arg(engine.path("context")).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1024];
    std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut first).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    assert_nothing_left(&engine);
}

/// Images on registries, by the name that buildx has for them, and what clients ask of the image itself.
#[test]
fn images_serve_as_caches() {
    let Some(engine) = engine(&[
        ("Dockerfile", "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /made\nCOPY file /\n"),
        ("file", "x"),
    ]) else {
        return;
    };
    build(&engine, &["-t", "source", "--build-arg", "BUILDKIT_INLINE_CACHE=1"]).ok();
    let made = |name: &str| engine.docker(["run", "--rm", name, "cat", "/made"]).ok();
    let before = made("source");
    let archive = engine.path("saved.tar");
    engine.docker(["save", "-o", archive.to_str().unwrap(), "source"]).ok();
    engine.docker(["rmi", "-f", "source"]).ok();
    engine.docker(["buildx", "prune", "-af"]).ok();
    engine.docker(["load", "-i", archive.to_str().unwrap()]).ok();
    let built = build(
        &engine,
        &["-t", "result", "--cache-from", "type=registry,ref=source", "--cache-from", "127.0.0.1:1/none"],
    );
    assert_eq!(made("result"), before);
    assert_eq!(built.stderr.matches("CACHED").count(), 2, "{}", built.stderr);
    assert!(
        built.stderr.contains("No steps are taken from 127.0.0.1:1/none: Could not reach"),
        "{}",
        built.stderr
    );
    let built = build(&engine, &["--cache-from", "type=local,src=/tmp", "--cache-to", "type=inline"]);
    assert!(built.code == Some(0) || built.stderr.contains("index.json"), "{}", built.stderr);
    assert_nothing_left(&engine);
}

/// A client's file keeps its attributes, and its name need not be text.
#[test]
fn files_of_clients_are_as_they_were() {
    let Some(engine) = engine(&[("Dockerfile", "FROM busybox\nCOPY . /x\n")]) else { return };
    let context = engine.path("context");
    fs::write(context.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "y").unwrap();
    write(&engine, "noted", "x");
    let noted = context.join("noted");
    let can = rustix::fs::setxattr(&noted, "user.colour", b"red", rustix::fs::XattrFlags::empty()).is_ok();
    build(&engine, &["-t", "result"]).ok();
    assert_eq!(engine.docker(["run", "--rm", "result", "sh", "-c", "cat /x/caf*"]).ok(), "y");
    if can {
        let archive = engine.path("out.tar");
        build(&engine, &["-o", &format!("type=tar,dest={}", archive.display())]).ok();
        let bytes = fs::read(&archive).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(has(b"SCHILY.xattr.user.colour=red\n"));
        rustix::fs::setxattr(&noted, "user.colour", b"blue", rustix::fs::XattrFlags::empty()).unwrap();
        let again = build(&engine, &["-t", "result"]);
        assert!(!again.stderr.contains("CACHED"), "another colour is a change: {}", again.stderr);
    }
    assert_nothing_left(&engine);
}

/// What goes to a command as a variable is nowhere on a disk.
#[test]
fn secrets_of_the_environment_are_in_no_record() {
    let Some(engine) = engine(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=two,env=TWO until [ -e /stop ]; do sleep 0.1; done; [ ${#TWO} = 11 ]\n",
    )]) else {
        return;
    };
    let mut command = engine.docker_command(["build", "-t", "result", "--secret", "id=two,env=OF_ENV"]);
    command.env("OF_ENV", "hidden-away").arg(engine.path("context"));
    let mut client = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut id = String::new();
    harness::wait_for("the command", || {
        engine.docker(["ps", "-q"]).ok().trim().clone_into(&mut id);
        !id.is_empty()
    });
    let root = engine.data_root();
    let found = harness::run(std::process::Command::new("grep").args(["-rl", "hidden-away"]).arg(&root), b"");
    assert_eq!(found.stdout, "");
    let inspected = engine.docker(["inspect", &id]).ok();
    assert!(!inspected.contains("hidden-away"), "{inspected}");
    engine.docker(["exec", &id, "touch", "/stop"]).ok();
    assert!(client.wait().unwrap().success());
    assert_nothing_left(&engine);
}
