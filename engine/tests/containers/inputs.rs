//! Small inputs that dockerd takes, from the stock client and over the API: names, mounts, signals, columns.

use super::*;

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// A tar archive of one entry, for `docker cp -`.
fn archive_of(kind: tar::EntryType, path: &str, change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_size(0);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    change(&mut header);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, std::io::empty()).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn filters_by_name_and_id_are_regular_expressions() {
    let engine = engine();
    for name in ["a1", "a2", "b3"] {
        engine.docker(["create", "--name", name, "busybox"]).ok();
        engine.docker(["network", "create", name]).ok();
        engine.docker(["volume", "create", name]).ok();
    }
    let list = |kind: &str, filter: &str| match kind {
        "container" => engine.docker(["ps", "-a", "--format", "{{.Names}}", "--filter", filter]).ok(),
        _ => engine.docker([kind, "ls", "--format", "{{.Name}}", "--filter", filter]).ok(),
    };
    for kind in ["container", "network", "volume"] {
        for (filter, expected) in [
            ("name=^(a1|a2)$", &["a1", "a2"][..]),
            ("name=[ab][13]$", &["a1", "b3"]),
            ("name=^1", &[]),
            ("name=a", &["a1", "a2"]),
            ("name=a[", &[]),
        ] {
            let shown = list(kind, filter);
            let mut shown = sorted(&shown);
            shown.retain(|name| name.len() == 2);
            assert_eq!(shown, expected, "{kind} {filter}");
        }
    }
    assert_eq!(list("container", "name=^/b3$"), "b3\n");
    let id = inspect(&engine, "a2")["Id"].as_str().unwrap().to_owned();
    assert_eq!(list("container", &format!("id=^{}", &id[..10])), "a2\n");
    assert_eq!(list("container", "id=^none$"), "");
}

