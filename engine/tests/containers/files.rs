//! Volumes, and files in and out.

use super::*;

#[test]
fn volumes_keep_data_and_begin_with_the_image() {
    let engine = engine();
    let write = ["run", "--rm", "-v", "store:/etc", "busybox", "sh", "-c", "echo more > /etc/new; ls /etc"];
    let listed = engine.docker(write).ok();
    assert!(listed.contains("passwd") && listed.contains("new"), "{listed}");
    let read = ["run", "--rm", "-v", "store:/mnt:ro", "busybox", "sh", "-c", "cat /mnt/new; touch /mnt/x"];
    let again = engine.docker(read);
    assert_eq!(again.stdout, "more\n");
    assert!(again.stderr.contains("Read-only file system"), "{again:?}");
    let outer = engine.path("outer");
    fs::create_dir_all(outer.join("inner")).unwrap();
    engine.inside("mount", ["-t", "tmpfs", "x", outer.join("inner").to_str().unwrap()]).ok();
    let bind = format!("{}:/o:ro", outer.display());
    let below = engine.docker(["run", "--rm", "-v", &bind, "busybox", "touch", "/o/inner/x"]).failed();
    assert!(below.contains("Read-only file system"), "{below}");
    engine.docker(["run", "--name", "anon", "-v", "/data", "busybox", "touch", "/data/x"]).ok();
    let source = inspect(&engine, "anon")["Mounts"][0]["Source"].as_str().unwrap().to_owned();
    assert!(Path::new(&source).join("x").exists());
    let from = engine.docker(["run", "--rm", "--volumes-from", "anon", "busybox", "ls", "/data"]).ok();
    assert_eq!(from, "x\n");
    engine.docker(["rm", "-v", "anon"]).ok();
    assert!(!Path::new(&source).exists());
    assert!(engine.data_root().join("volumes/store/_data/new").exists());
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "store\n");
    engine.docker(["volume", "create", "--label", "kind=x", "extra"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-qf", "label=kind=x"]).ok(), "extra\n");
    let place = engine.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "store"]).ok();
    assert!(Path::new(place.trim()).join("new").exists(), "{place}");
    engine.docker(["create", "--name", "user", "-v", "store:/x", "-v", "/y", "busybox"]).ok();
    assert!(engine.docker(["volume", "rm", "store"]).failed().contains("volume is in use - ["));
    engine.docker(["rm", "user"]).ok();
    let pruned = engine.docker(["volume", "prune", "-f"]).ok();
    assert_eq!(pruned.lines().filter(|line| line.len() == 64).count(), 1, "{pruned}");
    engine.docker(["volume", "prune", "-af"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
    assert!(engine.docker(["volume", "rm", "store"]).failed().contains("no such volume"));
    let script = "df -k /scratch | tail -1; touch /scratch/x && echo fine; id -u";
    let tmpfs =
        ["run", "--rm", "--tmpfs", "/scratch:size=1m", "--shm-size", "2m", "busybox", "sh", "-c", script];
    let output = engine.docker(tmpfs).ok();
    assert!(output.contains("1024") && output.contains("fine"), "{output}");
}

#[test]
fn files_are_copied_in_and_out() {
    let engine = engine();
    let source = engine.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "content").unwrap();
    symlink("sub/file", source.join("link")).unwrap();
    engine
        .docker(["create", "--name", "still", "-v", "kept:/kept", "busybox", "cat", "/tmp/source/link"])
        .ok();
    engine.docker(["run", "-d", "--name", "alive", "busybox", "sleep", "1000"]).ok();
    for name in ["still", "alive"] {
        engine.docker(["cp", source.to_str().unwrap(), &format!("{name}:/tmp")]).ok();
        let out = engine.path(format!("out-{name}"));
        engine.docker(["cp", &format!("{name}:/tmp/source"), out.to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(out.join("link")).unwrap(), "content");
        let missing = engine.docker(["cp", &format!("{name}:/none"), "-"]).failed();
        assert!(missing.contains("Could not find the file /none in container"), "{missing}");
    }
    assert_eq!(engine.docker(["start", "-a", "still"]).ok(), "content");
    engine.docker(["cp", source.join("sub").to_str().unwrap(), "still:/kept/"]).ok();
    assert!(engine.data_root().join("volumes/kept/_data/sub/file").exists());
    // All of one that runs: what the kernel has below `/proc` is none of it.
    let whole = engine.path("whole");
    engine.docker(["cp", "alive:/", whole.to_str().unwrap()]).ok();
    assert!(whole.join("bin/busybox").exists() && whole.join("tmp/source/link").exists());
    assert_eq!(fs::read_dir(whole.join("proc")).unwrap().count(), 0);
    let changes = engine.docker(["diff", "alive"]).ok();
    assert_eq!(
        changes,
        "C /tmp\nA /tmp/source\nA /tmp/source/link\nA /tmp/source/sub\nA /tmp/source/sub/file\n"
    );
    engine.docker(["exec", "alive", "rm", "/etc/passwd"]).ok();
    assert!(engine.docker(["diff", "alive"]).ok().contains("D /etc/passwd\n"));
    let exported = engine.path("exported.tar");
    engine.docker(["export", "-o", exported.to_str().unwrap(), "alive"]).ok();
    let mut archive = tar::Archive::new(fs::File::open(&exported).unwrap());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    for (name, expected) in [
        ("tmp/source/sub/file", true),
        ("bin/busybox", true),
        ("proc/", true),
        ("proc/1/", false),
        (".dockerenv", true),
    ] {
        assert_eq!(names.iter().any(|found| found == name), expected, "{name}");
    }
    // A link made by the container leads nowhere outside of it.
    let outside = engine.path("outside");
    fs::create_dir(&outside).unwrap();
    engine.docker(["exec", "alive", "ln", "-s", outside.to_str().unwrap(), "/escape"]).ok();
    let _ = engine.docker(["cp", source.to_str().unwrap(), "alive:/escape/"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn an_archive_that_a_client_got_wrong_is_its_fault() {
    let engine = engine();
    engine.docker(["create", "--name", "still", "busybox"]).ok();
    engine.docker(["run", "-d", "--name", "alive", "busybox", "sleep", "1000"]).ok();
    let whole = |path: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &b"text"[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let mut checksum = whole("file");
    checksum[0] ^= 1;
    let long = whole(&"x".repeat(300));
    let below_a_file = whole("etc/passwd/below");
    let torn = whole("file")[..514].to_vec();
    let not_gzip = [&[0x1f, 0x8b][..], &[7; 600]].concat();
    for name in ["still", "alive"] {
        for (what, archive) in [
            ("checksum", &checksum),
            ("name", &long),
            ("below a file", &below_a_file),
            ("torn", &torn),
            ("not gzip", &not_gzip),
        ] {
            let answer = engine.http("PUT", &format!("/containers/{name}/archive?path=/"), archive);
            assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        }
        let fine = engine.http("PUT", &format!("/containers/{name}/archive?path=/"), &whole("fine"));
        assert_eq!(fine.status, 200, "{}", fine.text());
    }
    // The same in an image.
    let mut image = harness::image("odd", &[whole(&"x".repeat(300))], &json!({}));
    let answer = engine.http("POST", "/images/load?quiet=1", &image);
    assert!(answer.text().contains("File name too long"), "{} {}", answer.status, answer.text());
    image[0] ^= 1;
    let answer = engine.http("POST", "/images/load?quiet=1", &image);
    assert!(answer.text().contains("checksum"), "{} {}", answer.status, answer.text());
}

#[test]
fn who_cannot_write_is_not_written_into() {
    let engine = engine();
    let file = engine.path("file");
    fs::write(&file, "new\n").unwrap();
    let made = [
        "create",
        "--read-only",
        "--name",
        "still",
        "-v",
        "open:/open",
        "-v",
        "shut:/shut:ro",
        "--tmpfs",
        "/tmp",
    ];
    engine.docker(made.into_iter().chain(["busybox", "sleep", "1000"])).ok();
    engine
        .docker([
            "run",
            "-d",
            "--read-only",
            "--name",
            "alive",
            "-v",
            "open:/open",
            "-v",
            "shut:/shut:ro",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    for name in ["still", "alive"] {
        let copy = |place: &str| engine.docker(["cp", file.to_str().unwrap(), &format!("{name}:{place}")]);
        copy(&format!("/open/{name}")).ok();
        let back =
            engine.docker(["run", "--rm", "-v", "open:/o", "busybox", "cat", &format!("/o/{name}")]).ok();
        assert_eq!(back, "new\n");
        assert!(copy("/etc/x").failed().contains("container rootfs is marked read-only"));
        assert!(copy("/shut/x").failed().contains("mounted volume is marked read-only"));
    }
}

#[test]
fn a_tree_is_copied_as_it_is() {
    let engine = engine();
    let script = "mkdir -p /t/sub; echo one > /t/sub/a; ln /t/sub/a /t/sub/b; chown 7:8 /t/sub/a; chmod 4751 /t/sub/a; \
        mkfifo /t/pipe; mknod /t/null c 1 3; touch -d @12345 /t/sub; truncate -s 5000000 /t/hole; sleep 1000";
    engine.docker(["run", "-d", "--name", "from", "busybox", "sh", "-c", script]).ok();
    let ready = ["exec", "from", "test", "-e", "/t/hole"];
    wait_for("the tree", || engine.docker(ready).code == Some(0));
    engine.docker(["create", "--name", "to", "busybox", "sleep", "1000"]).ok();
    let mut take = engine.docker_command(["cp", "from:/t", "-"]);
    let archive = take.stderr(Stdio::inherit()).output().unwrap().stdout;
    engine.docker_with_input(["cp", "-", "to:/"], &archive).ok();
    engine.docker(["start", "to"]).ok();
    let look = "cd /t; stat -c '%n %u %g %a %F %h %s' sub/a sub/b pipe null hole sub; stat -c %Y sub; stat -c '%t %T' null; \
        cat sub/b; [ $(stat -c %i sub/a) = $(stat -c %i sub/b) ] && echo same; [ $(stat -c %b hole) -lt 100 ] && echo thin";
    let seen = engine.docker(["exec", "to", "sh", "-c", look]).ok();
    let expected = "sub/a 7 8 4751 regular file 2 4\nsub/b 7 8 4751 regular file 2 4\npipe 0 0 644 fifo 1 0\n\
        null 0 0 644 character special file 1 0\nhole 0 0 644 regular file 1 5000000\nsub 0 0 755 directory 2 ";
    assert!(seen.starts_with(expected), "{seen}");
    assert!(seen.ends_with("12345\n1 3\none\nsame\nthin\n"), "{seen}");
}

/// What the container removes while its files are packed is left out, and nothing else.
#[test]
fn files_that_go_while_they_are_packed_break_nothing_off() {
    let engine = engine();
    let script = "mkdir -p /tmp/t; cd /tmp/t; while true; do mkdir a b c; touch a/1 b/2 c/3 4 5 6 7 8 9; rm -r a b c [4-9]; done";
    engine.docker(["run", "-d", "--name", "busy", "busybox", "sh", "-c", script]).ok();
    wait_for("the first files", || {
        engine.http("GET", "/containers/busy/archive?path=/tmp/t", b"").status == 200
    });
    for path in ["/containers/busy/archive?path=/tmp", "/containers/busy/export"] {
        for _ in 0..40 {
            let answer = engine.http("GET", path, b"");
            assert_eq!(answer.status, 200, "{path}");
            let mut names = tar::Archive::new(answer.body.as_slice());
            let names: Vec<_> =
                names.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
            assert!(names.iter().any(|name| name.ends_with("tmp/t")), "{names:?}");
        }
    }
    for _ in 0..40 {
        let answer = engine.http("POST", "/commit?container=busy&repo=made&pause=0", b"{}");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}
