//! The life of a host: made, used, stopped, started at another address, removed without a trace.

use serde_json::json;

use crate::cloud::Cloud;

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn a_host_lives_and_leaves_no_trace() {
    let cloud = Cloud::new();
    cloud.obey_our_policy(json!({}));

    let said = cloud.store.says(&["create", "-d", "aws", "mc1"]);
    assert!(said.contains("Docker is up and running!"), "{said}");
    let first = cloud.machine(&["ip", "mc1"]);
    cloud.store.load_image("mc1");
    assert_eq!(cloud.store.docker("mc1", &["run", "--rm", "busybox", "echo", "hello"]), "hello\n");
    assert!(cloud.machine(&["ssh", "mc1", "docker version"]).contains("Version"));
    let row = cloud.machine(&["ls", "-f", "{{.Name}} {{.DriverName}} {{.State}} {{.Error}}"]);
    assert_eq!(row, "mc1 aws Running \n");

    // What was delivered with the user data is worth nothing any more.
    let record = cloud.record("mc1");
    let pinned = record["SSHHostKeys"].as_array().unwrap().clone();
    assert_eq!(pinned.len(), 1);
    assert!(!cloud.store.host_folder("mc1").join("ssh_host_ed25519_key").exists());
    assert_eq!(record["Driver"]["SSHUser"], "admin");
    let text = record.to_string();
    assert!(!text.contains("PRIVATE KEY") && !text.contains("AKIA"), "{text}");

    cloud
        .store
        .docker("mc1", &["run", "-d", "--restart", "always", "--name", "stays", "busybox", "sleep", "9999"]);
    cloud.machine(&["stop", "mc1"]);
    assert_eq!(cloud.machine(&["status", "mc1"]), "Stopped\n");
    // What AWS shows is some seconds old: it goes on saying that the host is stopped.
    cloud.obey_our_policy(json!({ "stale": 4000 }));
    cloud.machine(&["start", "mc1"]);
    let second = cloud.machine(&["ip", "mc1"]);
    assert_ne!(first, second, "an address that does not change proves nothing");
    assert_eq!(cloud.machine(&["ssh", "mc1", "echo same"]), "same\n");
    assert_eq!(cloud.record("mc1")["SSHHostKeys"].as_array().unwrap(), &pinned);
    assert_eq!(cloud.store.docker("mc1", &["ps", "--format", "{{.Names}}"]), "stays\n");

    let restarted = cloud.store.says(&["restart", "mc1"]);
    assert!(restarted.contains("Rebooting"), "{restarted}");
    assert_eq!(cloud.machine(&["ip", "mc1"]), second);
    let uptime: f64 = cloud.machine(&["ssh", "mc1", "cut -d' ' -f1 /proc/uptime"]).trim().parse().unwrap();
    assert!(uptime < 300.0, "it did not reboot: up for {uptime} s");
    cloud.machine(&["kill", "mc1"]);
    assert_eq!(cloud.machine(&["status", "mc1"]), "Stopped\n");

    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn a_host_key_that_the_console_does_not_show_is_refused() {
    let cloud = Cloud::new();
    // A console that shows the key of another host.
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    let console =
        format!("-----BEGIN SSH HOST KEY KEYS-----\n{other} root@x\n-----END SSH HOST KEY KEYS-----\n");
    cloud.aws.settings(json!({ "console": { "output": console } })).unwrap();
    let options = ["create", "-d", "aws", "--aws-host-key", "console", "--on-failure", "undo", "mc2"];
    let output = cloud.try_machine(&options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("host key"), "{said}");
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