#[test]
fn a_tmpfs_has_the_mode_and_owner_of_the_directory_that_it_covers() {
    let engine = engine();
    let seen = |options: &[&str], path: &str| {
        let command = ["busybox", "stat", "-c", "%a %u:%g", path];
        engine.docker(["run", "--rm"].iter().chain(options).chain(&command)).ok()
    };
    assert_eq!(seen(&["--tmpfs", "/etc"], "/etc"), "755 0:0\n");
    assert_eq!(seen(&["--mount", "type=tmpfs,target=/etc"], "/etc"), "755 0:0\n");
    assert_eq!(seen(&["--tmpfs", "/tmp"], "/tmp"), "1777 0:0\n");
    assert_eq!(seen(&["--tmpfs", "/etc:mode=700,uid=3"], "/etc"), "700 3:0\n");
    assert_eq!(seen(&["--mount", "type=tmpfs,target=/etc,tmpfs-mode=770"], "/etc"), "770 0:0\n");
    // What is not there yet is everybody's, as it is with dockerd.
    assert_eq!(seen(&["--tmpfs", "/not/there"], "/not/there"), "1777 0:0\n");
    // In what is mounted below it, not in the image.
    let host = engine.path("host");
    fs::create_dir_all(host.join("private")).unwrap();
    fs::set_permissions(host.join("private"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let bind = format!("{}:/host", host.display());
    assert_eq!(seen(&["-v", &bind, "--tmpfs", "/host/private"], "/host/private"), "700 0:0\n");

    engine
        .docker([
            "create", "--name", "own", "--tmpfs", "/srv/own", "busybox", "stat", "-c", "%a %u:%g", "/srv/own",
        ])
        .ok();
    let directory = archive_of(tar::EntryType::Directory, "srv/own", |header| {
        header.set_mode(0o750);
        header.set_uid(70);
        header.set_gid(71);
    });
    engine.docker_with_input(["cp", "-a", "-", "own:/"], &directory).ok();
    assert_eq!(engine.docker(["start", "-a", "own"]).ok(), "750 70:71\n");
}

#[test]
fn a_container_that_goes_at_its_end_outlives_a_restart() {
    let engine = engine();
    engine.docker(["run", "-d", "--rm", "--name", "brief", "-v", "/data", "busybox", "sleep", "1000"]).ok();
    let before = inspect(&engine, "brief");
    let volume = PathBuf::from(before["Mounts"][0]["Source"].as_str().unwrap());
    engine.docker(["exec", "brief", "touch", "/data/kept"]).ok();
    engine.docker(["restart", "-t", "0", "brief"]).ok();
    let after = inspect(&engine, "brief");
    assert_eq!((&after["Id"], &after["State"]["Status"]), (&before["Id"], &json!("running")));
    assert_ne!(after["State"]["Pid"], before["State"]["Pid"]);
    assert!(volume.join("kept").exists());
    engine.docker(["stop", "-t", "0", "brief"]).ok();
    wait_for("its removal", || engine.http("GET", "/containers/brief/json", b"").status == 404);
    wait_for("the removal of its volume", || !volume.exists());
}

#[test]
fn a_stopped_container_stays_off_the_network_that_it_was_taken_off() {
    let mut engine = engine();
    engine.docker(["network", "create", "nn"]).ok();
    engine.docker(["create", "--name", "it", "busybox", "sleep", "1000"]).ok();
    let networks = |engine: &Engine| -> Vec<String> {
        let settings = inspect(engine, "it")["NetworkSettings"]["Networks"].clone();
        settings.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(networks(&engine), ["bridge"]);
    engine.docker(["network", "disconnect", "bridge", "it"]).ok();
    let twice = engine.docker(["network", "disconnect", "bridge", "it"]).failed();
    assert!(twice.contains("is not connected to"), "{twice}");
    engine.docker(["network", "connect", "nn", "it"]).ok();
    assert_eq!(networks(&engine), ["nn"]);
    engine.docker(["start", "it"]).ok();
    assert_eq!(networks(&engine), ["nn"]);
    let links = engine.docker(["exec", "it", "ls", "/sys/class/net"]).ok();
    assert_eq!(sorted(&links), ["eth0", "lo"]);
    // The same of a running one, for its next start, whichever daemon does it.
    engine.docker(["network", "connect", "bridge", "it"]).ok();
    engine.docker(["network", "disconnect", "nn", "it"]).ok();
    engine.docker(["stop", "-t", "0", "it"]).ok();
    engine.kill();
    engine.launch();
    engine.docker(["start", "it"]).ok();
    assert_eq!(networks(&engine), ["bridge"]);
    engine.docker(["network", "connect", "nn", "it"]).ok();
    engine.docker(["restart", "-t", "0", "it"]).ok();
    assert_eq!(networks(&engine).len(), 2);
}

#[test]
fn devices_of_the_host_are_seen_and_left_alone() {
    let engine = engine();
    // Stands for the host's, which this test leaves in peace in any case.
    let devices = engine.path("dev");
    fs::create_dir(&devices).unwrap();
    let path = devices.to_str().unwrap();
    let make = format!(
        "mount -t tmpfs -o mode=755 dev {path} && cd {path} && mkdir shm pts && mknod -m 640 null c 1 3 &&
         mknod -m 600 odd c 1 5 && ln -s /nowhere ptmx && touch file"
    );
    engine.inside("sh", ["-c", &make]).ok();
    let look = || engine.inside("find", [path, "-printf", "%P %m %y %l\n"]).ok();
    let before = look();
    for options in [&[][..], &["--privileged"]] {
        let bind = format!("{path}:/dev");
        let rest = ["-v", &bind, "busybox", "sh", "-c", "ls /dev; ls /dev/shm /dev/pts"];
        let shown = engine.docker(["run", "--rm"].iter().chain(options).chain(&rest)).ok();
        for name in ["null", "odd", "file", "ptmx"] {
            assert!(shown.lines().any(|line| line == name), "{name}: {shown}");
        }
        assert!(!shown.lines().any(|line| matches!(line, "zero" | "stdin" | "core")), "{shown}");
        assert_eq!(look(), before);
    }
    // A link of the image's leads there as well.
    let bind = format!("{path}:/host/dev");
    engine.docker(["create", "--name", "linked", "-v", &bind, "busybox", "ls", "/dev"]).ok();
    let id = inspect(&engine, "linked")["Id"].as_str().unwrap().to_owned();
    let upper = engine.data_root().join("containers").join(id).join("upper");
    symlink("/", upper.join("host")).unwrap();
    let shown = engine.docker(["start", "-a", "linked"]).ok();
    assert!(shown.lines().any(|line| line == "odd"), "{shown}");
    assert_eq!(look(), before);
}

#[test]
fn a_bind_on_a_dangling_link_is_made_where_the_link_leads_inside() {
    let engine = engine();
    let file = engine.path("zone");
    fs::write(&file, "here").unwrap();
    let folder = engine.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("inner"), "there").unwrap();
    let outside = engine.path("outside");
    let script = "cat /etc/localtime /etc/zones/inner; ls -l /etc/localtime";
    let binds = [format!("{}:/etc/localtime:ro", file.display()), format!("{}:/etc/zones", folder.display())];
    engine
        .docker(["create", "--name", "it", "-v", &binds[0], "-v", &binds[1], "busybox", "sh", "-c", script])
        .ok();
    // Written as the engine unpacks images: into the layer, not through the mounts.
    let upper = engine
        .data_root()
        .join("containers")
        .join(inspect(&engine, "it")["Id"].as_str().unwrap())
        .join("upper");
    fs::create_dir(upper.join("etc")).unwrap();
    symlink(outside.join("zoneinfo/UTC"), upper.join("etc/localtime")).unwrap();
    symlink("../../../deep/zones", upper.join("etc/zones")).unwrap();
    let shown = engine.docker(["start", "-a", "it"]).ok();
    assert!(shown.starts_with("herethere") && shown.contains("/etc/localtime -> "), "{shown}");
    assert!(!outside.exists(), "nothing is made on the host");
    assert!(upper.join("deep/zones").is_dir());
    // One that leads round in a circle leads nowhere.
    engine.docker(["create", "--name", "round", "-v", &binds[0], "busybox", "true"]).ok();
    let upper = engine
        .data_root()
        .join("containers")
        .join(inspect(&engine, "round")["Id"].as_str().unwrap())
        .join("upper");
    fs::create_dir(upper.join("etc")).unwrap();
    symlink("localtime", upper.join("etc/localtime")).unwrap();
    let refused = engine.docker(["start", "-a", "round"]).failed();
    assert!(refused.contains("/etc/localtime"), "{refused}");
}

#[test]
fn top_shows_the_columns_that_were_asked_for() {
    let engine = engine();
    engine.docker(["run", "-d", "--name", "it", "busybox", "sh", "-c", "sleep 1000; true"]).ok();
    // For a moment the second one is a copy of the first.
    wait_for("both processes", || {
        engine.docker(["top", "it"]).ok().lines().any(|line| line.ends_with(" sleep 1000"))
    });
    let top = |arguments: &[&str]| {
        let output = engine.docker(["top", "it"].iter().chain(arguments)).ok();
        let rows: Vec<Vec<String>> =
            output.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        rows
    };
    let rows = top(&["-eo", "pid,comm"]);
    assert_eq!(rows[0], ["PID", "COMMAND"]);
    assert_eq!((rows.len(), rows[1].len(), rows[1][1].as_str(), rows[2][1].as_str()), (3, 2, "sh", "sleep"));
    let first = inspect(&engine, "it")["State"]["Pid"].to_string();
    assert_eq!(rows[1][0], first);
    let rows = top(&["-o", "ppid=PARENT", "-o", "stat,rss,nlwp,args"]);
    assert_eq!(rows[0], ["PARENT", "STAT", "RSS", "NLWP", "COMMAND"]);
    assert_eq!((&rows[2][0], rows[2][1].starts_with('S'), rows[2][3].as_str()), (&first, true, "1"));
    assert!(rows[2][2].parse::<u64>().unwrap() > 0 && rows[2][4..] == ["sleep", "1000"], "{rows:?}");
    let rows = top(&["aux"]);
    assert_eq!(
        rows[0],
        ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]
    );
    assert_eq!((rows[1][0].as_str(), &rows[1][1]), ("root", &first));
    assert_eq!(top(&["-ef"])[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(top(&[])[0], top(&["-ef"])[0]);
    for unknown in ["-eo pid,nonsense", "--forest", "-Z", "-p 1"] {
        let query = unknown.replace(' ', "%20");
        let answer = engine.http("GET", &format!("/containers/it/top?ps_args={query}"), b"");
        let message = answer.json()["message"].to_string();
        let odd = unknown.rsplit([' ', ',']).find(|word| *word != "1").unwrap();
        assert!(answer.status == 400 && message.contains(odd), "{unknown}: {} {message}", answer.status);
    }
}

#[test]
fn only_a_signal_that_ends_it_keeps_a_container_from_being_restarted() {
    let engine = engine();
    let script = "trap 'exit 1' HUP TERM; echo ready; while :; do sleep 0.05; done";
    let start = |name: &str, options: &[&str]| {
        let base = ["run", "-d", "--name", name, "--restart", "unless-stopped"];
        let command = ["busybox", "sh", "-c", script];
        engine.docker(base.iter().chain(options).chain(&command)).ok();
        wait_for("its handlers", || engine.docker(["logs", name]).ok().contains("ready"));
    };
    start("up", &[]);
    engine.docker(["kill", "-s", "HUP", "up"]).ok();
    wait_for("its restart", || {
        let view = inspect(&engine, "up");
        view["RestartCount"] == 1 && view["State"]["Status"] == "running"
    });
    start("stopped", &[]);
    engine.docker(["kill", "-s", "TERM", "stopped"]).ok();
    start("own", &["--stop-signal", "HUP"]);
    engine.docker(["kill", "-s", "HUP", "own"]).ok();
    for name in ["stopped", "own"] {
        wait_for("its end", || status(&engine, name) == "exited");
        assert_eq!(inspect(&engine, name)["RestartCount"], 0);
    }
    // A new daemon finds the one wanted and the others not.
    let mut engine = engine;
    engine.docker(["kill", "up"]).ok();
    wait_for("its end", || status(&engine, "up") == "exited");
    engine.kill();
    engine.launch();
    for name in ["up", "stopped", "own"] {
        assert_eq!(status(&engine, name), "exited", "{name}");
    }
}

#[test]
fn the_log_driver_local_keeps_what_was_written() {
    let engine = engine();
    let options = ["--log-driver", "local", "--log-opt", "max-size=2k", "--log-opt", "max-file=2"];
    let command = ["busybox", "sh", "-c", "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done"];
    let base = ["run", "--name", "it"];
    engine.docker(base.iter().chain(&options).chain(&command)).ok();
    let logs = engine.docker(["logs", "it"]).ok();
    let lines: Vec<&str> = logs.lines().collect();
    assert!(lines.len() < 200 && lines.len() > 5 && lines.last() == Some(&"line 199"), "{logs}");
    let view = inspect(&engine, "it");
    assert_eq!(view["HostConfig"]["LogConfig"]["Type"], "local");
    assert_eq!(view["LogPath"], "");
    // It is bounded without being told to be, as dockerd's is.
    engine.docker(["run", "--name", "more", "--log-driver", "local", "busybox", "echo", "hello"]).ok();
    assert_eq!(engine.docker(["logs", "-t", "more"]).ok().split(' ').next_back(), Some("hello\n"));
    for wrong in [["--log-opt", "max-size=x"], ["--log-opt", "mode=odd"], ["--log-opt", "tag=x"]] {
        let refused =
            engine.docker(["create", "--log-driver", "local"].iter().chain(&wrong).chain(&["busybox"]));
        assert_ne!(refused.code, Some(0), "{wrong:?}");
    }
    let known = engine.http("GET", "/info", b"").json()["Plugins"]["Log"].clone();
    assert!(known.as_array().unwrap().contains(&json!("local")), "{known}");
}
