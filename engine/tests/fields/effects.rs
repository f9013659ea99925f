//! What fields do, seen from inside a container or from its host.

use std::process::Command;

use super::*;

/// Runs a container of this request to its end and answers with what it wrote on both outputs.
#[track_caller]
fn output(engine: &Engine, mut body: Value, script: &str) -> String {
    body["Image"] = json!("busybox");
    body["Cmd"] = if body["Entrypoint"].is_null() { json!(["sh", "-c", script]) } else { json!([script]) };
    let id = started(engine, &body);
    assert_eq!(engine.http("POST", &format!("/containers/{id}/wait"), b"").status, 200);
    let text = engine.docker(["logs", &id]);
    engine.docker(["rm", "-fv", &id]).ok();
    format!("{}{}", text.stdout, text.stderr)
}

#[track_caller]
fn started(engine: &Engine, body: &Value) -> String {
    let answer = post(engine, "/containers/create", body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let id = answer.json()["Id"].as_str().unwrap().to_owned();
    let answer = engine.http("POST", &format!("/containers/{id}/start"), b"");
    assert_eq!(answer.status, 204, "{}", answer.text());
    id
}

#[test]
fn the_process_is_as_asked() {
    let engine = engine();
    let body = json!({ "Hostname": "box", "Domainname": "example.test", "User": "nobody", "Env": ["A=one"],
        "WorkingDir": "/var", "Entrypoint": ["sh", "-c"],
        "HostConfig": { "GroupAdd": ["0"], "OomScoreAdj": 321, "Init": true,
            "Ulimits": [{ "Name": "nofile", "Soft": 100, "Hard": 200 }] } });
    let script = "hostname; cat /proc/sys/kernel/domainname; id -u; id -G; echo $A; pwd; \
                  cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; test $$ != 1 && echo second";
    let seen = output(&engine, body, script);
    let expected = ["box", "example.test", "65534", "65534 0", "one", "/var", "321", "100", "200", "second"];
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_stop_is_as_asked() {
    let engine = engine();
    // Longer than dockerd's own patience, which would kill it.
    let script = "trap 'sleep 11; exit 3' USR1; echo ready; while true; do sleep 0.1; done";
    let body = json!({ "Image": "busybox", "Cmd": ["sh", "-c", script], "StopSignal": "SIGUSR1", "StopTimeout": 60 });
    let id = started(&engine, &body);
    harness::wait_for("the trap", || engine.docker(["logs", &id]).stdout.contains("ready"));
    engine.docker(["stop", &id]).ok();
    assert_eq!(engine.docker(["inspect", "-f", "{{.State.ExitCode}}", &id]).ok(), "3\n");
}

#[test]
fn namespaces_are_shared_as_asked() {
    let engine = engine();
    let kinds = ["ipc", "uts", "cgroup", "pid", "user"];
    let script = kinds.map(|kind| format!("readlink /proc/self/ns/{kind}")).join(";");
    let host: Vec<String> = kinds
        .iter()
        .map(|kind| {
            engine.inside("readlink", [format!("/proc/{}/ns/{kind}", engine.pid())]).ok().trim().to_owned()
        })
        .collect();
    let shared = json!({ "HostConfig": { "IpcMode": "host", "UTSMode": "host", "CgroupnsMode": "host", "PidMode": "host",
        "UsernsMode": "host" } });
    let shared = output(&engine, shared, &script);
    assert_eq!(shared.lines().collect::<Vec<_>>(), host);
    let own = json!({ "HostConfig": { "IpcMode": "private", "CgroupnsMode": "private" } });
    let own = output(&engine, own, &script);
    for ((kind, own), host) in kinds.iter().zip(own.lines()).zip(&host).take(4) {
        assert_ne!(own, host, "{kind}");
    }
    let none = json!({ "HostConfig": { "IpcMode": "none" } });
    let none = output(&engine, none, "readlink /proc/self/ns/ipc; ls -d /dev/shm");
    assert!(!none.contains(&host[0]) && none.contains("/dev/shm: No such file"), "{none}");
    let body =
        json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": { "IpcMode": "shareable" } });
    let id = started(&engine, &body);
    let whose = |kind: &str| engine.docker(["exec", &id, "readlink", &format!("/proc/self/ns/{kind}")]).ok();
    let mode = format!("container:{id}");
    let joined = json!({ "HostConfig": { "IpcMode": mode, "PidMode": mode } });
    engine.docker(["exec", &id, "touch", "/dev/shm/shared"]).ok();
    let joined =
        output(&engine, joined, "readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid; ls /dev/shm");
    assert_eq!(joined, format!("{}{}shared\n", whose("ipc"), whose("pid")));

    // What lies there instead may lead anywhere.
    let devices = engine.path("devices");
    fs::create_dir(&devices).unwrap();
    harness::run(
        std::process::Command::new("cp").args(["-a", "/dev/null", "/dev/zero", "/dev/tty"]).arg(&devices),
        b"",
    )
    .ok();
    let (mount, script) =
        (format!("{}:/dev", devices.display()), "ln -s /proc /dev/shm; echo made; sleep 1000");
    let hostile =
        ["run", "-d", "--name", "hostile", "--ipc", "shareable", "-v", &mount, "busybox", "sh", "-c"];
    engine.docker(hostile.into_iter().chain([script])).ok();
    harness::wait_for("the link", || engine.docker(["logs", "hostile"]).ok() == "made\n");
    let refused =
        engine.docker(["run", "--rm", "--ipc", "container:hostile", "busybox", "ls", "/dev/shm"]).failed();
    assert!(refused.contains("shared memory"), "{refused}");
}

/// A block device of this host, and its numbers.
fn block_device() -> Option<(String, String)> {
    let devices = fs::read_dir("/sys/block").ok()?.flatten();
    let mut found = devices.filter_map(|device| {
        let path = format!("/dev/{}", device.file_name().to_str()?);
        let numbers = fs::read_to_string(device.path().join("dev")).ok()?;
        Path::new(&path).exists().then(|| (path, numbers.trim().to_owned()))
    });
    found.find(|(path, _)| path.starts_with("/dev/vd") || path.starts_with("/dev/sd"))
}

#[test]
fn block_devices_are_throttled() {
    let Some((device, numbers)) = block_device() else {
        return skipped::say("a block device", "there is no disk here whose use could be limited");
    };
    let engine = engine();
    let parent = format!("/throttled-{}", engine.pid());
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let rate = |rate: u64| json!([{ "Path": device, "Rate": rate }]);
    let host = json!({ "CgroupParent": parent, "BlkioDeviceReadBps": rate(1 << 30), "BlkioDeviceWriteBps": rate(2 << 30),
        "BlkioDeviceReadIOps": rate(70_000), "BlkioDeviceWriteIOps": rate(80_000) });
    let id = started(&engine, &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host }));
    let root = if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/blkio" };
    let read =
        |file: &str| fs::read_to_string(format!("{root}{parent}/{id}/{file}")).unwrap().trim().to_owned();
    if unified {
        let expected = format!("{numbers} rbps=1073741824 wbps=2147483648 riops=70000 wiops=80000");
        assert_eq!(read("io.max"), expected);
    } else {
        for (file, rate) in
            [("read_bps", 1_u64 << 30), ("write_bps", 2 << 30), ("read_iops", 70_000), ("write_iops", 80_000)]
        {
            assert_eq!(read(&format!("blkio.throttle.{file}_device")), format!("{numbers} {rate}"));
        }
    }
    engine.docker(["rm", "-f", &id]).ok();
    for place in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(place.path().join(parent.trim_start_matches('/')));
    }
    let body = json!({ "Image": "busybox", "HostConfig": { "BlkioDeviceReadBps": [{ "Path": "/not/there", "Rate": 1 }] } });
    let refused = post(&engine, "/containers/create", &body);
    assert_eq!(
        (refused.status, refused.text().contains("stat /not/there")),
        (400, true),
        "{}",
        refused.text()
    );
}

