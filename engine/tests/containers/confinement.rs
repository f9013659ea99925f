//! What a container cannot do, and how much of it it may use.

use super::*;

#[test]
fn a_container_is_confined() {
    let engine = engine();
    let script = "grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status; cat /proc/1/comm; \
                  mknod /tmp/disk b 8 0 && cat /tmp/disk; echo x > /proc/sys/kernel/domainname; \
                  mount -t tmpfs x /tmp; cat /proc/keys; date -s 2000-01-01 >/dev/null";
    let output = engine.docker(["run", "--rm", "busybox", "sh", "-c", script]);
    // And nothing at all of the keys.
    let expected = ["CapEff:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t2", "sh"];
    assert_eq!(output.stdout.lines().collect::<Vec<_>>(), expected, "{output:?}");
    // Each by its program: the node of a disk can be made, and not be opened.
    for refusal in [
        "cat: can't open '/tmp/disk': Operation not permitted",
        "can't create /proc/sys/kernel/domainname: Read-only file system",
        "mount: permission denied (are you root?)",
        "date: can't set date: Operation not permitted",
    ] {
        assert!(output.stderr.contains(refusal), "{refusal}: {output:?}");
    }
    // A shell has descriptors of its own while it makes a pipe, or redirects; this one opens nothing.
    engine.docker(["run", "-d", "--name", "sleeps", "busybox", "sleep", "1000"]).ok();
    let open = engine.docker(["exec", "sleeps", "ls", "/proc/1/fd"]).ok();
    assert_eq!(open.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
    engine.docker(["rm", "-f", "sleeps"]).ok();
    let options = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "-u", "nobody"];
    let script = "grep -E '^(CapBnd|NoNewPrivs|Groups):' /proc/self/status; id -u; touch /x; echo $HOME";
    let strict =
        engine.docker(["run", "--rm"].into_iter().chain(options).chain(["busybox", "sh", "-c", script]));
    assert_eq!(
        strict.stdout.lines().map(str::trim).collect::<Vec<_>>(),
        ["Groups:\t65534", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "65534", "/home"],
        "{strict:?}"
    );
    assert!(strict.stderr.contains("Read-only file system"), "{strict:?}");
    let reopened = "echo out > /dev/stdout; echo err > /dev/stderr";
    let output = engine.docker(["run", "--rm", "-u", "nobody", "busybox", "sh", "-c", reopened]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let free = [
        "run",
        "--rm",
        "--security-opt",
        "seccomp=unconfined",
        "busybox",
        "grep",
        "Seccomp:",
        "/proc/self/status",
    ];
    assert_eq!(engine.docker(free).ok(), "Seccomp:\t0\n");
    let privileged =
        ["run", "--rm", "--privileged", "busybox", "sh", "-c", "mount -t tmpfs x /tmp && echo mounted"];
    assert_eq!(engine.docker(privileged).ok(), "mounted\n");
}

#[test]
fn exec_joins_with_the_same_confinement() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "host", "-e", "A=1", "busybox", "sleep", "1000"]).ok();
    let script = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status; echo $A$B; pwd; id -u; cat; exit 7";
    let arguments = ["exec", "-i", "-e", "B=2", "-w", "/tmp", "-u", "nobody", "host", "sh", "-c", script];
    let output = engine.docker_with_input(arguments, b"typed");
    assert_eq!(output.code, Some(7), "{output:?}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "CapEff:\t0000000000000000",
            "CapBnd:\t00000000a80425fb",
            "NoNewPrivs:\t0",
            "Seccomp:\t2",
            "12",
            "/tmp",
            "65534",
            "typed"
        ]
    );
    let root = engine.docker(["exec", "host", "grep", "CapEff", "/proc/self/status"]).ok();
    assert_eq!(root, "CapEff:\t00000000a80425fb\n");
    let missing = engine.docker(["exec", "host", "nosuch"]);
    assert_eq!(missing.code, Some(127), "{missing:?}");
    assert!(missing.stdout.contains("executable file not found in $PATH"), "{missing:?}");
    engine.docker(["exec", "-d", "host", "touch", "/tmp/made"]).ok();
    wait_for("the file", || engine.docker(["exec", "host", "test", "-e", "/tmp/made"]).code == Some(0));
    engine.docker(["pause", "host"]).ok();
    assert!(engine.docker(["exec", "host", "true"]).failed().contains("is paused"));
    engine.docker(["unpause", "host"]).ok();
    engine.docker(["rm", "-f", "host"]).ok();
    assert!(engine.docker(["exec", "host", "true"]).failed().contains("No such container: host"));
}

