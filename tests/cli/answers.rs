//! What commands answer: as text and with `--json`, on the right stream, and when nobody reads it.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{Home, show, stderr, stdout};

/// Every line of stdout as JSON.
fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn every_answer_can_be_had_as_json() {
    let home = Home::with(&["mc1"]);
    let answer = |arguments: &[&str]| {
        let output = home.command(arguments).env("DOCKER_HOST", "tcp://192.0.2.7:2376").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", show(&output));
        assert_eq!(stderr(&output), "", "{arguments:?}");
        let mut lines = objects(&stdout(&output));
        assert_eq!(lines.len(), 1, "{arguments:?}: {}", show(&output));
        lines.remove(0)
    };
    assert_eq!(answer(&["--json", "ip", "mc1"]), json!({ "Name": "mc1", "IPAddress": "192.0.2.7" }));
    assert_eq!(answer(&["url", "--json", "mc1"]), json!({ "Name": "mc1", "URL": "tcp://192.0.2.7:2376" }));
    assert_eq!(answer(&["--json", "status", "mc1"]), json!({ "Name": "mc1", "State": "Running" }));
    assert_eq!(answer(&["--json", "active"]), json!({ "Name": "mc1" }));
    assert_eq!(answer(&["--json", "ls", "-q"]), json!({ "Name": "mc1" }));
    assert_eq!(answer(&["--json", "inspect", "mc1"])["DriverName"], "none");
    assert_eq!(
        answer(&["--json", "config", "mc1"]),
        json!({ "Name": "mc1", "Host": "tcp://192.0.2.7:2376" })
    );
    assert_eq!(
        answer(&["--json", "env", "mc1"]),
        json!({
            "DOCKER_TLS_VERIFY": null, "DOCKER_HOST": "tcp://192.0.2.7:2376", "DOCKER_CERT_PATH": null,
            "DOCKER_MACHINE_NAME": "mc1",
        })
    );
    assert_eq!(answer(&["--json", "env", "-u"])["DOCKER_HOST"], Value::Null);
    for version in [&["--json", "version"][..], &["--json", "-v"]] {
        assert_eq!(answer(version)["Version"], env!("CARGO_PKG_VERSION"));
    }
    assert!(answer(&["--json", "completions", "bash"])["Script"].as_str().unwrap().contains("complete"));
}

#[test]
fn several_answers_are_an_object_a_line() {
    let home = Home::with(&["m1", "m2"]);
    let lines = objects(&stdout(&home.machine(&["--json", "ip", "m1", "m2"])));
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["Name"], "m2");
}

