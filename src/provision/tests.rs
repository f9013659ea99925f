//! The scripts as they are rendered: sound for every shell that a host may have, and doing what the difference says.

#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Output, Stdio};

use super::desired::PATHS;
use super::facts::{FileFact, Firewall, Pending, Unit};
use super::*;
use crate::bundle::Engine;

const INITS: [Init; 3] = [Init::Systemd, Init::OpenRc, Init::MachineOs];

fn settings() -> EngineSettings {
    EngineSettings {
        labels: vec!["provider=generic".to_owned()],
        env: vec![("PROXY".to_owned(), "it's \"quoted\" $HOME `id`".to_owned())],
        ..EngineSettings::default()
    }
}

fn tls() -> TlsFiles {
    TlsFiles {
        ca_pem: "CA\n".to_owned(),
        server_pem: "SERVER\n".to_owned(),
        server_key_pem: "SECRET\n".to_owned(),
    }
}

fn bundle() -> Bundle {
    Bundle::default().with(Engine::new("x86_64", "0.2.0", "ab".repeat(32), vec![0; 64]))
}

fn plan(bundle: &Bundle) -> Plan<'_> {
    Plan {
        hostname: Some("mc1".to_owned()),
        engine: settings(),
        tls: tls(),
        bundle,
        login_user: "o'brien".to_owned(),
    }
}

fn bare() -> Facts {
    Facts { architecture: "x86_64".to_owned(), node: "localhost".to_owned(), ..Facts::default() }
}

/// A host on which everything is as the difference wanted it.
fn satisfied(plan: &Plan<'_>, init: Init) -> Facts {
    let mut facts = Facts {
        architecture: "x86_64".to_owned(),
        node: "mc1".to_owned(),
        static_hostname: Some("mc1".to_owned()),
        in_hosts: true,
        docker_group: true,
        docker_member: true,
        dockerd: plan.engine.install_url.is_some().then(|| "/usr/bin/dockerd".to_owned()),
        ..Facts::default()
    };
    facts.units.insert(
        format!("{}.service", plan.engine.flavor().service()),
        Unit { loaded: true, active: true, enabled: true },
    );
    let difference = Difference::of_host(plan, &facts, init).unwrap();
    for file in &difference.files {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(file.content.as_bytes());
        let fact = FileFact { mode: file.mode, owner: 0, group: 0, sha256: format!("{digest:x}") };
        facts.files.insert(file.path.to_owned(), fact);
        if file.step == "configuration" {
            facts.contents.insert(file.path.to_owned(), file.content.clone().into_bytes());
        }
    }
    let engine = FileFact { mode: 0o755, owner: 0, group: 0, sha256: "ab".repeat(32) };
    facts.files.insert(desired::ENGINE.to_owned(), engine);
    facts.links.insert("/usr/local/bin/docker".to_owned(), "engine".to_owned());
    facts.links.insert("/usr/local/bin/swarm".to_owned(), "/usr/local/bin/engine".to_owned());
    facts
}

fn script(plan: &Plan<'_>, facts: &Facts, init: Init) -> String {
    let difference = Difference::of_host(plan, facts, init).unwrap();
    difference.script(facts, init, plan.engine.flavor(), Some(plan.engine.port), Some(&plan.engine)).unwrap()
}

/// Runs a program with this standard input; nothing if there is no such program, which is said.
fn run(program: &[&str], input: &[u8]) -> Option<Output> {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skipped::say(
                program[0],
                "the scripts that run on hosts are not tried with it, which is not installed",
            );
            return None;
        }
        Err(error) => panic!("{program:?}: {error}"),
    };
    // It may have read enough before the end.
    let _ = child.stdin.take().unwrap().write_all(input);
    Some(child.wait_with_output().unwrap())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn is_sound(name: &str, script: &str) {
    for program in [
        ["/bin/sh", "-n"].as_slice(),
        &["dash", "-n"],
        &["bash", "--posix", "-n"],
        &["busybox", "ash", "-n"],
        // What a rendered script cannot avoid: functions that this host does not need (SC2317); and what is meant:
        // backticks in messages (SC2016), `a && b || fail` (SC2015), files of the host (SC1091).
        &["shellcheck", "--shell=sh", "--exclude=SC1091,SC2317,SC2016,SC2015", "-"],
    ] {
        if let Some(output) = run(program, script.as_bytes()) {
            assert!(output.status.success(), "{name}: {program:?}\n{}\n{script}", text(&output));
        }
    }
}

