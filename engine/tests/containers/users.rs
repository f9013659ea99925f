//! Containers whose users have other numbers on the host (`userns-remap`).

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// What the root of containers and its group are on the host.
const ROOT: (u32, u32) = (100_000, 200_000);

/// An engine that is not started yet, where `daemon` has numbers to give away.
fn prepared(configuration: &str) -> Engine {
    let engine = Engine::prepare(configuration, &[]);
    for (name, content) in [("subuid", "daemon:100000:65536\n"), ("subgid", "daemon:200000:65536\n")] {
        let file = engine.path(name);
        fs::write(&file, content).unwrap();
        engine.inside("mount", ["--bind", file.to_str().unwrap(), &format!("/etc/{name}")]).ok();
    }
    engine
}

fn engine() -> Engine {
    let mut engine = prepared(r#"{"userns-remap": "daemon"}"#);
    engine.launch();
    engine.load_busybox();
    engine
}

/// Runs a script in a container to its end.
#[track_caller]
fn shell(engine: &Engine, options: &[&str], script: &str) -> String {
    let tail = ["busybox", "sh", "-c", script];
    engine.docker(["run", "--rm"].into_iter().chain(options.iter().copied()).chain(tail)).ok()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

/// What the kernel tells of the first process of a container.
fn told(engine: &Engine, name: &str, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", inspect(engine, name)["State"]["Pid"])).unwrap()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn root_in_a_container_is_nobody_on_the_host() {
    let engine = engine();
    assert!(engine.docker(["info", "-f", "{{.SecurityOptions}}"]).ok().contains("name=userns"));
    let secret = engine.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "root's").unwrap();
    fs::set_permissions(secret.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let (bind, made) = (format!("{}:/secret", secret.display()), engine.path("made/deep"));
    let made_bind = format!("{}:/made", made.display());
    let options = ["-v", &bind, "-v", &made_bind, "-v", "data:/var", "-u", "0", "--name", "box"];
    engine.docker(["run", "-d"].into_iter().chain(options).chain(["busybox", "sleep", "1000"])).ok();
    assert_eq!(words(&told(&engine, "box", "uid_map")), ["0", "100000", "65536"]);
    assert_eq!(words(&told(&engine, "box", "gid_map")), ["0", "200000", "65536"]);
    assert!(told(&engine, "box", "status").contains("Uid:\t100000\t100000\t100000\t100000"));
    let refused =
        "cat /secret/file; echo x > /secret/file; echo x > /secret/new; rm -f /secret/file; ls -ln /secret";
    let seen = engine.docker(["exec", "box", "sh", "-c", refused]);
    assert_eq!(seen.stderr.matches("Permission denied").count(), 4, "{seen:?}");
    assert!(seen.stdout.contains("65534"), "{seen:?}");
    assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "root's");
    // What the engine makes for it is its own, and so is what it makes itself.
    let write = "id -u; echo 1 > /made/file; echo 1 > /var/file; chown 7:8 /var/file; echo 1 > /layer; echo 1 >> /etc/hosts; \
                 stat -c '%u %g' /var /made /layer /var/file /etc/hosts";
    let seen = engine.docker(["exec", "box", "sh", "-c", write]).ok();
    assert_eq!(seen.lines().collect::<Vec<_>>(), ["0", "0 0", "0 0", "0 0", "7 8", "0 0"]);
    for path in [made.clone(), engine.path("made"), made.join("file")] {
        assert_eq!(owner(&path), ROOT, "{}", path.display());
    }
    let volume = engine.data_root().join("volumes/data/_data");
    assert_eq!((owner(&volume), owner(&volume.join("file"))), (ROOT, (100_007, 200_008)));
    // Layers are the same for everybody: their files have the numbers of containers on the disk.
    let id = inspect(&engine, "box")["Id"].as_str().unwrap().to_owned();
    let upper = engine.data_root().join("containers").join(id).join("upper");
    assert_eq!(owner(&upper.join("layer")), (0, 0));
    assert!(engine.docker(["diff", "box"]).ok().contains("A /layer"));
}

#[test]
fn a_container_with_users_of_its_own_does_what_others_do() {
    let engine = engine();
    engine.docker(["network", "create", "net"]).ok();
    engine.docker(["run", "-d", "--name", "peer", "--network", "net", "busybox", "sleep", "1000"]).ok();
    let script = "ip addr add 10.99.0.1/32 dev lo && nslookup peer 127.0.0.11 > /dev/null && cat /proc/sys/net/ipv4/ip_forward && \
                  echo 5 > /proc/sys/net/ipv4/ip_default_ttl 2>&1 | grep -o 'Read-only'; ls /sys/class/net | tr '\\n' ' '; hostname";
    let options = [
        "--network",
        "net",
        "--cap-add",
        "NET_ADMIN",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--hostname",
        "h",
    ];
    let seen = shell(&engine, &options, script);
    assert!(seen.starts_with("1\n") && seen.contains("eth0") && seen.ends_with("h\n"), "{seen}");
    // Devices, limits and mounts.
    let options = [
        "--device",
        "/dev/zero:/dev/nil",
        "--ulimit",
        "nofile=100:200",
        "--tmpfs",
        "/root",
        "--init",
        "--read-only",
        "--shm-size",
        "1m",
    ];
    let script = "head -c 1 /dev/nil | wc -c; echo x > /dev/null; ulimit -Hn; stat -c '%u' /root /dev/shm; touch /root/x; \
                  touch /x 2>/dev/null || echo none; test -e /dev/pts/ptmx && ls /dev/mqueue | wc -l";
    let seen = shell(&engine, &options, script);
    assert_eq!(words(&seen), ["1", "200", "0", "0", "none", "0"]);
    // Another user opens the streams anew; a terminal is its own.
    let seen =
        shell(&engine, &["-u", "1000:1000"], "echo one > /dev/stdout; echo two > /dev/stderr; id -u; id -g");
    assert_eq!(words(&seen), ["one", "1000", "1000"]);
    let seen = shell(&engine, &["-t", "-u", "1000"], "echo three > /dev/tty; stat -c %u $(tty)");
    assert_eq!(words(&seen), ["three", "1000"]);
    let beyond = engine.docker(["run", "--rm", "-u", "70000", "busybox", "true"]).failed();
    assert!(beyond.contains("user 70000 is beyond the range"), "{beyond}");
    // Processes that come later, and who shares namespaces.
    engine
        .docker([
            "run",
            "-d",
            "--name",
            "box",
            "--ipc",
            "shareable",
            "--ulimit",
            "nofile=100:300",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let exec = [
        "exec",
        "-u",
        "1000",
        "-w",
        "/tmp",
        "box",
        "sh",
        "-c",
        "id -u; ulimit -Hn; echo x > /dev/stdout; touch /tmp/a",
    ];
    assert_eq!(words(&engine.docker(exec).ok()), ["1000", "300", "x"]);
    assert!(engine.docker(["top", "box"]).ok().contains("sleep"));
    let shared = ["--network", "container:box", "--pid", "container:box", "--ipc", "container:box"];
    for options in [&shared[..], &shared[2..], &shared[..2]] {
        let seen =
            shell(&engine, options, "readlink /proc/self/ns/user; ps | grep -c 'sleep 100[0]' || true");
        let users = engine.docker(["exec", "box", "readlink", "/proc/self/ns/user"]).ok();
        assert!(seen.starts_with(&users), "{options:?}: {seen}");
    }
    let two = ["run", "--rm", "--network", "container:box", "--pid", "container:peer", "busybox", "true"];
    assert!(engine.docker(two).failed().contains("two containers, each of which has users of its own"));
    // A new one has a namespace of its own.
    let [one, other] = [(); 2].map(|()| shell(&engine, &[], "readlink /proc/self/ns/user"));
    assert_ne!(one, other);
}

#[test]
fn archives_have_the_numbers_of_the_container() {
    let engine = engine();
    let folder = engine.path("tree");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "content").unwrap();
    let pack = ["-cf", "-", "--owner=7", "--group=8", "-C", folder.to_str().unwrap(), "file"];
    let archive = Command::new("tar").args(pack).output().unwrap().stdout;
    let list = |archive: &[u8]| {
        harness::run(Command::new("tar").args(["-tvf", "-", "--numeric-owner"]), archive).ok()
    };
    engine.docker(["create", "--name", "box", "-v", "data:/data", "busybox", "sleep", "1000"]).ok();
    for round in ["stopped", "running"] {
        for path in ["/tmp", "/data", "/tmp/new"] {
            if path == "/tmp/new" {
                engine.docker(["cp", folder.to_str().unwrap(), &format!("box:{path}")]).ok();
            }
            engine.docker_with_input(["cp", "-a", "-", &format!("box:{path}")], &archive).ok();
            let back =
                engine.docker_command(["cp", &format!("box:{path}/file"), "-"]).output().unwrap().stdout;
            assert!(list(&back).contains(" 7/8 "), "{round} {path}: {}", list(&back));
        }
        let exported = engine.docker_command(["export", "box"]).output().unwrap().stdout;
        let line = |name: &str| list(&exported).lines().find(|line| line.ends_with(name)).unwrap().to_owned();
        assert!(line("tmp/file").contains(" 7/8 ") && line("bin/busybox").contains(" 0/0 "), "{round}");
        if round == "stopped" {
            engine.docker(["start", "box"]).ok();
            let seen = engine
                .docker(["exec", "box", "stat", "-c", "%u %g", "/tmp/file", "/data/file", "/data"])
                .ok();
            assert_eq!(seen.lines().collect::<Vec<_>>(), ["7 8", "7 8", "0 0"]);
        }
    }
    // Capabilities of a file are of the container's root, and an access list names the container's users.
    let capabilities = [&[1, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat();
    let entries: [[u8; 8]; 5] = [
        [1, 0, 6, 0, 255, 255, 255, 255],
        [2, 0, 6, 0, 9, 0, 0, 0],
        [4, 0, 4, 0, 255, 255, 255, 255],
        [0x10, 0, 6, 0, 255, 255, 255, 255],
        [0x20, 0, 4, 0, 255, 255, 255, 255],
    ];
    let list = [&[2, 0, 0, 0][..], &entries.concat()].concat();
    let noted = [
        ("SCHILY.xattr.security.capability", &capabilities[..]),
        ("SCHILY.xattr.system.posix_acl_access", &list),
    ];
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(noted).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(0);
    builder.append_data(&mut header, "noted", std::io::empty()).unwrap();
    let noted_archive = builder.into_inner().unwrap();
    for state in ["running", "stopped"] {
        engine.docker_with_input(["cp", "-a", "-", "box:/tmp"], &noted_archive).ok();
        let back = engine.docker_command(["cp", "box:/tmp/noted", "-"]).output().unwrap().stdout;
        let mut archive = tar::Archive::new(&back[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut found = BTreeMap::new();
        for extension in entry.pax_extensions().unwrap().unwrap().flatten() {
            found.insert(extension.key().unwrap().to_owned(), extension.value_bytes().to_vec());
        }
        for (name, value) in noted {
            assert_eq!(found.get(name).map(Vec::as_slice), Some(value), "{state} {name}");
        }
        engine.docker(["stop", "-t", "0", "box"]).ok();
    }
    let pack = ["-cf", "-", "--owner=70000", "--group=8", "-C", folder.to_str().unwrap(), "file"];
    let beyond = Command::new("tar").args(pack).output().unwrap().stdout;
    let refused = engine.docker_with_input(["cp", "-a", "-", "box:/tmp"], &beyond).failed();
    assert!(refused.contains("user 70000 or group 8 is beyond the range"), "{refused}");
}

#[test]
fn images_are_made_as_anywhere() {
    let engine = engine();
    engine.docker(["run", "--name", "box", "busybox", "sh", "-c", "touch /mine; chown 7:8 /mine"]).ok();
    engine.docker(["commit", "box", "committed"]).ok();
    let context = engine.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), "x").unwrap();
    fs::set_permissions(context.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let dockerfile = "FROM committed\nCOPY --chown=5:6 file /copied\nRUN --mount=type=cache,target=/cache \
                      --mount=type=bind,target=/context cat /context/file && touch /cache/x && id -u > /who && \
                      cat /proc/self/uid_map > /map && stat -c '%u %g' /copied /mine /cache/x > /seen\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    engine.docker(["build", "-q", "-t", "built", context.to_str().unwrap()]).ok();
    for options in [&["run", "--rm"][..], &["run", "--rm", "--userns", "host"]] {
        let script = "cat /who /map /seen; stat -c '%u %g' /seen /copied /mine";
        let tail = ["built", "sh", "-c", script];
        let seen = engine.docker(options.iter().copied().chain(tail)).ok();
        let expected =
            ["0", "0", "100000", "65536", "5", "6", "7", "8", "0", "0", "0", "0", "5", "6", "7", "8"];
        assert_eq!(words(&seen), expected);
    }
}

#[test]
fn what_takes_the_hosts_users_is_refused_without_them() {
    let engine = engine();
    for (option, said) in [
        (
            &["--privileged"][..],
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            &["--network", "host"],
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (&["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let run = |more: &[&'static str]| {
            let options =
                ["run", "--rm"].into_iter().chain(option.iter().copied()).chain(more.iter().copied());
            engine.docker(options.chain(["busybox", "cat", "/proc/self/uid_map"]))
        };
        let refused = run(&[]).failed();
        assert!(refused.contains(said), "{refused}");
        assert_eq!(words(&run(&["--userns", "host"]).ok()), ["0", "0", "4294967295"]);
    }
    let body = json!({ "Image": "busybox", "HostConfig": { "UsernsMode": "private" } });
    let answer = engine.http("POST", "/containers/create", body.to_string().as_bytes());
    assert_eq!((answer.status, answer.json()), (400, json!({ "message": "invalid USER mode: private" })));
    engine.docker(["run", "-d", "--name", "free", "--userns", "host", "busybox", "sleep", "1000"]).ok();
    let refused = engine.docker(["run", "--rm", "--network", "container:free", "busybox", "true"]).failed();
    assert!(refused.contains("use --userns=host"), "{refused}");
    // The host's part of what others share: shared memory and queues.
    assert_eq!(shell(&engine, &["--ipc", "host", "--uts", "host"], "test -d /dev/shm && id -u"), "0\n");
}

#[test]
fn a_container_outlives_the_mapping() {
    let mut engine = engine();
    engine.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    engine.docker(["exec", "box", "sh", "-c", "echo x > /mine; chown 7:8 /mine"]).ok();
    engine.stop();
    fs::write(engine.path("daemon.json"), r#"{"prune": {"enabled": false}}"#).unwrap();
    engine.launch();
    assert!(!engine.docker(["info", "-f", "{{.SecurityOptions}}"]).ok().contains("name=userns"));
    // As long as it runs, it is as it was.
    assert_eq!(engine.docker(["exec", "box", "stat", "-c", "%u %g", "/mine"]).ok(), "7 8\n");
    let back = engine.docker_command(["cp", "box:/mine", "-"]).output().unwrap().stdout;
    let listed = harness::run(Command::new("tar").args(["-tvf", "-", "--numeric-owner"]), &back).ok();
    assert!(listed.contains(" 7/8 "), "{listed}");
    engine.docker(["restart", "-t", "0", "box"]).ok();
    assert_eq!(engine.docker(["exec", "box", "stat", "-c", "%u %g", "/mine"]).ok(), "7 8\n");
    assert_eq!(words(&told(&engine, "box", "uid_map")), ["0", "0", "4294967295"]);
}

#[test]
fn an_engine_that_cannot_map_users_says_why() {
    for (remap, said, hint) in [
        ("nobody-here", "There is no user `nobody-here` in /etc/passwd", "Make it"),
        ("bin", "There is no range for the user `bin` in /etc/subuid", "usermod"),
        ("a:b:c", "invalid user/group specification", "USER:GROUP"),
    ] {
        let mut engine = prepared(&json!({ "userns-remap": remap }).to_string());
        engine.spawn();
        assert_eq!(engine.wait(), Some(1));
        assert!(engine.log().contains(said) && engine.log().contains(hint), "{}", engine.log());
    }
    // On a file system whose owners cannot be mapped.
    let mut engine = prepared(r#"{"userns-remap": "daemon:daemon"}"#);
    let (lower, data) = (engine.path("lower"), engine.data_root());
    for folder in [&lower, &data, &engine.path("upper"), &engine.path("work")] {
        fs::create_dir(folder).unwrap();
    }
    let at = |name: &str| engine.path(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    engine.inside("mount", ["-t", "overlay", "-o", &options, "overlay", data.to_str().unwrap()]).ok();
    engine.spawn();
    assert_eq!(engine.wait(), Some(1));
    assert!(
        engine.log().contains("with other owners") && engine.log().contains("Linux 5.19"),
        "{}",
        engine.log()
    );
}
