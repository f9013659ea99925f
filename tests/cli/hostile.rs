//! What comes from outside: damaged and malicious records, and arguments that are not UTF-8. It never steers a terminal
//! and never ends in a panic.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, process::Output};

use serde_json::Value;

use crate::{Home, show, stderr, stdout};

/// Clears a screen, sets a title, goes back in the line, turns the reading order round, breaks the line.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\r\u{8}\u{9b}31m\u{202e}\u{2028}\u{feff}\nhint: run me";

/// Nothing in it steers a terminal but line breaks and tabs.
fn assert_safe(what: &str, output: &Output) {
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    for text in [stdout(output), stderr(output)] {
        if let Some(found) = text.chars().find(|c| bad(*c)) {
            panic!("{what}: {found:?} in {text:?}");
        }
        // A template of the user's own may show a text as it is, with its line breaks.
        assert!(
            what.contains("\"-f\"") || text.lines().all(|line| line != "hint: run me"),
            "{what}: a record writes lines of ours"
        );
    }
    assert!(matches!(output.status.code(), Some(0..=3)), "{what}: {}", show(output));
}

/// Every path to a value of a JSON text.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                paths(value, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                paths(value, &format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn records_cannot_steer_a_terminal_wherever_they_are_damaged() {
    let home = Home::with(&["mc1"]);
    let record: Value = serde_json::from_slice(&fs::read(home.config("mc1")).unwrap()).unwrap();
    let mut places = Vec::new();
    paths(&record, "", &mut places);
    assert!(places.len() > 40, "{places:?}");
    let damage = |name: &str, text: &str| {
        fs::create_dir_all(home.config(name).parent().unwrap()).unwrap();
        fs::write(home.config(name), text).unwrap();
        name.to_owned()
    };
    let mut names: Vec<(String, String)> = Vec::new();
    for (number, place) in places.into_iter().enumerate() {
        let mut mutated = record.clone();
        *mutated.pointer_mut(&place).unwrap() = Value::from(HOSTILE);
        names.push((damage(&format!("d{number}"), &mutated.to_string()), place));
    }
    // A text that is no JSON at all, and a host's folder with a name of its own.
    names.push((damage("text", HOSTILE), "no JSON".to_owned()));
    damage("x\u{1b}[2J\u{202e}y", HOSTILE);
    for command in [
        &["ls", "-t", "1"][..],
        &["ls", "-t", "1", "-f", "{{.Name}} {{.DriverName}} {{.URL}} {{.Error}} {{.EngineOptions}}"],
    ] {
        let output = home.machine(command);
        assert_safe(&format!("{command:?}"), &output);
        assert_eq!(stdout(&output).lines().filter(|line| line.starts_with('d')).count(), names.len() - 1);
        assert!(stdout(&output).contains("\nx\u{fffd}[2J"), "the strange folder is not shown");
    }
    let list = home.machine(&["ls", "-t", "1", "--json"]);
    assert_safe("ls --json", &list);
    let objects =
        stdout(&list).lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>().unwrap();
    assert!(objects.iter().any(|host| host["Name"] == "x\u{1b}[2J\u{202e}y"), "JSON means what there is");
    for (name, place) in &names {
        for command in [
            &["inspect", name][..],
            &["inspect", name, "-f", "{{json .Driver}} {{.DriverName}} {{.Driver.IPAddress}}"],
            &["url", name],
            &["--json", "ip", name],
        ] {
            assert_safe(&format!("{place}: {command:?}"), &home.machine(command));
        }
    }
    for command in
        [&["start", "text"][..], &["rm", "-y", "text"], &["--json", "stop", "text"], &["status", "text"]]
    {
        assert_safe(&format!("{command:?}"), &home.machine(command));
    }
}

#[test]
fn talk_cannot_steer_a_terminal() {
    let home = Home::new();
    let store = home.folder.path().join("x\u{1b}[2J\u{9b}y\u{202e}");
    for command in [
        &["create", "-d", "none", "--url", "tcp://h:1", "mc1"][..],
        &["--json", "create", "-d", "none", "--url", "tcp://h:1", "mc2"],
        &["-D", "ls", "-t", "1"],
        &["rm", "-y", "mc1"],
    ] {
        let output = home.command(command).env("MACHINE_STORAGE_PATH", &store).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", show(&output));
        assert_safe(&format!("{command:?}"), &output);
    }
}