/// A file as a block device with the scheduler BFQ, which is the one that knows weights.
struct WeighedDevice(String);

impl WeighedDevice {
    fn new(folder: &Path) -> Option<Self> {
        let file = folder.join("disk");
        fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let path = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        let device = made.status.success().then_some(Self(path))?;
        fs::write(format!("/sys/block/{}/queue/scheduler", device.name()), "bfq").ok()?;
        Some(device)
    }

    fn name(&self) -> &str {
        self.0.trim_start_matches("/dev/")
    }

    fn numbers(&self) -> String {
        fs::read_to_string(format!("/sys/block/{}/dev", self.name())).unwrap().trim().to_owned()
    }
}

impl Drop for WeighedDevice {
    fn drop(&mut self) {
        let _ = fs::write(format!("/sys/block/{}/queue/scheduler", self.name()), "none");
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn block_devices_are_shared_by_weight() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = WeighedDevice::new(folder.path()) else {
        return skipped::say("bfq", "there is no loop device with the scheduler BFQ here");
    };
    let engine = engine();
    let parent = format!("/weighed-{}", engine.pid());
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let wish = format!("{}:700", device.0);
    let options = ["run", "-d", "--name", "heavy", "--blkio-weight", "300", "--blkio-weight-device", &wish];
    engine.docker(options.into_iter().chain(["--cgroup-parent", &parent, "busybox", "sleep", "1000"])).ok();
    let id = engine.docker(["inspect", "-f", "{{.Id}}", "heavy"]).ok();
    let (root, all, devices) = if unified {
        ("/sys/fs/cgroup", "io.bfq.weight", "io.bfq.weight")
    } else {
        ("/sys/fs/cgroup/blkio", "blkio.bfq.weight", "blkio.bfq.weight_device")
    };
    let read = |file: &str| fs::read_to_string(format!("{root}{parent}/{}/{file}", id.trim())).unwrap();
    assert!(read(all).split_whitespace().any(|word| word == "300"), "{}", read(all));
    let weight = format!("{} 700", device.numbers());
    assert!(read(devices).lines().any(|line| line == weight), "{}", read(devices));
    engine.docker(["update", "--blkio-weight", "400", "heavy"]).ok();
    assert!(read(all).split_whitespace().any(|word| word == "400"), "{}", read(all));
    engine.docker(["rm", "-f", "heavy"]).ok();
    for place in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(place.path().join(parent.trim_start_matches('/')));
    }
    let _ = fs::remove_dir(format!("/sys/fs/cgroup{parent}"));
    for (wish, said) in
        [("/dev/null:100", "/dev/null is no block device"), ("/dev/not/there:100", "stat /dev/not/there")]
    {
        let refused = engine.docker(["create", "--blkio-weight-device", wish, "busybox"]).failed();
        assert!(refused.contains(said), "{refused}");
    }
    let body = json!({ "Image": "busybox", "HostConfig": { "BlkioWeightDevice": [{ "Path": device.0, "Weight": 9 }] } });
    let refused = post(&engine, "/containers/create", &body);
    assert_eq!(
        (refused.status, refused.json()),
        (400, json!({ "message": "range of blkio weight is from 10 to 1000" }))
    );
}

