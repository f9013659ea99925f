//! A stock Debian with systemd and cloud-init, and the same host through `generic`.

use std::{fs, time::Duration};

use crate::{
    bench::{Bench, until},
    machineos::http,
    stock_clients::{MIRROR, stock_clients},
};

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn debian_and_the_same_host_through_generic() {
    let bench = Bench::new();
    let mirror = ["--engine-registry-mirror", MIRROR];
    bench.machine(&[&["create", "-d", "qemu", "--qemu-image", "debian-12"], &mirror[..], &["deb"]].concat());
    everyday(&bench, "deb");
    stock_clients(&bench, "deb");
    let unit = bench.machine(&["ssh", "deb", "systemctl is-enabled engine; systemctl is-active engine"]);
    assert_eq!(unit, "enabled\nactive\n");
    limits_outlive_the_daemon(&bench, "deb");
    bench.machine(&["stop", "deb"]);
    bench.machine(&["start", "deb"]);
    let kept = ["run", "--rm", "-v", "kept:/kept", "busybox", "cat", "/kept/answer"];
    assert_eq!(bench.docker("deb", &kept), "42\n");
    assert_eq!(bench.machine(&["ssh", "deb", "systemctl is-active engine-containers"]), "active\n");
    assert!(bench.machine(&["provision", "deb"]).contains("Nothing to change"));

    // Another store, another authority: it takes the host over by SSH alone.
    let generic = Bench::new();
    let part = |template: &str| bench.machine(&["inspect", "-f", template, "deb"]).trim().to_owned();
    let (address, port, user) =
        (part("{{.Driver.IPAddress}}"), part("{{.Driver.SSHPort}}"), part("{{.Driver.SSHUser}}"));
    let (key, host_key) = (part("{{.Driver.SSHKeyPath}}"), part("{{index .SSHHostKeys 0}}"));
    let create = [
        "create",
        "-d",
        "generic",
        "--generic-ip-address",
        &address,
        "--generic-ssh-port",
        &port,
        "--generic-ssh-user",
        &user,
        "--generic-ssh-key",
        &key,
    ];
    let unknown = generic.try_machine(&[&create[..], &["adopted"]].concat());
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("--ssh-host-key"), "{said}");
    generic.machine(&["rm", "-f", "adopted"]);
    generic.machine(&[&create[..], &["--ssh-host-key", &host_key, "adopted"]].concat());
    assert_eq!(generic.docker("adopted", &["run", "--rm", "busybox", "echo", "taken over"]), "taken over\n");
    // It changes nothing that it was not told to.
    assert_eq!(generic.machine(&["ssh", "adopted", "hostname"]), "deb\n");
    generic.machine(&["rm", "-y", "adopted"]);
    generic.assert_nothing_left();
    bench.machine(&["rm", "-y", "deb"]);
    bench.assert_nothing_left();
}

/// A container's group lies in a unit that systemd has handed over, and nothing that becomes of the daemon touches it.
fn limits_outlive_the_daemon(bench: &Bench, host: &str) {
    let run = ["run", "-d", "--name", "limited", "-m", "32m", "--cpus", "0.5", "--pids-limit", "20"];
    let id = bench.docker(host, &[&run[..], &["busybox", "sleep", "100000"]].concat());
    let group = format!("/system.slice/engine-containers.service/{}", id.trim());
    let pid = bench.docker(host, &["inspect", "-f", "{{.State.Pid}}", "limited"]);
    let look = format!(
        "cd /sys/fs/cgroup{group} && cat cgroup.procs memory.max cpu.max pids.max && cat /proc/{}/cgroup",
        pid.trim()
    );
    let expected = format!("{pid}33554432\n50000 100000\n20\n0::{group}\n");
    assert_eq!(bench.machine(&["ssh", host, &look]), expected);
    let delegated = "systemctl show -P Delegate -P ControlGroup engine-containers";
    let unit = bench.machine(&["ssh", host, delegated]);
    assert!(unit.contains("yes") && unit.contains("/system.slice/engine-containers.service"), "{unit}");
    for what in [
        "sudo systemctl restart engine",
        "sudo systemctl daemon-reload",
        "sudo systemctl stop engine && sudo systemctl start engine",
        // Its restart is up to systemd.
        "before=$(systemctl show -P MainPID engine); sudo kill -9 $before; \
         until now=$(systemctl show -P MainPID engine); [ $now != 0 ] && [ $now != $before ]; do sleep 0.2; done",
        "! sudo systemctl stop engine-containers",
        "sudo systemctl reload engine",
    ] {
        bench.machine(&["ssh", host, what]);
        let state = until("the engine answers", Duration::from_secs(60), || {
            let state = bench.try_docker(host, &["inspect", "-f", "{{.State.Pid}}", "limited"]);
            state.status.success().then(|| String::from_utf8(state.stdout).unwrap())
        });
        assert_eq!(state, pid, "{what}");
        assert_eq!(bench.machine(&["ssh", host, &look]), expected, "{what}");
    }
    bench.docker(host, &["update", "-m", "48m", "--memory-swap", "96m", "limited"]);
    assert!(bench.machine(&["ssh", host, &look]).contains("\n50331648\n"));
    let hog = ["run", "--rm", "-m", "16m", "busybox", "sh", "-c", "x=a; while true; do x=$x$x; done"];
    assert_eq!(bench.try_docker(host, &hog).status.code(), Some(137));
    bench.docker(host, &["rm", "-f", "limited"]);
    let look =
        "systemctl is-active engine-containers; ls /sys/fs/cgroup/system.slice/engine-containers.service";
    let left = bench.machine(&["ssh", host, look]);
    assert!(left.starts_with("active\n") && left.contains("keeper\n") && !left.contains(id.trim()), "{left}");
}

fn everyday(bench: &Bench, host: &str) {
    bench.load_image(host);
    assert_eq!(bench.docker(host, &["run", "--rm", "busybox", "echo", "hello"]), "hello\n");
    bench.docker(
        host,
        &["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "httpd", "-f", "-h", "/www"],
    );
    let address = bench.machine(&["ip", host]);
    let page = until("the published port answers", Duration::from_secs(60), || http(address.trim(), 8080));
    assert!(page.contains("hello from a container"), "{page}");
    assert!(bench.machine(&["ssh", host, "docker ps"]).contains("web"));
    assert!(bench.machine(&["ssh", host, "swarm --help"]).contains("init"));
    bench.docker(
        host,
        &["run", "--name", "data", "-v", "kept:/kept", "busybox", "sh", "-c", "echo 42 >/kept/answer"],
    );
    let file = bench.folder().join("file");
    fs::write(&file, "copied").unwrap();
    bench.machine(&["scp", &file.display().to_string(), &format!("{host}:/tmp/file")]);
    assert_eq!(bench.machine(&["ssh", host, "cat /tmp/file"]), "copied");
}
