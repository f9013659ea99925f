//! The command line as scripts see it: texts, formats and exit statuses, through the real program on hosts without a
//! driver. Paths and times are replaced before they are compared.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/hostile.rs"]
mod hostile;
#[path = "cli/rules.rs"]
mod rules;
#[path = "cli/shells.rs"]
mod shells;
#[path = "cli/terminal.rs"]
mod terminal;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A store of its own.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A store with hosts without a driver.
    fn with(names: &[&str]) -> Self {
        let home = Self::new();
        for name in names {
            let made = home.machine(&["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", name]);
            assert!(made.status.success(), "{}", show(&made));
        }
        home
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn config(&self, name: &str) -> PathBuf {
        self.store().join("machines").join(name).join("config.json")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_machine"));
        command.args(arguments);
        command
    }

    /// A line that someone types into a POSIX shell.
    fn typed(&self, line: &str) -> Command {
        let mut command = self.program("sh");
        command.args(["-c", line]);
        command
    }

    /// A program in an environment that is the same wherever the tests run.
    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/bin:/bin")
            .env("USER", "tester")
            .env("SHELL", "/bin/bash")
            .env("MACHINE_STORAGE_PATH", self.store())
            .stdin(Stdio::null());
        command
    }

    fn machine(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints, in a form that can be compared.
    fn shown(&self, arguments: &[&str]) -> String {
        self.redacted(&show(&self.machine(arguments)))
    }

    fn redacted(&self, text: &str) -> String {
        let text = text.replace(&self.store().display().to_string(), "[STORE]");
        text.replace(env!("CARGO_BIN_EXE_machine"), "[MACHINE]")
    }
}