#[test]
fn limits_are_in_the_cgroup() {
    let engine = engine();
    let parent = format!("/fields-{}", engine.pid());
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let mut host = json!({ "CpuShares": 512, "CpuPeriod": 50_000, "CpuQuota": 25_000, "CpusetCpus": "0",
        "CpusetMems": "0", "Memory": 32 << 20, "MemoryReservation": 24 << 20, "MemorySwap": 64 << 20,
        "CgroupParent": parent });
    if !unified {
        host["MemorySwappiness"] = json!(20);
    }
    let id = started(&engine, &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host }));
    let read = |controller: &str, file: &str| {
        let root = if unified { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{controller}") };
        let path = format!("{root}{parent}/{id}/{file}");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    };
    let expected: &[(&str, &str, &str)] = if unified {
        &[
            ("cpu", "cpu.max", "25000 50000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("cpuset", "cpuset.mems", "0"),
            ("memory", "memory.low", "25165824"),
            ("memory", "memory.swap.max", "33554432"),
        ]
    } else {
        &[
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_period_us", "50000"),
            ("cpu", "cpu.cfs_quota_us", "25000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("cpuset", "cpuset.mems", "0"),
            ("memory", "memory.soft_limit_in_bytes", "25165824"),
            ("memory", "memory.memsw.limit_in_bytes", "67108864"),
            ("memory", "memory.swappiness", "20"),
        ]
    };
    for (controller, file, value) in expected {
        assert_eq!(read(controller, file), *value, "{file}");
    }
    engine.docker(["rm", "-f", &id]).ok();
    for place in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(place.path().join(parent.trim_start_matches('/')));
    }
}

#[test]
fn the_kernel_is_shown_as_asked() {
    let engine = engine();
    let paths = json!({ "HostConfig": { "MaskedPaths": ["/etc/passwd"], "ReadonlyPaths": ["/tmp"],
        "CapAdd": ["NET_ADMIN"], "Sysctls": { "kernel.msgmax": "1234" } } });
    let script =
        "wc -c < /etc/passwd; touch /tmp/x; cat /proc/sys/kernel/msgmax; grep CapEff /proc/self/status";
    let seen = output(&engine, paths, script);
    assert!(seen.contains("touch: /tmp/x: Read-only file system"), "{seen}");
    assert_eq!(
        seen.lines().filter(|line| !line.starts_with("touch")).collect::<Vec<_>>(),
        ["0", "1234", "CapEff:\t00000000a80435fb"]
    );
    let script = "grep -c -E ' /proc/(sys|kcore|keys) ' /proc/self/mountinfo";
    assert_eq!(
        output(&engine, json!({ "HostConfig": { "SecurityOpt": ["systempaths=unconfined"] } }), script),
        "0\n"
    );
    assert_ne!(output(&engine, json!({}), script), "0\n", "by default some of them are covered");
}

#[test]
fn devices_are_there_as_asked() {
    let engine = engine();
    let body = json!({ "HostConfig": { "Devices": [
        { "PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/told", "CgroupPermissions": "w" } ] } });
    let script = "ls /dev/kmsg; test -c /dev/told && echo there; exec 3< /dev/told";
    let seen = output(&engine, body, script);
    assert!(seen.contains("there\n") && seen.contains("/dev/kmsg: No such file"), "{seen}");
    assert!(seen.contains("can't open /dev/told: Operation not permitted"), "{seen}");
    let opens = "mknod /tmp/node c 1 11; exec 3> /tmp/node && echo opened";
    let ruled = json!({ "HostConfig": { "DeviceCgroupRules": ["c 1:11 w"] } });
    assert_eq!(output(&engine, ruled, opens), "opened\n");
    let seen = output(&engine, json!({}), opens);
    assert!(seen.contains("Operation not permitted"), "{seen}");
}

#[test]
fn mounts_are_as_asked() {
    let engine = engine();
    let outer = engine.path("outer");
    fs::create_dir_all(outer.join("inner")).unwrap();
    fs::write(outer.join("inner/hidden"), "").unwrap();
    engine.inside("mount", ["-t", "tmpfs", "x", outer.join("inner").to_str().unwrap()]).ok();
    let bind = |options: Value, script: &str| {
        let mount = json!({ "Type": "bind", "Source": outer, "Target": "/o", "ReadOnly": true, "BindOptions": options });
        output(&engine, json!({ "HostConfig": { "Mounts": [mount] } }), script)
    };
    let write = "touch /o/x; touch /o/inner/y; ls /o/inner";
    let outside_only = bind(json!({ "ReadOnlyNonRecursive": true }), write);
    assert!(
        outside_only.contains("/o/x: Read-only") && !outside_only.contains("inner/y: Read-only"),
        "{outside_only}"
    );
    for options in [json!({}), json!({ "ReadOnlyForceRecursive": true })] {
        let everything = bind(options, write);
        assert!(
            everything.contains("/o/x: Read-only") && everything.contains("inner/y: Read-only"),
            "{everything}"
        );
    }
    assert_eq!(bind(json!({ "NonRecursive": true }), "ls /o/inner"), "hidden\n");
    let propagation = |mode: &str| bind(json!({ "Propagation": mode }), "grep ' /o ' /proc/self/mountinfo");
    engine.inside("mount", ["--bind", outer.to_str().unwrap(), outer.to_str().unwrap()]).ok();
    engine.inside("mount", ["--make-shared", outer.to_str().unwrap()]).ok();
    assert!(propagation("rslave").contains(" master:"), "{}", propagation("rslave"));
    assert!(!propagation("rprivate").contains(" master:"));
    let fresh = engine.path("fresh");
    let made = json!([{ "Type": "bind", "Source": fresh, "Target": "/f", "BindOptions": { "CreateMountpoint": true } }]);
    output(&engine, json!({ "HostConfig": { "Mounts": made } }), "touch /f/x");
    assert!(fresh.join("x").exists());

    let tmpfs = json!([{ "Type": "tmpfs", "Target": "/t", "TmpfsOptions": { "SizeBytes": 1 << 20, "Mode": 0o700,
        "Options": [["exec"], ["uid", "7"]] } }]);
    let seen =
        output(&engine, json!({ "HostConfig": { "Mounts": tmpfs } }), "grep ' /t ' /proc/self/mountinfo");
    for option in ["size=1024k", "mode=700", "uid=7", "nosuid"] {
        assert!(seen.contains(option), "{option}: {seen}");
    }
    assert!(!seen.contains("noexec"), "{seen}");
    let odd = json!({ "Image": "busybox", "HostConfig": { "Tmpfs": { "/t": "colour=red" } } });
    assert_eq!(post(&engine, "/containers/create", &odd).status, 400);

    let volume = json!({ "Image": "busybox", "Cmd": ["ls", "/etc"], "HostConfig": { "ShmSize": 2 << 20, "Mounts": [
        { "Type": "volume", "Source": "empty", "Target": "/etc", "VolumeOptions": { "NoCopy": true, "Labels": { "kind": "x" } } }] } });
    let id = started(&engine, &volume);
    engine.http("POST", &format!("/containers/{id}/wait"), b"");
    assert!(!engine.docker(["logs", &id]).ok().contains("passwd"), "the image's content was not asked for");
    assert_eq!(engine.docker(["volume", "ls", "-qf", "label=kind=x"]).ok(), "empty\n");
    let from =
        |mode: &str| json!({ "Image": "busybox", "HostConfig": { "VolumesFrom": [format!("{id}{mode}")] } });
    let read_only = output(&engine, from(":ro,z"), "touch /etc/new");
    assert!(read_only.contains("Read-only file system"), "{read_only}");
    assert_eq!(output(&engine, from(""), "touch /etc/new && echo written"), "written\n");
    let odd = post(&engine, "/containers/create", &from(":roo"));
    assert_eq!((odd.status, odd.text().contains("invalid mode: roo")), (400, true), "{}", odd.text());
    let shm = json!({ "HostConfig": { "ShmSize": 2 << 20 } });
    assert!(output(&engine, shm, "grep ' /dev/shm ' /proc/self/mountinfo").contains("size=2048k"));
}

#[test]
fn the_network_is_as_asked() {
    let engine = engine();
    let endpoint = json!({ "NetworkingConfig": { "EndpointsConfig": { "bridge": { "MacAddress": "02:00:00:00:00:07" } } } });
    let script = "cat /sys/class/net/eth0/address";
    assert_eq!(output(&engine, endpoint, script), "02:00:00:00:00:07\n");
    assert_eq!(output(&engine, json!({ "MacAddress": "02:00:00:00:00:08" }), script), "02:00:00:00:00:08\n");
    assert_eq!(output(&engine, json!({ "NetworkDisabled": true }), "ls /sys/class/net"), "lo\n");
    let names =
        output(&engine, json!({ "HostConfig": { "DnsOptions": ["ndots:3"] } }), "cat /etc/resolv.conf");
    assert!(names.contains("options ndots:3"), "{names}");
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "ExposedPorts": { "80/tcp": {} },
        "HostConfig": { "PublishAllPorts": true } });
    let id = started(&engine, &body);
    let ports = engine.docker(["port", &id, "80/tcp"]).ok();
    let port = ports.lines().next().unwrap().rsplit(':').next().unwrap();
    let rules = engine.inside("nft", ["list", "ruleset"]).ok();
    assert!(rules.contains(port), "{port}: {rules}");
}

