//! Volumes that are made of something else, and parts of volumes and images.

use super::*;

/// What is mounted where the engine is, below its volumes.
fn mounted(engine: &Engine) -> Vec<String> {
    let root = engine.data_root().join("volumes");
    let mounts = engine.inside("cat", ["/proc/self/mounts"]).ok();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| Path::new(place).starts_with(&root)).map(str::to_owned).collect()
}

fn run(engine: &Engine, volume: &str, script: &str) -> harness::Output {
    engine.docker(["run", "--rm", "-v", volume, "busybox", "sh", "-c", script])
}

/// A tree that is bound with all that is mounted in it, from where mounts and unmounts are passed on, as systemd has it.
#[test]
fn what_is_mounted_in_a_bound_tree_stays_mounted_there() {
    let engine = engine();
    let tree = engine.path("tree");
    fs::create_dir_all(tree.join("disk")).unwrap();
    let path = tree.to_str().unwrap();
    let disk = tree.join("disk");
    let disk = disk.to_str().unwrap();
    engine.inside("mount", ["--bind", path, path]).ok();
    engine.inside("mount", ["--make-rshared", path]).ok();
    engine.inside("mount", ["-t", "tmpfs", "disk", disk]).ok();
    engine.inside("touch", [&format!("{disk}/kept")]).ok();
    for (name, words) in [("alone", "rbind"), ("both", "rbind,rshared")] {
        let (words, device) = (format!("o={words}"), format!("device={path}"));
        engine.docker(["volume", "create", "-o", "type=none", "-o", &words, "-o", &device, name]).ok();
        assert_eq!(run(&engine, &format!("{name}:/v"), "ls /v/disk").stdout, "kept\n");
        wait_for("it to be unmounted", || mounted(&engine).is_empty());
        engine.docker(["volume", "rm", name]).ok();
        assert_eq!(engine.inside("ls", [disk]).ok(), "kept\n", "{name}");
    }
}

/// What is mounted for a container to read only is not written by way of `docker cp` either, whatever leads there.
#[test]
fn copies_into_a_stopped_container_write_nothing_that_is_read_only() {
    let engine = engine();
    let folder = engine.path("conf");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("x"), "old").unwrap();
    let bind = format!("{}:/conf:ro", folder.display());
    engine.docker(["run", "--name", "still", "-v", &bind, "busybox", "ln", "-s", "/conf", "/tmp/way"]).ok();
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["conf/x", "tmp/way/y"] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(3);
        archive.append_data(&mut header, name, &b"new"[..]).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let answer = engine.http("PUT", "/containers/still/archive?path=/", &archive);
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(fs::read_to_string(folder.join("x")).unwrap(), "old");
    let entries = fs::read_dir(&folder).unwrap().count();
    assert_eq!(entries, 1);
}

