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

/// A driver that finds what the file `left` in the home folder says, and removes it from there.
const FORGETFUL: &str = r#"#!/usr/bin/env python3
import json, os, sys
file = os.path.join(os.environ["HOME"], "left")
found = json.load(open(file))
request = json.loads(sys.stdin.readline())
answers = {
    "hello": {"contract": 2, "info": {"name": "forgetful", "summary": "Leaves things behind", "features": {
        "provisioned": False, "power": False, "login": "none", "host_key": "none", "adopted": True}}, "flags": []},
    "leftovers": found,
    "remove_leftovers": None,
}
if request["call"] == "remove_leftovers":
    if os.path.exists(file + "-stuck"):
        print(json.dumps({"error": {"kind": "failed", "message": "It is stuck"}}), flush=True)
        sys.exit()
    json.dump([one for one in found if one not in request["leftovers"]], open(file, "w"))
print(json.dumps({"result": answers[request["call"]]}), flush=True)
"#;

#[test]
fn what_is_left_is_an_answer_in_both_forms_and_goes_when_it_is_said_so() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("machine-driver-forgetful");
    fs::write(&program, FORGETFUL).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let left = |found: serde_json::Value| fs::write(home.path().join("left"), found.to_string()).unwrap();
    let gc = |more: &[&str]| {
        let words = [&["gc", "-d", "forgetful"][..], more].concat();
        machine(home.path(), home.path().to_str().unwrap(), &words)
    };
    let objects = |output: &Output| -> Vec<serde_json::Value> {
        let lines = text(&output.stdout);
        let all = lines.lines().map(|line| serde_json::from_str(line).unwrap());
        all.filter(|object: &serde_json::Value| object.get("event").is_none()).collect()
    };
    left(serde_json::json!([]));
    let nothing = gc(&[]);
    assert_eq!((text(&nothing.stdout), nothing.status.code()), (String::new(), Some(0)));
    assert!(text(&nothing.stderr).contains("Nothing is left over"), "{nothing:?}");
    let me = fs::read_to_string(home.path().join("store/store-id")).unwrap();
    let me = me.lines().next().unwrap();
    let one = |id: &str, host_id: Option<&str>, owner: &str| {
        serde_json::json!({
            "kind": "disk", "id": id, "place": "here", "host_id": host_id, "host_name": "mc1", "owner": owner,
        })
    };
    let (mine, theirs) = (one("d-1", Some("7"), me), one("d-2", None, "someone"));
    left(serde_json::json!([theirs, mine]));

    let listed = gc(&[]);
    let rows = text(&listed.stdout);
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["HOST", "KIND", "ID", "PLACE", "OWNER"]);
    assert_eq!(rows[1..], [["mc1", "disk", "d-1", "here", me], ["mc1", "disk", "d-2", "here", "someone"]]);
    assert!(text(&listed.stderr).contains("Nothing was removed"), "{listed:?}");
    let answer = |id: &str, host_id: Option<&str>, owner: &str, removed: serde_json::Value| {
        serde_json::json!({
            "Name": "mc1", "HostId": host_id, "Kind": "disk", "Id": id, "Place": "here", "Owner": owner,
            "Yours": owner == me, "Removed": removed,
        })
    };
    let (no, yes, unknown) = (serde_json::json!(false), serde_json::json!(true), serde_json::Value::Null);
    let others = answer("d-2", None, "someone", no.clone());
    assert_eq!(objects(&gc(&["--json"])), [answer("d-1", Some("7"), me, no), others.clone()]);

    // One that fails is told beside what was found.
    fs::write(home.path().join("left-stuck"), "").unwrap();
    let stuck = gc(&["--json", "--yes"]);
    assert_eq!(stuck.status.code(), Some(1), "{stuck:?}");
    assert!(text(&stuck.stderr).contains("It is stuck"), "{stuck:?}");
    assert_eq!(objects(&stuck), [answer("d-1", Some("7"), me, unknown), others.clone()]);
    fs::remove_file(home.path().join("left-stuck")).unwrap();

    // Only what is this store's own, unless it is said otherwise.
    let removed = gc(&["--json", "--yes"]);
    assert_eq!(objects(&removed), [answer("d-1", Some("7"), me, yes.clone()), others]);
    assert_eq!(objects(&gc(&["--json"])).len(), 1);
    let all = gc(&["--json", "--yes", "--any-owner"]);
    assert_eq!(objects(&all), [answer("d-2", None, "someone", yes)]);
    assert_eq!(objects(&gc(&["--json"])), Vec::<serde_json::Value>::new());
}

/// Its provider keeps out whoever was not let in: it is told whom `machine` needs to be let in, after it made the host and
/// whenever the caller may have moved.
#[test]
fn a_driver_with_a_firewall_is_told_whom_to_let_in() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("machine-driver-wall");
    let hello = r#"{"result":{"contract":2,"info":{"name":"wall","summary":"W","features":{"provisioned":false,"power":true,"login":"none","host_key":"none","adopted":true,"firewall":true}},"flags":[]}}"#;
    let endpoint = r#"{"result":{"address":"192.0.2.7","engine_port":2376,"url":null,"ssh":{"host":"192.0.2.7","port":2222,"user":"u","key":"generated"}}}"#;
    let answers = format!(
        "#!/bin/sh\nread -r request\necho \"$request\" >>\"$HOME/requests\"\ncase $request in\n\
         *'\"call\":\"hello\"'*) echo '{hello}';;\n*'\"call\":\"endpoint\"'*) echo '{endpoint}';;\n\
         *'\"call\":\"state\"'*) cat \"$HOME/state\";;\n*) echo '{{\"result\":{{}}}}';;\nesac\n"
    );
    fs::write(&program, answers).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let rule = |port: u16| serde_json::json!({ "protocol": "tcp", "ports": [port, port], "from": "caller" });
    let run = |arguments: &[&str], state: &str| {
        fs::write(home.path().join("state"), format!("{{\"result\":\"{state}\"}}\n")).unwrap();
        fs::write(home.path().join("requests"), "").unwrap();
        machine(home.path(), home.path().to_str().unwrap(), arguments);
        let requests = fs::read_to_string(home.path().join("requests")).unwrap();
        let requests: Vec<serde_json::Value> =
            requests.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let position = |call: &str| requests.iter().position(|request| request["call"] == call);
        let admitted = position("admit").unwrap_or_else(|| panic!("{arguments:?}: {requests:?}"));
        if let Some(restarted) = position("restart") {
            assert!(admitted < restarted, "{requests:?}");
        } else {
            assert!(position("create").or_else(|| position("start")).unwrap() < admitted, "{requests:?}");
        }
        assert_eq!(requests[admitted]["rules"], serde_json::json!([rule(2222), rule(2376)]), "{requests:?}");
    };
    run(&["create", "-d", "wall", "mc1"], "Running");
    run(&["start", "mc1"], "Running");
    run(&["start", "mc1"], "Stopped");
    // Whoever is not let in cannot see the host go down.
    run(&["restart", "mc1"], "Running");
}