#[test]
fn options_about_text_are_refused_with_json() {
    let home = Home::with(&["mc1"]);
    for arguments in [
        &["--json", "inspect", "mc1", "-f", "{{.Name}}"][..],
        &["--json", "ls", "-f", "{{.Name}}"],
        &["--json", "env", "--shell", "fish", "mc1"],
    ] {
        let output = home.machine(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", show(&output));
        assert!(stderr(&output).contains("`--json`"), "{}", show(&output));
        assert_eq!(objects(&stdout(&output))[0]["event"], "error");
    }
}

#[test]
fn a_failure_with_json_has_its_causes_and_hint_in_fields() {
    let home = Home::with(&["mc1"]);
    fs::write(home.config("mc1"), "{").unwrap();
    let output = home.machine(&["--json", "ip", "mc1"]);
    let event = objects(&stdout(&output)).remove(0);
    assert_eq!(event["event"], "error");
    assert!(event["text"].as_str().unwrap().starts_with("Could not understand"), "{event}");
    assert_eq!(event["causes"].as_array().unwrap().len(), 1, "{event}");
    assert!(event["hint"].as_str().unwrap().starts_with("Repair it"), "{event}");
    let usage = home.machine(&["--json", "ls", "--bogus"]);
    assert_eq!(objects(&stdout(&usage))[0]["event"], "error");
}

#[test]
fn a_question_stays_out_of_the_stream_of_events() {
    let home = Home::with(&["mc1"]);
    let unanswered = home.machine(&["--json", "rm", "mc1"]);
    assert_eq!(unanswered.status.code(), Some(1), "{}", show(&unanswered));
    assert!(stderr(&unanswered).contains("Are you sure? (y/n): "), "{}", show(&unanswered));
    assert!(stderr(&unanswered).contains("hint: Say yes beforehand with `-y`"), "{}", show(&unanswered));
    objects(&stdout(&unanswered));
    assert!(home.config("mc1").exists());
    let script = format!("echo y | {} --json rm mc1", env!("CARGO_BIN_EXE_machine"));
    let answered = home.typed(&script).output().unwrap();
    assert!(answered.status.success(), "{}", show(&answered));
    objects(&stdout(&answered));
    assert!(!home.config("mc1").exists());
}

#[test]
fn talk_of_commands_with_an_answer_is_beside_it() {
    let home = Home::with(&["mc1"]);
    // Interrupted, broken or asked: whatever these tell, stdout has the answer alone.
    fs::write(home.config("mc1"), "{").unwrap();
    for arguments in
        [&["ip", "mc1"][..], &["url", "mc1"], &["env", "mc1"], &["config", "mc1"], &["status", "mc1"]]
    {
        let output = home.machine(arguments);
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    // docker-machine's scripts log the talk of these from stdout.
    let created = home.machine(&["create", "-d", "none", "--url", "tcp://h:1", "mc2"]);
    assert!(stdout(&created).contains("Running pre-create checks..."), "{}", show(&created));
    assert_eq!(stderr(&created), "");
}

#[test]
fn the_first_word_about_a_taken_name_is_that_it_is_taken() {
    let home = Home::with(&["mc1"]);
    fs::remove_dir_all(home.store().join("certs")).unwrap();
    let script =
        format!("{} create -d none --url tcp://h:1 mc1 2>&1 | head -n 1", env!("CARGO_BIN_EXE_machine"));
    let output = home.typed(&script).output().unwrap();
    assert_eq!(stdout(&output), "Docker machine \"mc1\" already exists\n");
    assert!(!home.store().join("certs").exists(), "an authority was made for nothing");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::with(&["m1", "m2"]);
    for arguments in [
        "ls",
        "ls --json",
        "ls -q",
        "--help",
        "create -d qemu --help",
        "completions bash",
        "inspect m1",
        "env m1",
        "ls --bogus",
        "bogus",
        "start nothing",
        "-D ls",
        "create -d none --url tcp://h:1 m3",
        "rm -y m2",
        "ssh --help",
    ] {
        // The reader is gone before the first word: both streams are closed pipes from the beginning.
        let script = format!(
            "{{ {{ sleep 0.2; {} {arguments}; echo $? >&3; }} 2>&1 | true; }} 3>&1",
            env!("CARGO_BIN_EXE_machine")
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("MACHINE_STORAGE_PATH", home.store())
            .env("SHELL", "/bin/sh")
            .stderr(Stdio::piped());
        let output = command.output().unwrap();
        let expected = match arguments {
            "ls --bogus" => "2\n",
            "bogus" | "start nothing" => "1\n",
            _ => "0\n",
        };
        assert_eq!(stdout(&output), expected, "{arguments}: {}", show(&output));
    }
}

#[test]
fn the_console_of_a_driver_that_keeps_none_is_not_made_up() {
    let home = Home::with(&["mc1"]);
    insta::assert_snapshot!(home.shown(&["console", "mc1"]));
    let refused = home.machine(&["console", "--lines", "0", "mc1"]);
    assert_eq!(refused.status.code(), Some(2), "{}", show(&refused));
}

#[test]
fn help_fits_a_terminal() {
    let home = Home::new();
    let commands = stdout(&home.machine(&["--help"]));
    let names: Vec<&str> = commands
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 20, "{commands}");
    for name in names.iter().filter(|name| **name != "help").chain(&["--help"]) {
        let help =
            stdout(&home.command(&[name, "--help"]).env("MACHINE_TLS_CA_CERT", "/secret").output().unwrap());
        assert!(help.contains("Usage:"), "{name}");
        assert!(!help.contains("/secret"), "{name} shows the value of a variable");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
    }
}