#[test]
fn annotations_reach_the_runtime() {
    let engine = engine();
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": { "Annotations": { "of.mine": "told" } } });
    let id = started(&engine, &body);
    let bundle = format!("{}/containers/{id}/config.json", engine.exec_root());
    let bundle: Value = serde_json::from_str(&engine.inside("cat", [bundle]).ok()).unwrap();
    assert_eq!(bundle["annotations"], json!({ "of.mine": "told" }));
    let shown = engine.docker(["inspect", "-f", "{{.HostConfig.Annotations}}", &id]).ok();
    assert_eq!(shown, "map[of.mine:told]\n");
}

#[test]
fn lines_of_the_log_have_attributes() {
    let engine = engine();
    let log = json!({ "Type": "json-file", "Config": { "labels": "site", "labels-regex": "^of", "env": "A",
        "env-regex": "^C", "tag": "{{slice .ID 0 0}}{{.Name}} of {{.ImageName}}{{index .ContainerLabels \"of.it\"}}" } });
    let body = json!({ "Image": "busybox", "Cmd": ["echo", "said"], "Env": ["A=one two", "B=no", "C1=3"],
        "Labels": { "site": "s", "of.it": "o", "other": "no" }, "HostConfig": { "LogConfig": log } });
    let answer = engine.http("POST", "/containers/create?name=told", body.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    engine.docker(["start", "-a", "told"]).ok();
    let path = engine.docker(["inspect", "-f", "{{.LogPath}}", "told"]).ok();
    let line: Value = serde_json::from_str(fs::read_to_string(path.trim()).unwrap().trim()).unwrap();
    let expected = json!({ "A": "one two", "C1": "3", "of.it": "o", "site": "s", "tag": "told of busyboxo" });
    assert_eq!(line["attrs"], expected);
    let details = engine.docker(["logs", "--details", "told"]).ok();
    assert_eq!(details, "A=one+two,C1=3,of.it=o,site=s,tag=told+of+busyboxo said\n");
    assert_eq!(engine.docker(["logs", "told"]).ok(), "said\n");
    for (option, value, status) in
        [("mode", "odd", 400), ("compress", "maybe", 400), ("tag", "{{", 400), ("env-regex", "(", 400)]
    {
        let log = json!({ "Type": "json-file", "Config": { option: value } });
        let answer = post(
            &engine,
            "/containers/create",
            &json!({ "Image": "busybox", "HostConfig": { "LogConfig": log } }),
        );
        assert_eq!((answer.status, answer.text().contains(option)), (status, true), "{}", answer.text());
    }
}

#[test]
fn full_files_of_a_log_are_packed() {
    let engine = engine();
    let options = json!({ "max-size": "20k", "max-file": "4", "compress": "true" });
    let body = json!({ "Image": "busybox", "Cmd": ["sh", "-c", "for n in $(seq 600); do echo line $n; done"],
        "HostConfig": { "LogConfig": { "Type": "json-file", "Config": options } } });
    let answer = engine.http("POST", "/containers/create?name=packed", body.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    engine.docker(["start", "-a", "packed"]).ok();
    let path = engine.docker(["inspect", "-f", "{{.LogPath}}", "packed"]).ok();
    assert!(fs::exists(format!("{}.1.gz", path.trim())).unwrap());
    let lines: Vec<String> = (1..=600).map(|number| format!("line {number}")).collect();
    assert_eq!(engine.docker(["logs", "packed"]).ok().lines().collect::<Vec<_>>(), lines);
    assert_eq!(engine.docker(["logs", "-n", "500", "packed"]).ok().lines().collect::<Vec<_>>(), lines[100..]);
    let once = json!({ "max-file": "1", "compress": "true" });
    let body =
        json!({ "Image": "busybox", "HostConfig": { "LogConfig": { "Type": "json-file", "Config": once } } });
    let answer = post(&engine, "/containers/create", &body);
    assert_eq!((answer.status, answer.text().contains("compress")), (400, true), "{}", answer.text());
}

#[test]
fn an_update_is_in_the_cgroup() {
    let engine = engine();
    let id = started(
        &engine,
        &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": { "Memory": 16 << 20 } }),
    );
    let update = |body: Value| {
        let answer = post(&engine, &format!("/containers/{id}/update"), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    update(
        json!({ "CpuShares": 512, "CpuPeriod": 50_000, "CpuQuota": 25_000, "CpusetCpus": "0", "CpusetMems": "0",
        "Memory": 32 << 20, "MemoryReservation": 24 << 20, "MemorySwap": 64 << 20, "PidsLimit": 77 }),
    );
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let read = |controller: &str, file: &str| {
        let root = if unified { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{controller}") };
        let found = engine.inside("find", [root.as_str(), "-type", "d", "-name", &id]).ok();
        let path = Path::new(found.lines().next().unwrap()).join(file);
        fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let expected: &[(&str, &str, &str)] = if unified {
        &[
            ("cpu", "cpu.max", "25000 50000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("cpuset", "cpuset.mems", "0"),
            ("memory", "memory.low", "25165824"),
            ("memory", "memory.swap.max", "33554432"),
            ("pids", "pids.max", "77"),
        ]
    } else {
        &[
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_period_us", "50000"),
            ("cpu", "cpu.cfs_quota_us", "25000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("cpuset", "cpuset.mems", "0"),
            ("memory", "memory.soft_limit_in_bytes", "25165824"),
            ("memory", "memory.memsw.limit_in_bytes", "67108864"),
            ("pids", "pids.max", "77"),
        ]
    };
    for (controller, file, value) in expected {
        assert_eq!(read(controller, file), *value, "{file}");
    }
    let other = started(&engine, &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] }));
    let answer = post(&engine, &format!("/containers/{other}/update"), &json!({ "NanoCpus": 500_000_000 }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = engine.inside("find", ["/sys/fs/cgroup", "-type", "d", "-name", &other]).ok();
    let quota = found.lines().flat_map(|folder| {
        ["cpu.cfs_quota_us", "cpu.max"].map(|file| fs::read_to_string(Path::new(folder).join(file)))
    });
    assert!(quota.flatten().next().unwrap().starts_with("50000"));
}

#[test]
fn an_exec_is_as_asked() {
    let engine = engine();
    let id = started(&engine, &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] }));
    let exec = |body: Value, start: Value| {
        let answer = post(&engine, &format!("/containers/{id}/exec"), &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let exec = answer.json()["Id"].as_str().unwrap().to_owned();
        let answer = post(&engine, &format!("/exec/{exec}/start"), &start);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    let command = ["sh", "-c", "stty size; tty | cut -c 1-8"];
    let terminal = json!({ "Cmd": command, "Tty": true, "AttachStdout": true });
    let seen = exec(terminal.clone(), json!({ "ConsoleSize": [11, 22], "Tty": true }));
    assert!(seen.contains("11 22\r\n/dev/pts"), "{seen:?}");
    let mut sized = terminal;
    sized["ConsoleSize"] = json!([33, 44]);
    let seen = exec(sized, json!({ "Tty": true }));
    assert!(seen.contains("33 44\r\n"), "{seen:?}");
    let both = ["sh", "-c", "echo out; echo err >&2; grep CapEff /proc/self/status"];
    let out = exec(json!({ "Cmd": both, "AttachStdout": true, "Privileged": true }), json!({}));
    assert!(out.contains("out\n") && !out.contains("err\n"), "{out:?}");
    assert!(!out.contains("00000000a80425fb"), "{out:?}");
    let err = exec(json!({ "Cmd": both, "AttachStderr": true }), json!({}));
    assert!(!err.contains("out\n") && err.contains("err\n"), "{err:?}");
}

#[test]
fn a_network_is_as_asked() {
    let engine = engine();
    let body = json!({ "Name": "n", "Internal": true,
        "IPAM": { "Config": [{ "Subnet": "10.77.0.0/24", "IPRange": "10.77.0.64/28", "Gateway": "10.77.0.9",
            "AuxiliaryAddresses": { "taken": "10.77.0.65" } }] },
        "Options": { "com.docker.network.bridge.name": "asked0", "com.docker.network.driver.mtu": "1400",
            "com.docker.network.bridge.enable_icc": "false" } });
    let answer = post(&engine, "/networks/create", &body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let bridge = engine.inside("ip", ["-o", "addr", "show", "asked0"]).ok();
    assert!(bridge.contains("10.77.0.9/24"), "{bridge}");
    let link = engine.inside("ip", ["-o", "link", "show", "asked0"]).ok();
    assert!(link.contains("mtu 1400"), "{link}");
    let inside = json!({ "HostConfig": { "NetworkMode": "n" } });
    let seen = output(&engine, inside, "ip -o -4 addr show eth0; ip route; cat /sys/class/net/eth0/mtu");
    assert!(seen.contains("inet 10.77.0.64/24") || seen.contains("inet 10.77.0.66/24"), "{seen}");
    assert!(!seen.contains("default") && seen.contains("1400"), "{seen}");
    let id = started(&engine, &json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] }));
    let connect = json!({ "Container": id, "EndpointConfig": { "MacAddress": "02:00:00:00:00:09",
        "IPAMConfig": { "IPv4Address": "10.77.0.70" } } });
    let answer = post(&engine, "/networks/n/connect", &connect);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = engine.docker(["exec", &id, "sh", "-c", "ip -o addr; cat /sys/class/net/eth1/address"]).ok();
    assert!(seen.contains("10.77.0.70/24") && seen.contains("02:00:00:00:00:09"), "{seen}");
    // What is left of a container that is gone is let go by force only.
    let gone = |force: bool| {
        post(&engine, "/networks/n/disconnect", &json!({ "Container": "gone", "Force": force }))
    };
    assert_eq!(gone(false).status, 404);
    assert_eq!(gone(true).status, 200);
}

#[test]
fn parameters_are_followed() {
    let engine = engine();
    let script = "trap 'echo usr; exit 4' USR1; trap 'echo hup' HUP; echo up; echo wrong >&2; while true; do sleep 0.1; done";
    let body = json!({ "Image": "busybox", "Cmd": ["sh", "-c", script], "Labels": { "kind": "a" } });
    let id = started(&engine, &body);
    let logs = |streams: &str| engine.http("GET", &format!("/containers/{id}/logs?{streams}"), b"").text();
    let call = |path: &str| engine.http("POST", &format!("/containers/{id}/{path}"), b"").status;
    let says = |text: &str| harness::wait_for(text, || logs("stdout=1").contains(text));
    says("up");
    harness::wait_for("the other stream", || logs("stderr=1").contains("wrong"));
    assert!(!logs("stderr=1").contains("up") && !logs("stdout=1").contains("wrong"));
    assert_eq!(call("kill?signal=HUP"), 204);
    says("hup");
    let sized = |query: &str| {
        engine.http("GET", &format!("/containers/{id}/json?{query}"), b"").json()["SizeRw"].is_u64()
    };
    assert!(sized("size=1") && !sized("size=0"));
    let once = |query: &str| engine.http("GET", &format!("/containers/{id}/stats?{query}"), b"").json();
    assert_eq!(once("stream=0&one-shot=1")["precpu_stats"]["system_cpu_usage"].as_u64().unwrap_or(0), 0);
    assert_ne!(once("stream=0")["precpu_stats"]["system_cpu_usage"].as_u64().unwrap_or(0), 0);
    let code = || engine.docker(["inspect", "-f", "{{.State.ExitCode}}", &id]).ok();
    assert_eq!(call("restart?signal=USR1&t=30"), 204);
    says("usr");
    assert_eq!(call("stop?signal=HUP&t=0"), 204);
    assert_eq!(code(), "137\n", "it goes on after a HUP, and is given no time");
    let prune = |path: &str| engine.http("POST", &format!("/{path}"), b"").json();
    assert_eq!(
        prune("containers/prune?filters={%22label%22:[%22kind=b%22]}")["ContainersDeleted"],
        Value::Null
    );
    assert_eq!(
        prune("images/prune?filters={%22dangling%22:[%22false%22],%22label%22:[%22none%22]}")["ImagesDeleted"],
        Value::Null
    );
    let shared = |query: &str| {
        engine.http("GET", &format!("/images/json?{query}"), b"").json()[0]["SharedSize"].as_i64()
    };
    assert_eq!((shared("shared-size=1"), shared("")), (Some(0), Some(-1)));
    let usage = engine.http("GET", "/system/df?type=image", b"").json();
    assert!(usage["Images"].is_array() && usage["Containers"].is_null(), "{usage}");
    let remove = |query: &str| engine.http("DELETE", &format!("/volumes/nothing{query}"), b"").status;
    assert_eq!((remove(""), remove("?force=1")), (404, 204));
    assert_eq!(
        prune("containers/prune?filters={%22label%22:[%22kind=a%22]}")["ContainersDeleted"],
        json!([id])
    );

    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    archive.append_data(&mut header, "var", std::io::empty()).unwrap();
    let archive = archive.into_inner().unwrap();
    let still = post(&engine, "/containers/create?name=still", &json!({ "Image": "busybox" }));
    assert_eq!(still.status, 201);
    let put = |query: &str| engine.http("PUT", &format!("/containers/still/archive?path=/{query}"), &archive);
    let refused = put("&noOverwriteDirNonDir=1");
    assert_ne!(refused.status, 200, "a file does not take a directory's place");
    let taken = put("");
    assert_eq!(taken.status, 200, "it does unless it is told not to: {}", taken.text());
}