#[test]
fn arguments_cannot_steer_a_terminal() {
    let home = Home::new();
    for command in [
        &["ip", HOSTILE][..],
        &["rm", "-y", HOSTILE],
        &["create", "-d", HOSTILE, "mc1"],
        &["create", "-d", "none", "--url", HOSTILE, "mc1"],
        &["ls", "--filter", HOSTILE],
        &["ls", "--filter", "\u{1b}=x"],
        &["ls", "-f", "{{.\u{1b}[2J}}"],
        &["--bogus\u{1b}[2J"],
        &["bogus\u{1b}[2J"],
        &["-D", "-s", "/dev/null/\u{1b}[2J", "ls"],
    ] {
        let output = home.machine(command);
        assert_ne!(output.status.code(), Some(0), "{command:?}");
        assert_safe(&format!("{command:?}"), &output);
    }
}

#[test]
fn what_is_not_utf_8_is_refused_and_never_ends_in_a_panic() {
    let home = Home::with(&["mc1"]);
    let bad = OsStr::from_bytes(b"/tmp/\xff\xfe");
    let create = ["create", "-d", "none", "--url", "tcp://h:1", "mc2"];
    let check = |what: &str, output: Output, status: i32| {
        assert_eq!(output.status.code(), Some(status), "{what}: {}", show(&output));
        assert!(stderr(&output).contains("UTF-8"), "{what}: {}", show(&output));
    };
    for option in ["--storage-path", "--tls-ca-cert", "--tls-ca-key", "--tls-client-cert", "--tls-client-key"]
    {
        let mut command = home.command(&[]);
        command.arg(option).arg(bad).args(create);
        check(option, command.output().unwrap(), 1);
    }
    for variable in ["MACHINE_STORAGE_PATH", "MACHINE_TLS_CA_CERT", "MACHINE_TLS_CLIENT_KEY"] {
        check(variable, home.command(&create).env(variable, bad).output().unwrap(), 1);
    }
    let mut command = home.command(&create);
    check("HOME", command.env_remove("MACHINE_STORAGE_PATH").env("HOME", bad).output().unwrap(), 1);
    // Options of drivers and names are texts; the parser refuses them.
    for option in ["--url", "--engine-label", "--tls-san", "--ssh-host-key", "--driver", "--engine-env"] {
        let mut command = home.command(&["create"]);
        command.args((option != "--driver").then_some("-dnone")).arg(option).arg(bad).arg("mc2");
        check(option, command.output().unwrap(), 2);
    }
    for words in
        [&["ip"][..], &["rm", "-f"], &["ssh", "mc1"], &["scp", "-q"], &["ls", "-f"], &["env", "--shell"]]
    {
        let mut command = home.command(words);
        check(&words.join(" "), command.arg(bad).output().unwrap(), 2);
    }
    check(
        "--no-proxy",
        home.command(&["env", "--no-proxy", "mc1"]).env("NO_PROXY", bad).output().unwrap(),
        1,
    );
    // The program itself may be anywhere.
    let folder = home.folder.path().join(OsStr::from_bytes(b"bin-\xff"));
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_machine"), folder.join("machine")).unwrap();
    for arguments in [
        &["create", "-d", "none", "--url", "tcp://h:1", "elsewhere"][..],
        &["env", "mc1"],
        &["rm", "-y", "elsewhere"],
    ] {
        let mut command = std::process::Command::new(folder.join("machine"));
        command.args(arguments).env("MACHINE_STORAGE_PATH", home.store()).env("SHELL", "/bin/sh");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", show(&output));
    }
    // Where a variable only tells something about elsewhere, it tells nothing then.
    for variable in ["DOCKER_HOST", "SHELL", "USER", "MACHINE_ENGINE_BUNDLE", "TERM", "NO_PROXY"] {
        for command in [&["ls"][..], &["env", "mc1"], &["active"], &create] {
            let output = home.command(command).env(variable, bad).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{variable} {command:?}: {}", show(&output));
        }
    }
    assert!(!home.config("mc2").exists() || home.machine(&["inspect", "mc2"]).status.success());
}

#[test]
fn a_variable_that_is_empty_is_one_that_is_not_set() {
    let home = Home::new();
    let mut command = home.command(&["create", "-d", "none", "--url", "tcp://h:1", "mc1"]);
    for variable in [
        "MACHINE_DEBUG",
        "MACHINE_DRIVER",
        "MACHINE_DOCKER_INSTALL_URL",
        "MACHINE_NATIVE_SSH",
        "MACHINE_TLS_CA_CERT",
        "MACHINE_TLS_CLIENT_KEY",
        "MACHINE_ENGINE_BUNDLE",
        "MACHINE_BUGSNAG_API_TOKEN",
        "ENGINE_REGISTRY_MIRROR",
        "QEMU_MEMORY",
        "DOCKER_HOST",
    ] {
        command.env(variable, "");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", show(&output));
    let help = home.command(&["create", "--help"]).env("MACHINE_DRIVER", "").output().unwrap();
    assert!(stdout(&help).contains("--qemu-memory"), "{}", show(&help));
}
