//! `create` is killed with -9 after each write of its record: the same command goes on, or `rm` leaves nothing.
//!
//! strace kills it exactly there: a record is written by renaming, and the sync of the host's folder comes right after.

use std::{
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    cloud::Cloud,
    store::{until, variable},
};

/// More writes than a creation has.
const MANY: u32 = 60;

/// Where a creation is killed.
#[derive(Clone, Copy)]
enum Trap {
    /// Right after a write, before whatever it announces is done.
    AfterWrite(u32),
    /// Right before a write, when what it records has been done.
    BeforeWrite(u32),
}

/// Runs `create` up to the trap. Returns whether it was killed there.
fn killed(cloud: &Cloud, name: &str, trap: Trap) -> bool {
    let folder = cloud.store.host_folder(name);
    let (path, calls, number) = match trap {
        Trap::AfterWrite(number) => (folder, "fsync", number),
        Trap::BeforeWrite(number) => (folder.join("config.json"), "rename,renameat,renameat2", number),
    };
    let template = cloud.store.command(&["create", "-d", "aws", name]);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(&path)
        .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:signal=KILL:when={number}")])
        .arg(variable("MACHINE_PROGRAM"))
        .args(template.get_args());
    for (key, value) in template.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let mut child = command.stdout(Stdio::null()).process_group(0).spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if matches!(trap, Trap::BeforeWrite(_)) && phase(cloud, name) == "Booting" {
            // Nothing boots in that test: this is its end, for the whole group of processes.
            let group = format!("-{}", child.id());
            assert!(Command::new("kill").args(["-9", "--", &group]).status().unwrap().success());
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let killed = status.signal() == Some(9) || status.code() == Some(128 + 9);
    assert!(killed || status.success(), "create under strace: {status}");
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
    while killed(&cloud, "mc1", Trap::AfterWrite(number)) {
        eprintln!("-- killed after write {number}, in the phase {}", phase(&cloud, "mc1"));
        if phase(&cloud, "mc1") != "Ready" {
            cloud.machine(&["create", "-d", "aws", "mc1"]);
        }
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
    while killed(&cloud, "mc1", Trap::AfterWrite(number)) {
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

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn killed_before_any_write_what_was_made_is_found_again() {
    let cloud = Cloud::without_vms();
    let mut number = 1;
    while killed(&cloud, "mc1", Trap::BeforeWrite(number)) {
        let there = cloud.living().len();
        eprintln!("-- killed before write {number}, with {there} instances");
        if cloud.store.host_folder("mc1").exists() {
            cloud.machine(&["rm", "-y", "mc1"]);
        }
        cloud.assert_nothing_left();
        assert!(killed(&cloud, "mc1", Trap::BeforeWrite(number)));
        let mut child =
            cloud.store.command(&["create", "-d", "aws", "mc1"]).stdout(Stdio::null()).spawn().unwrap();
        until("it goes on", Duration::from_secs(60), || (phase(&cloud, "mc1") == "Booting").then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(cloud.living().len(), 1, "before write {number}");
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
        number += 1;
        assert!(number < MANY);
    }
    assert!(number > 10, "only {number} writes: the trap does not work");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
