//! Host keys as the program learns, asks about, keeps and defends them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::machine_program::{Store, said};
use crate::played::Played;
use crate::screen::Screen;
use crate::server::Server;

/// A server on which nothing can be done, since provisioning it would change this computer.
fn harmless() -> Server {
    Server::start_with("ForceCommand /bin/false")
}

fn fingerprint(server: &Server, file: &str) -> String {
    let output = Command::new("ssh-keygen").arg("-lf").arg(server.path(file)).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn an_accepted_key_is_kept_by_ssh_and_scp() {
    let server = Server::start();
    let right = fingerprint(&server, "host_ed25519.pub");
    fs::write(server.path("file"), "content").unwrap();
    let there = format!("web1:{}", server.path("file").display());
    let here = server.path("here").display().to_string();
    for arguments in [&["ssh", "web1", "echo", "well"][..], &["scp", "-q", &there, &here]] {
        let store = Store::with(&server);
        let refused = store.machine(arguments);
        assert!(said(&refused).contains("is unknown and was not accepted"), "{}", said(&refused));
        assert_eq!(store.pinned(), Vec::<String>::new());

        let mut screen = Screen::of(&store.command(arguments), 200, 24);
        let question = screen.expect("that you expect): ");
        for part in ["`web1`", &server.host, &server.port.to_string(), "ssh-ed25519", &right] {
            assert!(question.contains(part), "{part} is not in {question}");
        }
        screen.type_in("perhaps\n");
        screen.expect("yes, no or the fingerprint: ");
        screen.type_in("yes\n");
        assert_eq!(screen.end(), 0);
        assert_eq!(store.pinned(), [server.line("host_ed25519.pub")]);

        // Nobody is asked again.
        let again = store.machine(arguments);
        assert!(again.status.success(), "{}", said(&again));
    }
}

#[test]
fn a_question_is_answered_with_the_fingerprint_as_well() {
    let server = Server::start();
    let store = Store::with(&server);
    for (answer, status) in [("SHA256:wrong", 255), (&*fingerprint(&server, "host_ed25519.pub"), 0)] {
        let mut screen = Screen::of(&store.command(&["ssh", "web1", "true"]), 200, 24);
        screen.expect("that you expect): ");
        screen.type_in(&format!("{answer}\n"));
        assert_eq!(screen.end(), status, "{answer}");
    }
}

#[test]
fn questions_come_one_after_the_other_and_nothing_is_drawn_over_them() {
    let server = harmless();
    let store = Store::new();
    let arguments = Store::create(&server, &["web1", "web2"]);
    let mut screen = Screen::of(&store.command(&strings(&arguments)), 200, 24);
    let first = screen.expect("that you expect): ");
    let first = if first.contains("`web1`") { ["web1", "web2"] } else { ["web2", "web1"] };
    // Several turns of the wheel.
    assert_eq!(screen.written_within(Duration::from_secs(1)), "");
    screen.type_in("yes\n");
    let second = screen.expect("that you expect): ");
    assert!(second.contains(&format!("`{}`", first[1])), "{second}");
    screen.type_in("no\n");
    assert_eq!(screen.end(), 1);
    for (name, pinned) in [(first[0], 1), (first[1], 0)] {
        let record = fs::read(store.root().join("machines").join(name).join("config.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["SSHHostKeys"].as_array().unwrap().len(), pinned, "{name}");
    }
}

#[test]
fn a_mistyped_host_key_is_corrected_by_running_create_again() {
    let server = harmless();
    let right = fingerprint(&server, "host_ed25519.pub");
    let wrong = fingerprint(&server, "key.pub");
    let (right_line, wrong_line) = (server.line("host_ed25519.pub"), server.line("key.pub"));
    for (first, second) in
        [(&wrong, &right), (&wrong_line, &right_line), (&wrong_line, &right), (&wrong, &right_line)]
    {
        let store = Store::new();
        let create = |key: &str| {
            let arguments = Store::create(&server, &["--ssh-host-key", key, "web1"]);
            said(&store.machine(&strings(&arguments)))
        };
        let mistyped = create(first);
        assert!(mistyped.contains("is not the expected one"), "{mistyped}");
        assert!(mistyped.contains(&wrong) && mistyped.contains(&right), "{mistyped}");
        // Now it comes as far as the commands, of which this server knows none.
        let corrected = create(second);
        assert!(corrected.contains("The host did not say what it is"), "{corrected}");
        assert_eq!(store.pinned(), [server.line("host_ed25519.pub")], "{first} then {second}");
        // And what was known already can be said again.
        assert!(create(&right).contains("The host did not say what it is"));
    }
}

#[test]
fn what_is_no_host_key_is_refused_before_anything_is_recorded() {
    let server = harmless();
    let store = Store::new();
    let arguments = Store::create(&server, &["--ssh-host-key", "ssh-ed25519 AAAAmistyped", "web1"]);
    let refused = store.machine(&strings(&arguments));
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("is neither a host key nor the fingerprint of one"),
        "{}",
        said(&refused)
    );
    // Nobody asked for it where it means nothing.
    let key = fingerprint(&server, "host_ed25519.pub");
    let refused =
        store.machine(&["create", "-d", "none", "--url", "tcp://h:1", "--ssh-host-key", &key, "web1"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("`--ssh-host-key` is for hosts that are there already"),
        "{}",
        said(&refused)
    );
    assert!(!store.host().exists());
}

#[test]
fn the_systems_ssh_accepts_the_recorded_key_alone() {
    let server = Server::start();
    let store = Store::with(&server);
    let configuration = store.root().join("loose");
    let loose = format!(
        "StrictHostKeyChecking no\nNoHostAuthenticationForLocalhost yes\nHostKeyAlias x\nUpdateHostKeys yes\n         UserKnownHostsFile {}\nGlobalKnownHostsFile {}\n",
        store.root().join("theirs").display(),
        server.path("global").display()
    );
    fs::write(&configuration, loose).unwrap();
    fs::write(server.path("global"), format!("* {}\n", server.line("host_ed25519.pub"))).unwrap();
    let configuration = configuration.display().to_string();
    let through = |more: &[&str]| {
        let mut arguments = vec!["ssh", "web1", "-F", &configuration];
        arguments.extend(more);
        store.machine(&arguments)
    };
    // Nobody is there to be asked, so nothing is accepted.
    let refused = through(&["true"]);
    assert!(said(&refused).contains("is unknown and was not accepted"), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(255), "{}", said(&refused));

    let pin = |line: &str| {
        let mut record = store.record();
        record["SSHHostKeys"] = serde_json::json!([line]);
        fs::write(store.host().join("config.json"), record.to_string()).unwrap();
    };
    let mut screen = Screen::of(&store.command(&["ssh", "web1", "true"]), 200, 24);
    screen.expect("that you expect): ");
    screen.type_in("yes\n");
    assert_eq!(screen.end(), 0);
    let accepted = through(&["echo", "well"]);
    assert_eq!(String::from_utf8_lossy(&accepted.stdout), "well\n", "{}", said(&accepted));
    // A fingerprint becomes the whole key, since the system's ssh wants that.
    pin(&fingerprint(&server, "host_ed25519.pub"));
    assert!(through(&["true"]).status.success());
    assert_eq!(store.pinned(), [server.line("host_ed25519.pub")]);

    pin(&server.line("key.pub"));
    let refused = through(&["echo", "well"]);
    assert_eq!(refused.status.code(), Some(255), "{}", said(&refused));
    assert!(
        refused.stdout.is_empty() && said(&refused).contains("Host key verification failed"),
        "{}",
        said(&refused)
    );
    let refused = through(&["-o", "StrictHostKeyChecking=no", "true"]);
    assert!(said(&refused).contains("`StrictHostKeyChecking` cannot be given"), "{}", said(&refused));

    // One that is killed ends as it would under a shell.
    let program = store.root().join("ssh");
    fs::write(&program, "#!/bin/sh\nkill -TERM $$\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let killed = store.command(&["ssh", "web1", "-A"]).env("PATH", store.root()).output().unwrap();
    assert_eq!(killed.status.code(), Some(143), "{}", said(&killed));
}

#[test]
fn a_host_that_was_installed_anew_is_pinned_again() {
    let server = Server::start();
    let store = Store::with(&server);
    // Without the comment, which is no part of a key.
    let old = server.line("key.pub").split(' ').take(2).collect::<Vec<_>>().join(" ");
    let new = server.line("host_ed25519.pub");
    let right = fingerprint(&server, "host_ed25519.pub");
    let run = |arguments: &[&str]| {
        let output = store.machine(&[&["host-key"], arguments].concat());
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap(), said(&output))
    };
    assert_eq!(run(&["show", "web1"]).1, "");
    assert_eq!(run(&["pin", "web1", &old]).0, Some(0));
    assert_eq!(run(&["show", "web1"]).1, format!("{} {old}\n", fingerprint(&server, "key.pub")));
    let changed = store.machine(&["ssh", "web1", "true"]);
    assert!(said(&changed).contains("machine host-key pin"), "{}", said(&changed));

    // Nobody says that the new one is right.
    let (status, _, text) = run(&["pin", "web1"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&format!("machine host-key pin web1 {right}")), "{text}");
    assert_eq!(store.pinned(), std::slice::from_ref(&old));
    let mut screen = Screen::of(&store.command(&["host-key", "pin", "web1"]), 250, 24);
    let question = screen.expect("that you expect): ");
    assert!(question.contains(&format!("was {}", fingerprint(&server, "key.pub"))), "{question}");
    screen.type_in("yes\n");
    assert_eq!(screen.end(), 0);
    assert_eq!(store.pinned(), std::slice::from_ref(&new));
    assert!(store.machine(&["ssh", "web1", "true"]).status.success());
    // Now there is nothing to ask.
    assert_eq!(run(&["pin", "web1"]).0, Some(0));

    // By its fingerprint, as several words of a shell, or as one of several.
    assert_eq!(run(&["pin", "web1", &right]).0, Some(0));
    assert_eq!(run(&["show", "web1"]).1, format!("{right}\n"));
    assert!(store.machine(&["ssh", "web1", "true"]).status.success());
    assert_eq!(store.pinned(), std::slice::from_ref(&new));
    let words: Vec<&str> = new.split(' ').collect();
    assert_eq!(run(&["pin", "web1", words[0], words[1]]).0, Some(0));
    assert_eq!(store.pinned(), std::slice::from_ref(&new));
    assert_eq!(run(&["pin", "web1", &old, &right]).0, Some(0));
    assert_eq!(store.pinned(), [old.clone(), right.clone()]);
    let json = store.machine(&["--json", "host-key", "show", "web1"]);
    let objects: Vec<serde_json::Value> = String::from_utf8(json.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects[0]["Key"], old);
    assert_eq!(objects[1], serde_json::json!({ "Name": "web1", "Fingerprint": right, "Key": null }));
    assert!(store.machine(&["ssh", "web1", "true"]).status.success());

    let before = store.pinned();
    for wrong in
        [&["ssh-ed25519 mistyped"][..], &[&right, "SHA256:mistyped"], &[words[0], words[1], words[0], "x"]]
    {
        assert_eq!(run(&[&["pin", "web1"], wrong].concat()).0, Some(1), "{wrong:?}");
        assert_eq!(store.pinned(), before, "{wrong:?}");
    }
    assert_eq!(run(&["forget", "web1"]).0, Some(0));
    assert_eq!(store.pinned(), Vec::<String>::new());
    let refused = store.machine(&["ssh", "web1", "true"]);
    assert!(said(&refused).contains("is unknown and was not accepted"), "{}", said(&refused));
}

#[test]
fn a_key_that_others_may_read_is_replaced_before_secrets_are_sent() {
    let host = Played::new("delivered-once", true);
    let created = host.create();
    // As far as the engine, which is not played.
    assert!(said(&created).contains("does not speak TLS"), "{}", said(&created));
    assert_eq!(host.trusted_with_secrets(), [host.own_key()]);
    let first = host.sent()[0].clone();
    assert!(first.input.contains("host_key()") && first.host_key != host.own_key(), "{}", first.input);
    assert_eq!(host.logins(), 2);
    let pinned = host.machine(&["host-key", "show", "web1"]);
    let pinned = String::from_utf8(pinned.stdout).unwrap();
    assert!(pinned.starts_with(&host.own_key()) && pinned.lines().count() == 1, "{pinned}");
    assert!(!host.delivered_key_file().exists());

    // The same command again needs one login, and makes no other key.
    let created = host.create();
    assert!(said(&created).contains("does not speak TLS"), "{}", said(&created));
    assert_eq!((host.logins(), host.trusted_with_secrets()), (3, vec![host.own_key(), host.own_key()]));
    let again = host.machine(&["provision", "web1"]);
    assert!(said(&again).contains("does not speak TLS"), "{}", said(&again));
    assert_eq!((host.logins(), host.trusted_with_secrets().len()), (4, 3));
}

#[test]
fn a_host_that_keeps_a_key_which_others_may_read_is_sent_no_secret() {
    let host = Played::new("delivered-once", false);
    for words in [&[][..], &["provision", "web1"]] {
        let output = if words.is_empty() { host.create() } else { host.machine(words) };
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("goes on showing the SSH host key"), "{words:?}: {}", said(&output));
    }
    assert_eq!(host.trusted_with_secrets(), Vec::<String>::new());
    assert!(host.delivered_key_file().exists());
}

#[test]
fn a_delivered_key_is_deleted_here_when_the_host_has_shown_it() {
    let host = Played::new("delivered", true);
    let created = host.create();
    assert!(said(&created).contains("does not speak TLS"), "{}", said(&created));
    // One login is enough where nobody else can read the key.
    assert_eq!(host.logins(), 1);
    assert_eq!(host.trusted_with_secrets().len(), 1);
    assert_ne!(host.trusted_with_secrets(), [host.own_key()]);
    assert!(!host.delivered_key_file().exists());
    assert!(!host.delivered_key_file().with_extension("pub").exists());

    // What goes on does not need it.
    let created = host.create();
    assert!(said(&created).contains("does not speak TLS"), "{}", said(&created));
    assert_eq!(host.logins(), 2);
}
