//! `create` is killed with -9 after each write of its record: the same command goes on, or `rm` leaves nothing.
//!
//! strace kills it exactly there: a record is written by renaming, and the sync of the host's folder comes right after.

use std::{os::unix::process::ExitStatusExt as _, process::Command};

use crate::{
    cloud::Cloud,
    store::{show, variable},
};

/// More writes than a creation has.
const MANY: u32 = 60;

/// Runs `create` and kills it at the `number`th sync of its folder. Returns whether it lived to be killed.
fn killed_at(cloud: &Cloud, name: &str, number: u32) -> bool {
    let folder = cloud.store.host_folder(name);
    let template = cloud.store.command(&["create", "-d", "aws", name]);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(&folder)
        .args(["-e", "trace=fsync", "-e", &format!("inject=fsync:signal=KILL:when={number}")])
        .arg(variable("MACHINE_PROGRAM"))
        .args(template.get_args());
    for (key, value) in template.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
    assert!(killed || output.status.success(), "create under strace, killed at {number}: {}", show(&output));
    killed
}

fn phase(cloud: &Cloud, name: &str) -> String {
    let path = cloud.store.host_folder(name).join("config.json");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    record["Phase"].as_str().unwrap_or("none").to_owned()
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn killed_after_any_write_the_same_create_ends_ready_with_one_instance() {
    let cloud = Cloud::new();
    let mut number = 1;
    while killed_at(&cloud, "mc1", number) {
        eprintln!("-- killed after write {number}, in the phase {}", phase(&cloud, "mc1"));
        cloud.machine(&["create", "-d", "aws", "mc1"]);
        assert_eq!(phase(&cloud, "mc1"), "Ready");
        assert_eq!(cloud.living().len(), 1, "after write {number}");
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
        number += 1;
        assert!(number < MANY);
    }
    assert!(number > 12, "only {number} writes: the trap does not work");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn killed_after_any_write_rm_leaves_nothing() {
    let cloud = Cloud::new();
    let mut number = 1;
    while killed_at(&cloud, "mc1", number) {
        eprintln!("-- killed after write {number}, in the phase {}", phase(&cloud, "mc1"));
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
        cloud.store.assert_nothing_left();
        number += 1;
        assert!(number < MANY);
    }
    assert!(number > 12, "only {number} writes: the trap does not work");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}