#[test]
fn a_script_that_is_not_sound_is_noticed() {
    for script in ["if true; then\n", "echo $(\n", "x=1 # unused, and\necho $y\n"] {
        let judged = std::panic::catch_unwind(|| is_sound("broken", script));
        assert!(judged.is_err(), "{script}");
    }
}

#[test]
fn scripts_are_sound() {
    let bundle = bundle();
    let stock =
        EngineSettings { install_url: Some("https://get.example/?a=b&c='d'".to_owned()), ..settings() };
    for init in INITS {
        let bundled = plan(&bundle);
        is_sound("bundled", &script(&bundled, &bare(), init));
        let facts = Facts { firewall: Some(Firewall::Firewalld), selinux_enforcing: true, ..bare() };
        is_sound("firewalld", &script(&bundled, &facts, init));
        let facts = Facts {
            firewall: Some(Firewall::Ufw),
            pending: Some(Pending::Reload),
            ..satisfied(&bundled, init)
        };
        is_sound("ufw", &script(&bundled, &facts, init));
        if init != Init::MachineOs {
            let dockerd = Plan { engine: stock.clone(), ..plan(&bundle) };
            is_sound("dockerd", &script(&dockerd, &bare(), init));
            let mut facts = satisfied(&dockerd, init);
            facts.files.remove("/etc/docker/ca.pem");
            is_sound("dockerd again", &script(&dockerd, &facts, init));
        }
    }
    is_sound("probe", &Probe::new(2376, "o'brien", Some("mc1")).script().unwrap());
    is_sound("launch-probe", &one_line("shell/launch-probe.sh").unwrap());
    is_sound("launch-apply", &one_line("shell/launch-apply.sh").unwrap());
    is_sound("machineos/run", &render("machineos/run", &serde_json::json!({})).unwrap());
}

/// The login shells that people have, as the SSH server starts them.
const LOGIN_SHELLS: [&[&str]; 7] =
    [&["/bin/sh"], &["dash"], &["bash"], &["zsh"], &["fish"], &["tcsh"], &["busybox", "ash"]];

/// What each login shell makes of a launcher, by the shell.
fn launched(template: &'static str, input: &[u8]) -> Vec<(&'static str, Output)> {
    let launcher = one_line(template).unwrap();
    // Quotes end the word, `!` is history to C shells and line ends are the end to all.
    assert!(!launcher.contains(['\'', '\n', '!']), "{template}");
    let command = format!("exec /bin/sh -c {}", shell_quoted(&launcher));
    let run_in = |shell: &&[&'static str]| {
        let words: Vec<&str> = shell.iter().copied().chain(["-c", &command]).collect();
        run(&words, input).map(|output| (shell[0], output))
    };
    LOGIN_SHELLS.iter().filter_map(run_in).collect()
}

#[test]
fn every_login_shell_launches_what_is_sent() {
    let root = rustix::process::geteuid().is_root();
    for (shell, output) in launched("shell/launch-probe.sh", b"printf 'as %s' \"$(id -u)\"") {
        let said = text(&output);
        assert!(!root || said == "root=login\nas 0", "{shell}: {said}");
        assert!(said.starts_with("root"), "{shell}: {said}");
    }
    if !root {
        skipped::say("root", "the launcher of `apply.sh` writes to `/run`");
        return;
    }
    let mut archive = tar::Builder::new(Vec::new());
    let script = b"[ -f \"$1/apply.sh\" ] && read -r x || printf 'applied %s' \"$1\"";
    let mut header = tar::Header::new_ustar();
    header.set_size(script.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, "apply.sh", script.as_slice()).unwrap();
    let upload = archive.into_inner().unwrap();
    for (shell, output) in launched("shell/launch-apply.sh", &upload) {
        let said = text(&output);
        let stage = said.strip_prefix("applied ").unwrap_or_else(|| panic!("{shell}: {said}"));
        assert!(output.status.success() && stage.starts_with("/run/machine-provision."), "{shell}: {said}");
        assert!(!std::path::Path::new(stage).exists(), "{shell} left {stage}");
    }
    for (shell, output) in launched("shell/launch-apply.sh", &upload[..700]) {
        let said = text(&output);
        assert!(!said.contains("applied"), "{shell} ran half an upload: {said}");
        assert!(!output.status.success(), "{shell}: {said}");
    }
    for (shell, output) in launched("shell/launch-apply.sh", b"no archive") {
        assert!(text(&output).contains("step upload failed The upload did not arrive whole"), "{shell}");
        assert_eq!(output.status.code(), Some(1), "{shell}");
    }
}