#[test]
fn limits_hold() {
    let engine = engine();
    let hog = "x=a; while true; do x=$x$x; done";
    let output = engine.docker(["run", "--name", "hog", "-m", "16m", "busybox", "sh", "-c", hog]);
    assert_eq!(output.code, Some(137), "{output:?}");
    assert_eq!(inspect(&engine, "hog")["State"]["OOMKilled"], true);
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait";
    let output = engine.docker(["run", "--rm", "--pids-limit", "5", "busybox", "sh", "-c", forks]);
    assert!(output.stderr.contains("can't fork"), "{output:?}");
    engine
        .docker(["run", "-d", "--name", "limited", "-m", "32m", "--cpus", "0.5", "busybox", "sleep", "1000"])
        .ok();
    let id = inspect(&engine, "limited")["Id"].as_str().unwrap().to_owned();
    let read = |v1: &str, v2: &str| {
        let found =
            harness::run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &id]), b"")
                .stdout;
        let folders: Vec<&str> = found.lines().collect();
        let texts = folders
            .iter()
            .flat_map(|folder| [v1, v2].map(|file| fs::read_to_string(Path::new(folder).join(file))));
        texts.flatten().next().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "33554432");
    assert!(matches!(read("cpu.cfs_quota_us", "cpu.max").as_str(), "50000" | "50000 100000"));
    engine.docker(["update", "-m", "64m", "--restart", "on-failure:2", "limited"]).ok();
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), "67108864");
    let host = inspect(&engine, "limited")["HostConfig"].clone();
    assert_eq!(
        (host["Memory"].as_i64(), host["RestartPolicy"]["Name"].as_str()),
        (Some(64 << 20), Some("on-failure"))
    );
    engine.docker(["rm", "-f", "limited", "hog"]).ok();
    let left =
        harness::run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &id]), b"").stdout;
    assert_eq!(left, "");
}

#[test]
fn symbolic_links_do_not_lead_out() {
    let engine = engine();
    let outside = engine.path("outside");
    fs::create_dir(&outside).unwrap();
    let outside_text = outside.to_str().unwrap();
    let folder = engine.path("layer");
    fs::create_dir_all(folder.join("etc")).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let link = |layer: &mut tar::Builder<Vec<u8>>, path: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, path, target).unwrap();
    };
    let busybox = fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/sh", busybox.as_slice()).unwrap();
    let climb = format!("../../../../../../../../../..{outside_text}");
    let mut with_proc = tar::Builder::new(Vec::new());
    link(&mut with_proc, "proc", outside_text);
    link(&mut layer, "volume", outside_text);
    link(&mut layer, "job", &climb);
    link(&mut layer, "etc/passwd", &format!("{outside_text}/passwd"));
    let layer = layer.into_inner().unwrap();
    for (name, layers) in
        [("links", vec![layer.clone()]), ("links-proc", vec![layer, with_proc.into_inner().unwrap()])]
    {
        engine.docker_with_input(["load"], &harness::image(name, &layers, &json!({}))).ok();
    }
    fs::write(outside.join("passwd"), "intruder:x:0:0::/:/bin/sh\n").unwrap();
    let source = engine.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let bind = format!("{}:/volume/deep", source.display());
    let untouched = || {
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["passwd"]);
    };
    // Every link is taken for what it is inside, where there is nothing yet.
    for (options, script) in [
        (["-v", &bind], "[ -e /volume/deep/file ]".to_owned()),
        (["-v", &bind], format!("[ -e {outside_text}/deep/file ]")),
        (["-w", "/job/here"], format!("[ $(pwd -P) = {outside_text}/here ]")),
        (["-v", "named:/job/made"], format!("touch /job/made/new; [ -e {outside_text}/made/new ]")),
        (["--tmpfs", "/volume/memory"], format!("[ $(stat -f -c %T {outside_text}/memory) = tmpfs ]")),
    ] {
        let arguments = ["run", "--rm"].into_iter().chain(options);
        let output = engine.docker(arguments.chain(["links", "/bin/sh", "-c", &script]));
        assert_eq!(output.code, Some(0), "{output:?}");
        untouched();
    }
    let output = engine.docker(["run", "--rm", "-u", "intruder", "links", "/bin/sh", "-c", ":"]);
    assert!(output.clone().failed().contains("intruder"), "{output:?}");
    let output = engine.docker(["run", "--rm", "links-proc", "/bin/sh", "-c", ":"]);
    assert_ne!(output.code, Some(0), "/proc as a link is refused");
    untouched();
    symlink(&outside, source.join("link")).unwrap();
    let whole = format!("{}:/data", source.display());
    let _ = engine.docker(["run", "--rm", "-v", &whole, "-v", "vol:/data/link/x", "busybox", "true"]);
    untouched();
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let engine = engine();
    let script =
        "trap 'echo caught; exit 8' TERM; (sleep 0.1 &) ; echo ready; while true; do sleep 0.1; done";
    engine.docker(["run", "-d", "--init", "--name", "tended", "busybox", "sh", "-c", script]).ok();
    wait_for("the program", || engine.docker(["logs", "tended"]).ok().contains("ready"));
    wait_for("the orphan to be reaped", || {
        let processes = engine.docker(["exec", "tended", "ps", "-o", "pid,stat,comm"]).ok();
        !processes.contains('Z') && processes.contains("docker-init")
    });
    engine.docker(["stop", "tended"]).ok();
    assert_eq!(inspect(&engine, "tended")["State"]["ExitCode"], 8);
    assert_eq!(engine.docker(["logs", "tended"]).ok(), "ready\ncaught\n");
}

