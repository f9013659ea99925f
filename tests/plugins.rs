//! Drivers that are programs on the PATH, through the real program: the example's whole life, and one that lies.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

fn machine(home: &Path, programs: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_machine"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap_or_default()))
        .env("MACHINE_STORAGE_PATH", home.join("store"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_driver_in_another_language_makes_runs_and_removes_hosts() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = machine(home.path(), EXAMPLES, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let folder = home.path().join("store/cache/folder");
    run(&["create", "-d", "folder", "--folder-url", "tcp://192.0.2.7:2375", "web1", "web2"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
    assert_eq!(run(&["url", "web1"]).trim(), "tcp://192.0.2.7:2375");
    run(&["stop", "web1"]);
    assert_eq!(run(&["status", "web1"]).trim(), "Stopped");
    let listed = run(&[
        "ls",
        "-t",
        "60",
        "--format",
        "{{.Name}} {{.DriverName}} {{.State}}",
        "--filter",
        "state=Stopped",
    ]);
    assert_eq!(listed.trim(), "web1 folder Stopped");
    run(&["start", "web1"]);
    assert_eq!(run(&["status", "web1"]).trim(), "Running");
    run(&["rm", "-y", "web1", "web2"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_driver_that_cannot_be_understood_is_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("machine-driver-odd");
    fs::write(&program, "#!/bin/sh\nprintf 'hello \\033[2J world\\n'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = machine(home.path(), home.path().to_str().unwrap(), &["create", "-d", "odd", "web1"]);
    let stderr = text(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("The driver odd does not keep to its contract"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    assert!(!home.path().join("store/machines").exists());
}