#[test]
fn a_host_that_is_right_is_left_alone() {
    let bundle = bundle();
    for init in INITS {
        let plan = plan(&bundle);
        let difference = Difference::of_host(&plan, &satisfied(&plan, init), init).unwrap();
        assert!(difference.is_empty(), "{init}: {difference:?}");
        if init != Init::MachineOs {
            let url = Some("https://get.example".to_owned());
            let plan = Plan { engine: EngineSettings { install_url: url, ..settings() }, ..plan };
            let difference = Difference::of_host(&plan, &satisfied(&plan, init), init).unwrap();
            assert!(difference.is_empty(), "dockerd on {init}: {difference:?}");
        }
    }
}

#[test]
fn only_what_differs_is_done() {
    let bundle = bundle();
    let plan = plan(&bundle);
    let init = Init::Systemd;
    let actions = |facts: &Facts| {
        let difference = Difference::of_host(&plan, facts, init).unwrap();
        let paths: Vec<_> = difference.files.iter().map(|file| file.path).collect();
        (paths, difference.engine.is_some(), difference.action)
    };

    let mut facts = satisfied(&plan, init);
    facts.files.get_mut("/etc/engine/tls/server.pem").unwrap().sha256 = "00".repeat(32);
    assert_eq!(actions(&facts), (vec!["/etc/engine/tls/server.pem"], false, Some(apply::Action::Reload)));

    let mut facts = satisfied(&plan, init);
    facts.files.get_mut("/etc/engine/tls/server-key.pem").unwrap().mode = 0o644;
    assert_eq!(actions(&facts), (vec!["/etc/engine/tls/server-key.pem"], false, Some(apply::Action::Reload)));

    let mut facts = satisfied(&plan, init);
    facts.files.remove("/etc/engine/environment");
    assert_eq!(actions(&facts), (vec!["/etc/engine/environment"], false, Some(apply::Action::Restart)));

    let mut facts = satisfied(&plan, init);
    facts.files.get_mut(desired::ENGINE).unwrap().sha256 = "00".repeat(32);
    assert_eq!(actions(&facts), (vec![], true, Some(apply::Action::Restart)));

    let mut facts = satisfied(&plan, init);
    facts.units.get_mut("engine.service").unwrap().active = false;
    assert_eq!(actions(&facts), (vec![], false, Some(apply::Action::Start)));

    for (pending, action) in
        [(Pending::Reload, apply::Action::Reload), (Pending::Restart, apply::Action::Restart)]
    {
        let facts = Facts { pending: Some(pending), ..satisfied(&plan, init) };
        assert_eq!(actions(&facts), (vec![], false, Some(action)), "an interrupted run is completed");
    }
}

#[test]
fn labels_are_taken_up_without_a_restart() {
    let bundle = bundle();
    let plan = plan(&bundle);
    let facts = satisfied(&plan, Init::OpenRc);
    let labels = vec!["provider=generic".to_owned(), "tier=web".to_owned()];
    let labelled = Plan { engine: EngineSettings { labels, ..settings() }, ..plan };
    let difference = Difference::of_host(&labelled, &facts, Init::OpenRc).unwrap();
    assert_eq!(difference.action, Some(apply::Action::Reload));
}

#[test]
fn programs_of_others_are_left_alone() {
    let bundle = bundle();
    let plan = plan(&bundle);
    let mut facts = bare();
    facts.files.insert("/usr/local/bin/docker".to_owned(), FileFact::default());
    facts.links.insert("/usr/local/bin/swarm".to_owned(), "/opt/swarm".to_owned());
    let difference = Difference::of_host(&plan, &facts, Init::Systemd).unwrap();
    assert_eq!(difference.links, []);
    assert_eq!(difference.notes.len(), 2);
}