#[test]
fn a_volume_is_made_of_what_its_options_say() {
    let engine = engine();
    let folder = engine.path("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("kept"), "host\n").unwrap();
    let device = format!("device={}", folder.display());
    let bind = ["volume", "create", "-o", "type=none", "-o", "o=bind,noexec", "-o", &device, "bound"];
    engine.docker(bind).ok();
    assert_eq!(engine.docker(bind).ok(), "bound\n");
    let told = engine.docker(["volume", "inspect", "-f", "{{json .Options}}", "bound"]).ok();
    let options = json!({ "type": "none", "o": "bind,noexec", "device": folder });
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), options);
    assert_eq!(mounted(&engine), Vec::<String>::new());
    let script = "cat /v/kept; echo made > /v/made; cp /bin/busybox /v/program; /v/program true";
    let seen = run(&engine, "bound:/v", script);
    assert_eq!(seen.stdout, "host\n");
    assert!(seen.stderr.contains("Permission denied"), "{seen:?}");
    assert_eq!(fs::read_to_string(folder.join("made")).unwrap(), "made\n");
    wait_for("it to be unmounted", || mounted(&engine).is_empty());

    // Files are copied into and out of what a container would see.
    engine.docker(["create", "--name", "still", "-v", "bound:/v", "busybox"]).ok();
    let copy = engine.path("copy");
    engine.docker(["cp", "still:/v/made", copy.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(&copy).unwrap(), "made\n");
    engine.docker(["cp", copy.to_str().unwrap(), "still:/v/copied"]).ok();
    assert_eq!(fs::read_to_string(folder.join("copied")).unwrap(), "made\n");
    assert_eq!(mounted(&engine), Vec::<String>::new());

    // What it was made of is nobody's to remove.
    let other = ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "bound"];
    let refused = engine.docker(other).failed();
    assert!(refused.contains("there is a volume of this name with other driver options"), "{refused}");
    engine.docker(["rm", "still"]).ok();
    let usage = engine.http("GET", "/system/df?type=volume", b"").json();
    assert_eq!(usage["Volumes"][0]["UsageData"], json!({ "RefCount": 0, "Size": -1 }));
    engine.docker(["volume", "prune", "-af"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
    assert_eq!(fs::read_to_string(folder.join("kept")).unwrap(), "host\n");

    // An anonymous one, made with a container, goes with it, and only that.
    let mount = json!({ "Type": "volume", "Target": "/v", "VolumeOptions": { "DriverConfig":
        { "Options": { "type": "none", "o": "bind", "device": folder } } } });
    let body = json!({ "Image": "busybox", "Cmd": ["rm", "/v/made"], "HostConfig": { "Mounts": [mount] } });
    create(&engine, "once", &body);
    engine.docker(["start", "-a", "once"]).ok();
    assert!(!folder.join("made").exists());
    engine.docker(["rm", "-v", "once"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
    assert!(folder.join("kept").exists());
}

#[test]
fn a_volume_is_mounted_from_its_first_user_to_its_last() {
    let mut engine = engine();
    let memory =
        ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=1777", "memory"];
    engine.docker(memory).ok();
    let place = engine.data_root().join("volumes/memory/_data").display().to_string();
    for name in ["one", "two"] {
        engine.docker(["run", "-d", "--name", name, "-v", "memory:/m", "busybox", "sleep", "1000"]).ok();
    }
    assert_eq!(mounted(&engine), std::slice::from_ref(&place));
    let size = engine.docker(["exec", "one", "sh", "-c", "echo said > /m/word; df -k /m | tail -1"]).ok();
    assert!(size.contains(" 1024 "), "{size}");
    assert_eq!(engine.docker(["exec", "two", "cat", "/m/word"]).ok(), "said\n");
    assert!(engine.docker(["volume", "rm", "memory"]).failed().contains("volume is in use"));
    engine.docker(["rm", "-f", "one"]).ok();
    assert_eq!(mounted(&engine), std::slice::from_ref(&place));
    // The next daemon knows who uses it.
    engine.kill();
    engine.launch();
    assert_eq!(run(&engine, "memory:/m", "cat /m/word").ok(), "said\n");
    assert_eq!(mounted(&engine), [place]);
    engine.docker(["kill", "two"]).ok();
    wait_for("it to be unmounted", || mounted(&engine).is_empty());
    assert_eq!(run(&engine, "memory:/m", "ls /m").ok(), "");
    // One that ended while no daemon was there.
    engine.docker(["start", "two"]).ok();
    assert_eq!(mounted(&engine).len(), 1);
    let pid = inspect(&engine, "two")["State"]["Pid"].to_string();
    engine.kill();
    harness::run(Command::new("kill").args(["-KILL", &pid]), b"").ok();
    wait_for("its end", || !Path::new(&format!("/proc/{pid}")).exists());
    engine.launch();
    wait_for("it to be unmounted", || mounted(&engine).is_empty());
    engine.docker(["rm", "two"]).ok();
    engine.docker(["volume", "rm", "memory"]).ok();
}

#[test]
fn a_volume_that_cannot_be_mounted_says_why() {
    let engine = engine();
    for (options, said) in [
        (
            &["type=nfs", "device=:/x", "o=addr=127.0.0.1,vers=4"][..],
            "failed to mount local volume: mount :/x:",
        ),
        (&["type=nfs", "device=no.such.invalid:/x"], "network volume address: no.such.invalid"),
        (&["type=none", "device=/not/there", "o=bind"], "(type: none, o: bind): no such file or directory"),
        (
            &["type=sometimes", "device=x"],
            "the kernel of this host does not know the file system `sometimes`",
        ),
        (&["type=tmpfs", "device=x", "o=password=secret"], "o: password=********): the kernel does not take"),
    ] {
        let options = options.iter().flat_map(|option| ["-o", option]);
        engine.docker(["volume", "create"].into_iter().chain(options).chain(["bad"])).ok();
        let failed = run(&engine, "bad:/v", "true");
        assert!(failed.stderr.contains(said) && !failed.stderr.contains("secret"), "{failed:?}");
        // The client makes 127 of some reasons.
        assert!(matches!(failed.code, Some(125 | 127)), "{failed:?}");
        assert_eq!(mounted(&engine), Vec::<String>::new());
        engine.docker(["volume", "rm", "bad"]).ok();
    }
    for (options, said) in [
        (json!({ "typ": "nfs" }), "create bad: invalid option: \"typ\""),
        (json!({ "type": "nfs" }), "create bad: missing required option: \"device\""),
        (json!({ "size": "1g" }), "create bad: quota size requested but no quota support"),
    ] {
        let body = json!({ "Name": "bad", "DriverOpts": options }).to_string();
        let answer = engine.http("POST", "/volumes/create", body.as_bytes());
        assert_eq!((answer.status, answer.json()["message"].as_str()), (400, Some(said)));
    }
    let refused =
        engine.docker(["run", "--volume-driver", "rclone", "-v", "a:/a", "busybox", "true"]).failed();
    assert!(refused.contains("`--volume-driver rclone`"), "{refused}");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
}

#[test]
fn a_part_of_a_volume_is_mounted_and_nothing_else() {
    let engine = engine();
    let fill = "mkdir -p /v/a/b; echo deep > /v/a/b/file; ln -s a /v/in; ln -s ../../../../etc /v/out; ln -s /etc /v/far";
    run(&engine, "store:/v", fill).ok();
    let mount = |path: &str, more: &str| format!("type=volume,src=store,dst=/p,volume-subpath={path}{more}");
    let run = |mount: &str, script: &str| {
        engine.docker(["run", "--rm", "--mount", mount, "busybox", "sh", "-c", script])
    };
    assert_eq!(run(&mount("a/b", ""), "ls -a /p; echo more > /p/new").ok(), ".\n..\nfile\n");
    assert_eq!(run(&mount("in/b/../b/new", ""), "cat /p").ok(), "more\n");
    assert!(run(&mount("a", ",readonly"), "touch /p/x").failed().contains("Read-only file system"));
    for (path, said) in [
        ("out", "path concatenation escapes the base directory"),
        ("far", "path concatenation escapes the base directory"),
        ("none", "no such file or directory"),
        ("../x", "subpath must be a relative path within the volume"),
        ("/a", "subpath must be a relative path within the volume"),
    ] {
        let failed = run(&mount(path, ""), "true").failed();
        assert!(failed.contains(said), "{failed}");
    }
    // Somebody puts a link in its place after the container was made.
    let create = ["create", "--name", "late", "--mount", &mount("a/b", ""), "busybox", "ls", "/p"];
    engine.docker(create).ok();
    let copied = engine.path("copied");
    engine.docker(["cp", "late:/p/file", copied.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(&copied).unwrap(), "deep\n");
    let store = engine.data_root().join("volumes/store/_data");
    fs::rename(store.join("a/b"), store.join("moved")).unwrap();
    symlink("/etc", store.join("a/b")).unwrap();
    let failed = engine.docker(["start", "-a", "late"]).failed();
    assert!(failed.contains("escapes the base directory"), "{failed}");
}

#[test]
fn an_image_is_mounted_for_reading() {
    let engine = engine();
    let layer = |files: &[(&str, &str)]| {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            layer.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        layer.into_inner().unwrap()
    };
    let layers = [layer(&[("some/one", "1\n"), ("some/two", "2\n")]), layer(&[("some/two", "new\n")])];
    engine.docker_with_input(["load"], &harness::image("data", &layers, &json!({ "Cmd": ["/x"] }))).ok();
    engine.docker_with_input(["load"], &harness::image("thin", &layers[..1], &json!({ "Cmd": ["/x"] }))).ok();
    let body = |image: &str, path: &str| {
        let mount =
            json!({ "Type": "image", "Source": image, "Target": "/i", "ImageOptions": { "Subpath": path } });
        json!({ "Image": "busybox", "Cmd": ["sh", "-c", "cat /i/some/* /i/* 2> /dev/null; touch /i/some/x /i/x"],
            "HostConfig": { "Mounts": [mount] } })
    };
    for (name, image, path, seen) in [
        ("whole", "data", "", "1\nnew\n"),
        ("part", "data", "some", "1\nnew\n"),
        ("thin", "thin", "some/one", ""),
    ] {
        create(&engine, name, &body(image, path));
        let output = engine.docker(["start", "-a", name]);
        assert_eq!(output.stdout, seen, "{output:?}");
        assert!(output.code == Some(1), "{output:?}");
    }
    let told = engine.docker(["logs", "whole"]);
    assert!(told.stderr.contains("Read-only file system"), "{told:?}");
    assert_eq!(inspect(&engine, "part")["Mounts"][0]["Type"], "image");
    let copied = engine.path("copied");
    engine.docker(["cp", "whole:/i/some/two", copied.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(&copied).unwrap(), "new\n");
    // As long as it is used, it stays.
    let refused = engine.docker(["rmi", "data"]).failed();
    assert!(refused.contains("conflict"), "{refused}");
    engine.docker(["rm", "whole", "part"]).ok();
    engine.docker(["rmi", "data"]).ok();
    let missing = engine.http("POST", "/containers/create", body("nowhere", "").to_string().as_bytes());
    assert_eq!(missing.status, 404, "{}", missing.text());
    let mount = "type=image,src=thin,dst=/i,image-subpath=some";
    let listed = engine.docker(["run", "--rm", "--mount", mount, "busybox", "ls", "/i"]).ok();
    assert_eq!(listed, "one\ntwo\n");
}