fn show(output: &Output) -> String {
    format!(
        "exit: {}\n----- stdout\n{}----- stderr\n{}",
        output.status.code().map_or_else(|| "signal".to_owned(), |code| code.to_string()),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_version_is_in_docker_machines_form() {
    let home = Home::new();
    let text = stdout(&home.machine(&["-v"]));
    let rest = text.strip_prefix("machine version ").expect("begins with the program's name");
    assert!(rest.contains(", build "), "{text}");
    assert_eq!(text, stdout(&home.machine(&["version"])));
}

#[test]
fn a_host_without_a_driver_is_recorded() {
    let home = Home::new();
    insta::assert_snapshot!(home.shown(&["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", "mc1"]));
    insta::assert_snapshot!(home.shown(&["ip", "mc1"]));
    insta::assert_snapshot!(home.shown(&["url", "mc1"]));
    insta::assert_snapshot!(home.shown(&["status", "mc1"]));
    insta::assert_snapshot!(home.shown(&["env", "mc1"]));
    insta::assert_snapshot!(home.shown(&["config", "mc1"]));
}

#[test]
fn env_speaks_every_shell() {
    let home = Home::with(&["mc1"]);
    for shell in ["bash", "fish", "powershell", "cmd", "tcsh", "emacs"] {
        let set = home.shown(&["env", "--shell", shell, "mc1"]);
        let unset = home.shown(&["env", "--shell", shell, "-u"]);
        insta::assert_snapshot!(format!("env_{shell}"), format!("{set}\n{unset}"));
    }
}

#[test]
fn env_adds_to_no_proxy_once() {
    let home = Home::with(&["mc1"]);
    let with = |value: &str| {
        let output = home.command(&["env", "--no-proxy", "mc1"]).env("NO_PROXY", value).output().unwrap();
        stdout(&output).lines().find(|line| line.contains("NO_PROXY")).unwrap().to_owned()
    };
    assert_eq!(with(""), "export NO_PROXY=\"192.0.2.7\"");
    assert_eq!(with("a,b"), "export NO_PROXY=\"a,b,192.0.2.7\"");
    assert_eq!(with("a,192.0.2.7"), "export NO_PROXY=\"a,192.0.2.7\"");
    // Not only because it is a part of another address.
    assert_eq!(with("192.0.2.70"), "export NO_PROXY=\"192.0.2.70,192.0.2.7\"");
}

#[test]
fn env_without_a_shell_names_the_option() {
    let home = Home::with(&["mc1"]);
    let output = home.command(&["env", "mc1"]).env_remove("SHELL").output().unwrap();
    insta::assert_snapshot!(home.redacted(&show(&output)));
}

#[test]
fn inspect_prints_the_record_and_parts_of_it() {
    let home = Home::with(&["mc1"]);
    let output = home.machine(&["inspect", "mc1"]);
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["DriverName"], "none");
    assert!(stdout(&output).contains("\n    \"Name\": \"mc1\""), "indented by four spaces");
    let part = |template: &str| stdout(&home.machine(&["inspect", "mc1", "-f", template]));
    assert_eq!(
        part("{{.HostOptions.AuthOptions.StorePath}}"),
        format!("{}/machines/mc1\n", home.store().display())
    );
    assert_eq!(part("{{.Driver.IPAddress}} {{.Nothing}}"), "192.0.2.7 <no value>\n");
    assert_eq!(part("{{json .HostOptions.EngineOptions.Labels}}"), "[]\n");
    insta::assert_snapshot!(home.shown(&["inspect", "mc1", "-f", "{{.Name"]));
}

#[test]
fn ls_formats_filters_and_sorts() {
    let home = Home::with(&["m10", "m9", "Other"]);
    let ls = |arguments: &[&str]| stdout(&home.machine(&[&["ls", "-t", "1"], arguments].concat()));
    assert_eq!(ls(&["-q"]), "Other\nm10\nm9\n");
    assert_eq!(
        ls(&["-f", "{{.Name}}:{{.DriverName}}:{{.State}}"]),
        "m9:none:Running\nm10:none:Running\nOther:none:Running\n"
    );
    assert_eq!(ls(&["-f", "{{.Name}}", "--filter", "name=^m"]), "m9\nm10\n");
    assert_eq!(ls(&["-f", "{{.Name}}", "--filter", "state=stopped"]), "");
    assert_eq!(ls(&["-q", "--filter", "driver=NONE", "--filter", "name=9"]), "m9\n");
    insta::assert_snapshot!(ls(&["-f", "table {{.Name}}\\t{{.URL}}\\t{{.Error}}"]));
    insta::assert_snapshot!(home.shown(&["ls", "--filter", "color=red"]));
    insta::assert_snapshot!(home.shown(&["ls", "--filter", "color"]));
    insta::assert_snapshot!(home.shown(&["ls", "-f", "{{.Nothing}}"]));
}

#[test]
fn ls_of_nothing_is_its_header() {
    insta::assert_snapshot!(Home::new().shown(&["ls"]));
}

#[test]
fn names_that_climb_out_or_are_empty_remove_nothing() {
    let home = Home::with(&["mc1"]);
    for name in ["", "..", ".", "../machines", "mc1/..", "/", "mc1/", "-"] {
        let output = home.machine(&["rm", "-f", "--", name]);
        assert_ne!(output.status.code(), Some(0), "{name:?}: {}", show(&output));
        assert!(stderr(&output).contains("is no name of a host"), "{name:?}: {}", show(&output));
        assert!(home.config("mc1").exists(), "{name:?} removed something");
        assert!(home.store().join("certs/ca-key.pem").exists(), "{name:?} removed the authority");
    }
    for command in ["start", "stop", "ip", "url", "env", "inspect", "status", "ssh", "provision", "kill"] {
        let output = home.machine(&[command, "../machines/mc1"]);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", show(&output));
    }
    for name in ["", "..", "a/b", "-x", "a b", ".hidden"] {
        let output = home.machine(&["create", "-d", "none", "--url", "tcp://h:1", "--", name]);
        assert_ne!(output.status.code(), Some(0), "{name:?}");
    }
    assert_eq!(stdout(&home.machine(&["ls", "-q"])), "mc1\n");
}

#[test]
fn rm_asks_and_takes_no_answer_for_no() {
    let home = Home::with(&["mc1"]);
    insta::assert_snapshot!(home.shown(&["rm", "mc1"]));
    assert!(home.config("mc1").exists());
    insta::assert_snapshot!(home.shown(&["rm", "mc1", "-y"]));
    assert!(!home.store().join("machines/mc1").exists());
    assert!(fs::read_dir(home.store().join("locks")).unwrap().next().is_none(), "a lock was left");
    insta::assert_snapshot!(home.shown(&["rm", "-y", "mc1"]));
}

#[test]
fn what_is_to_be_typed_next_names_the_store() {
    let home = Home::new();
    let store = home.store().with_file_name("a store");
    let create = ["-s", store.to_str().unwrap(), "create", "-d", "none", "--url", "tcp://h:1", "mc1"];
    let output = home.machine(&create);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let command = text.trim_end().rsplit_once("run: ").unwrap().1;
    let typed = home.typed(command).env_remove("MACHINE_STORAGE_PATH").output().unwrap();
    assert!(typed.status.success(), "{command}: {}", String::from_utf8_lossy(&typed.stderr));
}

#[test]
fn a_folder_without_a_record_leads_on() {
    let home = Home::new();
    fs::create_dir_all(home.store().join("machines/empty")).unwrap();
    for command in [vec!["status", "empty"], vec!["rm", "-y", "empty"]] {
        let output = home.machine(&command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains("hint: Put it back, or move"),
            "{command:?}: {text}"
        );
    }
    assert!(home.machine(&["rm", "-f", "empty"]).status.success());
}

#[test]
fn a_creation_that_is_ended_before_anything_is_made_says_so() {
    // 128 and the number of the signal.
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        ends_before_anything_is_made(signal, status);
    }
}