#[test]
fn the_upload_carries_what_differs_and_the_script_last() {
    let bundle = bundle();
    let plan = plan(&bundle);
    let names = |facts: &Facts| {
        let difference = Difference::of_host(&plan, facts, Init::Systemd).unwrap();
        let upload = difference.upload("#!/bin/sh\n").unwrap();
        let mut archive = tar::Archive::new(upload.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let key = entry.path().unwrap().ends_with("server-key.pem");
            assert!(!key || entry.header().mode().unwrap() == 0o600);
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entry.path().unwrap().display().to_string()
        });
        entries.collect::<Vec<_>>()
    };
    assert_eq!(
        names(&bare()),
        [
            "engine.gz",
            "ca.pem",
            "server.pem",
            "server-key.pem",
            "daemon.json",
            "environment",
            "engine-containers.service",
            "engine.service",
            "apply.sh"
        ]
    );
    let mut facts = satisfied(&plan, Init::Systemd);
    facts.files.remove("/etc/engine/tls/server.pem");
    assert_eq!(names(&facts), ["server.pem", "apply.sh"]);
}

#[test]
fn secrets_are_in_no_script() {
    let bundle = bundle();
    for init in INITS {
        let text = script(&plan(&bundle), &bare(), init);
        assert!(!text.contains("SECRET") && !text.contains("it's"), "{text}");
    }
    assert!(!format!("{:?}", plan(&bundle)).contains("SECRET"));
}

#[test]
fn space_is_checked_before_anything_is_sent() {
    let bundle = bundle();
    let plan = plan(&bundle);
    let difference = Difference::of_host(&plan, &bare(), Init::Systemd).unwrap();
    let space = |path: &str, kib: u64| {
        let mut facts = bare();
        facts.space.insert(path.to_owned(), kib);
        difference.check_space(&facts, 100 * 1024)
    };
    assert!(space("/run", 100).is_ok());
    assert!(matches!(space("/run", 99), Err(ProvisionError::NoSpace { needed: 100, available: 99, .. })));
    assert!(matches!(space("/usr/local/bin", 500), Err(ProvisionError::NoSpace { .. })));
    let mut facts = bare();
    facts.read_only.insert("/usr/local/bin".to_owned());
    assert!(matches!(difference.check_space(&facts, 1), Err(ProvisionError::ReadOnly { .. })));
}

#[test]
fn conflicts_are_found_before_anything_is_sent() {
    let bundle = bundle();
    let plan = plan(&bundle);
    let good = || Facts { cgroup: "2".to_owned(), ..bare() };
    assert!(check_conflicts(&good(), &plan).is_ok());

    let mut facts = good();
    facts.units.insert("docker.socket".to_owned(), Unit { loaded: true, active: true, enabled: true });
    let error = check_conflicts(&facts, &plan).unwrap_err();
    assert!(error.hint().unwrap().contains("--engine-install-url"), "{error}");

    let facts = Facts { port_taken: true, ..good() };
    assert!(matches!(check_conflicts(&facts, &plan), Err(ProvisionError::PortTaken { port: 2376 })));

    let mut facts = good();
    facts.missing_kernel.insert("overlay".to_owned());
    let facts = Facts { cgroup: "none".to_owned(), kernel: "2.4".to_owned(), ..facts };
    let error = check_conflicts(&facts, &plan).unwrap_err();
    assert_eq!(error.to_string(), "The kernel 2.4 of the host lacks `overlay`, `cgroups`");
}

#[test]
fn every_path_is_asked_about() {
    let probe = Probe::new(2376, "debian", None).script().unwrap();
    for path in PATHS {
        assert!(probe.contains(&format!("'{path}'")), "{path}");
    }
}

#[test]
fn scripts_read_well() {
    let bundle = bundle();
    let plan = plan(&bundle);
    insta::assert_snapshot!("apply-systemd", script(&plan, &bare(), Init::Systemd));
    let mut facts = satisfied(&plan, Init::OpenRc);
    facts.files.remove("/etc/engine/tls/server.pem");
    insta::assert_snapshot!("apply-certificates-openrc", script(&plan, &facts, Init::OpenRc));
}
