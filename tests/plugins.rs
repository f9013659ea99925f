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
    // Also where it is its options that are not known.
    let with_option =
        machine(home.path(), home.path().to_str().unwrap(), &["create", "-d", "odd", "--odd-x", "1", "w"]);
    assert!(text(&with_option.stderr).contains("The driver odd does not keep to its contract"));
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    assert!(!home.path().join("store/machines").exists());
}

#[test]
fn only_commands_about_a_driver_start_its_program() {
    let home = tempfile::tempdir().unwrap();
    let mark = home.path().join("started");
    let program = home.path().join("machine-driver-nginx");
    fs::write(&program, format!("#!/bin/sh\ntouch '{}'\n", mark.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let programs = home.path().to_str().unwrap();
    for words in [
        &["ssh", "mc1", "docker", "run", "-d", "nginx"][..],
        &["-s", "create", "ls"],
        &["url", "-d", "nginx"],
    ] {
        machine(home.path(), programs, words);
        assert!(!mark.exists(), "{words:?}");
    }
    machine(home.path(), programs, &["create", "-d", "nginx", "mc1"]);
    assert!(mark.exists());
}

#[test]
fn an_option_that_machine_has_itself_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("machine-driver-engine");
    let hello = r#"{"result":{"contract":2,"info":{"name":"engine","summary":"E","features":{"provisioned":false,"power":true,"login":"none","host_key":"none","adopted":true}},"flags":[{"name":"engine-label","kind":"text","value_name":"X","help":"H"}]}}"#;
    fs::write(&program, format!("#!/bin/sh\necho '{hello}'\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = machine(home.path(), home.path().to_str().unwrap(), &["create", "-d", "engine", "mc1"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("The driver has an option `--engine-label`, which `machine create` has already"),
        "{stderr}"
    );
}

#[test]
fn a_host_whose_removal_broke_off_is_being_removed_unless_it_is_seen_to_be_there() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("machine-driver-slow");
    let hello = r#"{"result":{"contract":2,"info":{"name":"slow","summary":"S","features":{"provisioned":false,"power":true,"login":"none","host_key":"none","adopted":true}},"flags":[]}}"#;
    let endpoint = r#"{"result":{"address":"192.0.2.7","engine_port":2375,"url":null,"ssh":null}}"#;
    let failed = r#"{"error":{"kind":"failed","message":"cut off"}}"#;
    let answers = format!(
        "#!/bin/sh\nread -r request\ncase $request in\n*'\"call\":\"hello\"'*) echo '{hello}';;\n\
         *'\"call\":\"endpoint\"'*) echo '{endpoint}';;\n*'\"call\":\"remove\"'*) echo '{failed}';;\n\
         *'\"call\":\"state\"'*) cat \"$HOME/state\";;\n*) echo '{{\"result\":{{}}}}';;\nesac\n"
    );
    fs::write(&program, answers).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |arguments: &[&str]| machine(home.path(), home.path().to_str().unwrap(), arguments);
    let phase = || text(&run(&["inspect", "--format", "{{.Phase}}", "mc1"]).stdout).trim().to_owned();
    let created = run(&["create", "-d", "slow", "mc1"]);
    assert!(created.status.success(), "{}", text(&created.stderr));
    // It was refused, and runs on.
    fs::write(home.path().join("state"), "{\"result\":\"Running\"}\n").unwrap();
    assert!(!run(&["rm", "-y", "mc1"]).status.success());
    assert_eq!(phase(), "Ready");
    // Nobody can say.
    fs::write(home.path().join("state"), format!("{failed}\n")).unwrap();
    assert!(!run(&["rm", "-y", "mc1"]).status.success());
    assert_eq!(phase(), "Removing");
}