fn ends_before_anything_is_made(signal: &str, status: i32) {
    let home = Home::new();
    // Whoever is asked says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let options = ["--json", "create", "-d", "generic", "--generic-ip-address", "127.0.0.1"];
    let mut command = home.command(&options);
    command.args(["--generic-ssh-port", &port, "mc1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let asked = silent.accept().unwrap();
    Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    drop(asked);
    assert_eq!(output.status.code(), Some(status), "{}", show(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("Interrupted; nothing was made"),
        "{}",
        show(&output)
    );
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&last).unwrap()["event"],
        "error",
        "{}",
        show(&output)
    );
    assert!(!home.store().join("machines/mc1").exists());
}

#[test]
fn a_taken_name_is_refused() {
    let home = Home::with(&["mc1"]);
    let before = fs::read(home.config("mc1")).unwrap();
    insta::assert_snapshot!(home.shown(&["create", "-d", "none", "--url", "tcp://h:1", "mc1"]));
    assert_eq!(fs::read(home.config("mc1")).unwrap(), before);
}

#[test]
fn of_eight_processes_that_create_one_name_one_succeeds() {
    let home = Home::new();
    let arguments = ["create", "-d", "none", "--url", "tcp://h:1", "mc1"];
    let running: Vec<_> = (0..8)
        .map(|_| home.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let outputs: Vec<Output> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let good = outputs.iter().filter(|output| output.status.success()).count();
    assert_eq!(good, 1, "{}", outputs.iter().map(show).collect::<String>());
    for output in outputs.iter().filter(|output| !output.status.success()) {
        let text = stderr(output);
        assert!(text.contains("already exists") || text.contains("is in use by"), "{text}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused_and_nothing_is_made() {
    let home = Home::new();
    for (arguments, status) in [
        (vec!["--bogus"], 2),
        (vec!["ls", "--bogus"], 2),
        (vec!["create", "-d", "none", "--bogus", "mc1"], 2),
        (vec!["create", "-d", "none", "mc1"], 1),
        (vec!["create", "-d", "bogus", "mc1"], 1),
        (vec!["create"], 2),
        (vec!["bogus"], 1),
        (vec!["create", "-d", "qemu", "--qemu-memory", "lots", "mc1"], 1),
        (vec!["create", "-d", "none", "--url", "tcp://h:1", "--engine-label", "x", "mc1"], 1),
        (vec!["create", "-d", "none", "--url", "tcp://h:1", "mc1", "mc1"], 1),
        (
            vec![
                "create",
                "-d",
                "none",
                "--url",
                "tcp://h:1",
                "--engine-install-url",
                "http://m.example/x",
                "mc1",
            ],
            3,
        ),
        (vec!["create", "-d", "none", "--url", "tcp://h:1", "--engine-opt", "mtu=big", "mc1"], 3),
    ] {
        let output = home.machine(&arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", show(&output));
        assert!(!stderr(&output).is_empty(), "{arguments:?} says nothing");
    }
    assert!(!home.store().join("machines").exists(), "something was recorded");
    insta::assert_snapshot!(home.shown(&["bogus"]));
}

#[test]
fn one_dash_is_as_good_as_two() {
    let home = Home::new();
    let output = home.machine(&["create", "-driver", "none", "-url=tcp://192.0.2.7:2376", "mc1"]);
    assert!(output.status.success(), "{}", show(&output));
}

#[test]
fn a_host_that_is_not_there_is_named() {
    let home = Home::new();
    insta::assert_snapshot!(home.shown(&["env", "nothing"]));
    insta::assert_snapshot!(home.shown(&["start"]));
}

#[test]
fn broken_records_are_told_and_kept() {
    let home = Home::with(&["good", "bad"]);
    fs::write(home.config("bad"), "{\"ConfigVersion\": 4").unwrap();
    let output = home.machine(&["inspect", "bad"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("Could not understand"), "{}", show(&output));
    let list = stdout(&home.machine(&["ls", "-t", "1", "-f", "{{.Name}} {{.State}}"]));
    assert_eq!(list, "bad Error\ngood Running\n");
    assert_eq!(fs::read_to_string(home.config("bad")).unwrap(), "{\"ConfigVersion\": 4");
    // Only force removes what cannot be understood.
    assert_eq!(home.machine(&["rm", "-y", "bad"]).status.code(), Some(1));
    assert!(home.config("bad").exists());
    assert_eq!(home.machine(&["rm", "-f", "bad"]).status.code(), Some(0));
    assert!(!home.config("bad").exists());

    for nonsense in ["[]", "{}", "null", "{\"DriverName\": \"\"}"] {
        fs::write(home.config("good"), nonsense).unwrap();
        let output = home.machine(&["inspect", "good"]);
        assert_eq!(output.status.code(), Some(1), "{nonsense}: {}", show(&output));
    }
    fs::write(home.config("good"), "{\"ConfigVersion\": 99}").unwrap();
    let output = home.machine(&["start", "good"]);
    assert!(stderr(&output).contains("is from the future"), "{}", show(&output));
}

/// Writes a certificate that its own key has signed, and its key, as the store's authority.
fn write_authority(home: &Home, change: impl FnOnce(&mut rcgen::CertificateParams), other_key: bool) {
    let folder = home.store().join("certs");
    fs::create_dir_all(&folder).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    change(&mut parameters);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let key = if other_key { rcgen::KeyPair::generate().unwrap() } else { key };
    fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("ca-key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn an_authority_that_is_no_good_is_refused_before_anything_is_made() {
    let create = ["create", "-d", "none", "--url", "tcp://h:1", "mc1"];
    let refused = |home: &Home| {
        let before = fs::read(home.store().join("certs/ca.pem")).unwrap();
        let output = home.machine(&create);
        assert_eq!(output.status.code(), Some(1), "{}", show(&output));
        assert!(!home.config("mc1").exists());
        assert_eq!(
            fs::read(home.store().join("certs/ca.pem")).unwrap(),
            before,
            "the authority was replaced"
        );
        home.redacted(&stderr(&output))
    };
    let home = Home::new();
    write_authority(&home, |parameters| parameters.not_after = rcgen::date_time_ymd(2021, 1, 1), false);
    insta::assert_snapshot!(refused(&home));

    let home = Home::new();
    write_authority(&home, |_| {}, true);
    insta::assert_snapshot!(refused(&home));

    let home = Home::new();
    write_authority(&home, |parameters| parameters.is_ca = rcgen::IsCa::ExplicitNoCa, false);
    insta::assert_snapshot!(refused(&home));

    let home = Home::new();
    write_authority(&home, |_| {}, false);
    assert!(home.machine(&create).status.success());
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    // A file system of 256 KiB, in a mount namespace of the test's own; needs root.
    let home = Home::with(&["mc1"]);
    let script = format!(
        "mount -t tmpfs -o size=256k tmpfs {store}.full && cp -a {store}/. {store}.full/ && \
         export MACHINE_STORAGE_PATH={store}.full && dd if=/dev/zero of={store}.full/fill bs=1k 2>/dev/null; \
         {machine} create -d none --url tcp://h:1 mc2; echo status $?; \
         rm {store}.full/fill; {machine} ls -q && {machine} inspect -f '{{{{.Name}}}}' mc1",
        store = home.store().display(),
        machine = env!("CARGO_BIN_EXE_machine"),
    );
    fs::create_dir(format!("{}.full", home.store().display())).unwrap();
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let (out, err) = (stdout(&output), stderr(&output));
    assert!(err.contains("Could not write") && err.contains("Make room"), "{out}\n{err}");
    assert!(out.contains("status 1"), "{out}\n{err}");
    assert!(out.ends_with("mc1\nmc1\n"), "{out}\n{err}");
}

#[test]
fn a_json_event_a_line() {
    let home = Home::new();
    let output = home.machine(&["--json", "create", "-d", "none", "--url", "tcp://h:1", "mc1"]);
    let events: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(events.iter().any(|event| event["event"] == "done" && event["host"] == "mc1"), "{events:?}");
    let output = home.machine(&["--json", "start", "nothing"]);
    let event: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(event["event"], "error");
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let home = Home::with(&["mc1"]);
    for arguments in [&["inspect", "mc1"][..], &["env", "mc1"], &["ls", "-q"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = home.command(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains("Could not write to the standard output"), "{}", show(&output));
    }
}

#[test]
fn without_a_command_there_is_help() {
    let home = Home::new();
    let output = home.machine(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("regenerate-certs"), "{}", show(&output));
}

#[test]
fn ls_as_json_is_an_object_a_line() {
    let home = Home::with(&["m2", "m1"]);
    let text = stdout(&home.machine(&["ls", "--json", "-t", "1"]));
    let names: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["Name"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["m1", "m2"]);
}

#[test]
fn active_is_the_host_that_docker_talks_to() {
    let home = Home::with(&["mc1"]);
    let active = |host: &str| home.command(&["active"]).env("DOCKER_HOST", host).output().unwrap();
    assert_eq!(stdout(&active("tcp://192.0.2.7:2376")), "mc1\n");
    let none = active("tcp://192.0.2.8:2376");
    assert_eq!((none.status.code(), stderr(&none).contains("No active host found")), (Some(1), true));
}

#[test]
fn completions_come_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = stdout(&home.machine(&["completions", shell]));
        assert!(text.contains("regenerate-certs"), "{shell}");
    }
    let script = home.folder.path().join("completions.bash");
    fs::write(&script, stdout(&home.machine(&["completions", "bash"]))).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
}

#[test]
fn every_command_has_a_page_of_the_manual() {
    let home = Home::new();
    let manual = home.folder.path().join("manual");
    home.machine(&["man-pages", manual.to_str().unwrap()]);
    let create = fs::read_to_string(manual.join("machine-create.1")).unwrap();
    assert!(create.contains("Create hosts") && create.contains(".TH machine"), "{create}");
    assert!(manual.join("machine.1").exists() && !manual.join("machine-man-pages.1").exists());
    let taken = home.folder.path().join("file");
    fs::write(&taken, "").unwrap();
    let refused = home.machine(&["man-pages", taken.to_str().unwrap()]);
    assert!(!refused.status.success() && stderr(&refused).contains("Could not write the manual"));
}

#[test]
fn every_command_has_a_help() {
    let home = Home::new();
    for command in [
        "active",
        "completions",
        "config",
        "console",
        "create",
        "env",
        "gc",
        "host-key",
        "iam-policy",
        "inspect",
        "ip",
        "kill",
        "ls",
        "mount",
        "provision",
        "regenerate-certs",
        "restart",
        "rm",
        "scp",
        "ssh",
        "start",
        "status",
        "stop",
        "upgrade",
        "url",
        "version",
    ] {
        let output = home.machine(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}: {}", show(&output));
        assert!(stdout(&output).contains("Usage:"), "{command}");
        if command != "create" {
            insta::assert_snapshot!(format!("help_{command}"), home.redacted(&stdout(&output)));
        }
    }
    let help = stdout(&home.machine(&["create", "-d", "qemu", "--help"]));
    assert!(help.contains("--qemu-memory") && help.contains("QEMU_MEMORY"), "{help}");
    assert!(!stdout(&home.machine(&["create", "-d", "none", "--help"])).contains("--qemu-memory"));
}

#[test]
fn records_of_docker_machine_are_used_where_they_are() {
    let home = Home::new();
    let folder = home.store().join("machines/old");
    fs::create_dir_all(&folder).unwrap();
    let text = r#"{"ConfigVersion":3,"Driver":{"IPAddress":"198.51.100.4:2376","URL":"tcp://198.51.100.4:2376"},
        "DriverName":"none","HostOptions":{"EngineOptions":{"TlsVerify":true},"AuthOptions":{}},"Name":"old"}"#;
    fs::write(folder.join("config.json"), text).unwrap();
    assert_eq!(stdout(&home.machine(&["url", "old"])), "tcp://198.51.100.4:2376\n");
    assert_eq!(stdout(&home.machine(&["ip", "old"])), "198.51.100.4\n");
    assert_eq!(fs::read_to_string(folder.join("config.json")).unwrap(), text);
    assert!(home.machine(&["rm", "-y", "old"]).status.success());
    assert!(!Path::exists(&folder));
}
