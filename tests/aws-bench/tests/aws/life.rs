//! The life of a host: made, used, stopped, started at another address, removed without a trace.

use serde_json::{Value, json};

use crate::cloud::Cloud;

/// The actions that the printed policy allows.
fn allowed(policy: &str) -> Vec<String> {
    let policy: Value = serde_json::from_str(policy).unwrap();
    let mut actions = Vec::new();
    for statement in policy["Statement"].as_array().unwrap() {
        match &statement["Action"] {
            Value::String(action) => actions.push(action.clone()),
            list => actions.extend(list.as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned())),
        }
    }
    actions
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn a_host_lives_and_leaves_no_trace() {
    let cloud = Cloud::new();
    // Nothing but what the policy allows is allowed.
    cloud.aws.faults(json!({ "deny_unless": allowed(&cloud.machine(&["iam-policy", "aws"])) })).unwrap();

    let said = cloud.machine(&["create", "-d", "aws", "mc1"]);
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
    cloud.machine(&["start", "mc1"]);
    let second = cloud.machine(&["ip", "mc1"]);
    assert_ne!(first, second, "an address that does not change proves nothing");
    assert_eq!(cloud.machine(&["ssh", "mc1", "echo same"]), "same\n");
    assert_eq!(cloud.record("mc1")["SSHHostKeys"].as_array().unwrap(), &pinned);
    assert_eq!(cloud.store.docker("mc1", &["ps", "--format", "{{.Names}}"]), "stays\n");

    let restarted = cloud.machine(&["restart", "mc1"]);
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
fn host_keys_are_read_from_the_console_and_a_wrong_one_is_refused() {
    let cloud = Cloud::new();
    cloud.machine(&["create", "-d", "aws", "--aws-host-key", "console", "mc1"]);
    let record = cloud.record("mc1");
    assert_eq!(record["SSHHostKeys"].as_array().unwrap().len(), 1);
    cloud.machine(&["rm", "-y", "mc1"]);

    // A console that shows the key of another host.
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    let console =
        format!("-----BEGIN SSH HOST KEY KEYS-----\n{other} root@x\n-----END SSH HOST KEY KEYS-----\n");
    cloud.aws.settings(json!({ "console": { "output": console } })).unwrap();
    let output = cloud.try_machine(&[
        "create",
        "-d",
        "aws",
        "--aws-host-key",
        "console",
        "--on-failure",
        "undo",
        "mc2",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("host key"), "{said}");
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