#[test]
fn options_that_are_not_there_yet_are_refused() {
    let engine = engine();
    for (options, named) in [
        (["--gpus", "all"], "--gpus"),
        (["--runtime", "kata"], "--runtime kata"),
        (["--platform", "linux/s390x"], "--platform linux/s390x"),
        (["--volume-driver", "nfs"], "--volume-driver nfs"),
    ] {
        let tail = ["-v", "made:/made", "busybox", "true"];
        let output = engine.docker(["run", "--name", "refused"].into_iter().chain(options).chain(tail));
        assert_eq!(output.code, Some(125), "{output:?}");
        let (option, unsupported) = (format!("`{named}`"), "is not supported by this engine yet");
        assert!(output.stderr.contains(&option) && output.stderr.contains(unsupported), "{output:?}");
        assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
        assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
    }
    let body = json!({ "Image": "busybox", "Cmd": ["true"], "HostConfig": { "Isolation": "hyperv" } });
    let answer = engine.http("POST", "/containers/create", body.to_string().as_bytes());
    assert_eq!(answer.status, 501);
    let message = "`HostConfig.Isolation`: `--isolation hyperv` is not supported by this engine yet";
    assert_eq!(answer.json(), json!({ "message": message }));
    // What says the same as the default goes through.
    let own = engine.docker(["version", "-f", "{{.Server.Arch}}"]).ok();
    let own = format!("linux/{}", own.trim());
    engine.docker(["run", "--rm", "--platform", &own, "busybox", "true"]).ok();
}

/// Has the engine's data lie on an ext4 that counts what projects take, if this kernel knows such a thing.
fn on_quotas(engine: &Engine) -> bool {
    let (disk, data) = (engine.path("disk"), engine.data_root());
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    fs::create_dir(&data).unwrap();
    let make = ["-q", "-O", "quota,project", "-E", "quotatype=prjquota", disk.to_str().unwrap()];
    let made = Command::new("mkfs.ext4").args(make).status();
    let mount = ["-o", "loop,prjquota", disk.to_str().unwrap(), data.to_str().unwrap()];
    made.is_ok_and(|status| status.success()) && engine.inside("mount", mount).code == Some(0)
}

#[test]
fn a_container_has_as_much_room_as_it_is_given() {
    let mut engine = Engine::prepare("{}", &[]);
    let counts = on_quotas(&engine);
    engine.launch();
    engine.load_busybox();
    let write = |name: &str, options: &[&str], file: &str| {
        let fill = format!(
            "dd if=/dev/zero of={file} bs=1M count=8 2>&1; sync; test $(stat -c %s {file}) = 8388608"
        );
        let run = ["run", "--name", name, "-v", "data:/data"].into_iter().chain(options.iter().copied());
        engine.docker(run.chain(["busybox", "sh", "-c", &fill]))
    };
    if !counts {
        let refused = write("box", &["--storage-opt", "size=4m"], "/file").failed();
        let said = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
        assert!(refused.contains(said), "{refused}");
        assert_eq!(engine.docker(["ps", "-aq"]).ok(), "");
        return skipped::say(
            "project-quotas",
            "this kernel has no file system that counts what projects take",
        );
    }
    for name in ["one", "two"] {
        let full = write(name, &["--storage-opt", "size=4m"], "/file");
        assert!(full.code == Some(1) && full.stdout.contains("quota exceeded"), "{full:?}");
    }
    write("free", &[], "/file").ok();
    write("volume", &["--storage-opt", "size=4m"], "/data/file").ok();
    assert_eq!(inspect(&engine, "one")["HostConfig"]["StorageOpt"], json!({ "size": "4m" }));
    engine.docker(["rm", "-f", "one", "two"]).ok();
    write("three", &["--storage-opt", "size=16m"], "/file").ok();
}
