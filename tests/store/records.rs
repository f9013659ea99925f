//! Records that are damaged or hostile: told, kept, and never printed raw.

use std::{fs, os::unix::ffi::OsStrExt as _};

use serde_json::json;

use crate::home::{Home, show};

const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";

#[test]
fn control_characters_of_a_damaged_record_never_reach_the_terminal() {
    let home = Home::new();
    assert!(home.create_none("good").output().unwrap().status.success());
    let text = fs::read_to_string(home.host("good").join("config.json")).unwrap();
    let good: serde_json::Value = serde_json::from_str(&text).unwrap();
    let fields = [
        "/Phase",
        "/State",
        "/DriverName",
        "/Created",
        "/Id",
        "/Transport",
        "/Driver/IPAddress",
        "/Endpoint/address",
        "/Endpoint/url",
        "/ConfigVersion",
    ];
    for field in fields {
        let mut bad = good.clone();
        *bad.pointer_mut(field).unwrap() = HOSTILE.into();
        home.write_record("bad", &bad);
        fs::write(home.store().join("locks/bad"), format!("process 1 (`{HOSTILE}`)")).unwrap();
        for command in [
            &["ls", "-t", "1"][..],
            &["inspect", "bad"],
            &["env", "bad"],
            &["url", "bad"],
            &["ip", "bad"],
            &["status", "bad"],
            &["start", "bad"],
            &["rm", "-y", "bad"],
        ] {
            let output = home.machine(command);
            let all = [output.stdout.as_slice(), &output.stderr].concat();
            let text = String::from_utf8_lossy(&all);
            let odd = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
            assert_eq!(odd, None, "{field}, {command:?}: {}", show(&output).escape_debug());
        }
    }
}

#[test]
fn a_folder_whose_name_is_no_hosts_name_is_listed_by_a_name_that_is_safe() {
    let home = Home::new();
    assert!(home.create_none("good").output().unwrap().status.success());
    for name in [HOSTILE.as_bytes(), b"\xff\xfe"] {
        fs::create_dir(home.store().join("machines").join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    let listed = home.ok(&["ls", "-t", "1"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.chars().all(|c| !c.is_control() || c == '\n'), "{}", listed.escape_debug());
}

#[test]
fn rm_by_force_of_a_damaged_record_says_what_may_be_left_and_removes_it() {
    let home = Home::new();
    for identity in [
        None,
        Some("{".to_owned()),
        Some(
            json!({"Id": "7f1c0e2e-8f0e-4a54-9c64-1f6f8f1f8f1f", "DriverName": "gone", "Config": {}})
                .to_string(),
        ),
    ] {
        assert!(home.create_none("mc1").output().unwrap().status.success());
        fs::write(home.host("mc1").join("config.json"), "{").unwrap();
        let path = home.host("mc1").join("identity.json");
        match &identity {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let output = home.machine(&["rm", "-f", "mc1"]);
        let said = show(&output);
        assert!(output.status.success() && said.contains("may be left"), "{identity:?}: {said}");
        assert!(!home.host("mc1").exists(), "{identity:?}: {said}");
    }
}
