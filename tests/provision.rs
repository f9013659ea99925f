//! Provisioning over a real sshd, on hosts that look like Debian with systemd, Alpine with OpenRC, and MachineOS. The
//! service manager and the engine are stand-ins that write down what happens to them; all else is what hosts have.
//!
//! Needs root, `sshd`, `unshare` and a static busybox; one test needs `sudo`.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_debug_implementations)]

#[path = "provision/host.rs"]
mod host;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use host::{Host, KINDS, Kind, Told, engine, tls};
use machine::bundle::Bundle;
use machine::provision::{self, EngineSettings, ProvisionError};

/// Everything that a shell, systemd, JSON or sed could take for something else.
const NASTY: &str =
    "a b  c\t'single' \"double\" $HOME ${PATH} `id` $(id) \\ \\n \\\\ % %h & | ; < > # ! ~ * ? é 漢";

fn service_file(kind: Kind) -> &'static str {
    match kind {
        Kind::Systemd => "/etc/systemd/system/engine.service",
        Kind::OpenRc => "/etc/init.d/engine",
        Kind::MachineOs => "/etc/services/engine/run",
    }
}

#[tokio::test]
async fn a_fresh_host_becomes_an_engine_host_and_stays_one() {
    for kind in KINDS {
        let host = Host::new(kind);
        let bundle = Bundle::default().with(engine("0.1.0", 0));
        let told = Told::default();
        let report = host.provision_with(&bundle, host.settings(), &told).await.unwrap();

        assert!(
            report.changed.contains(&"Engine 0.1.0 installed".to_owned()),
            "{kind:?}: {:?}",
            report.changed
        );
        assert!(report.changed.contains(&"Engine started".to_owned()), "{kind:?}: {:?}", report.changed);
        assert!(told.lines().contains(&"Installing the engine 0.1.0".to_owned()), "{:?}", told.lines());
        assert_eq!(report.engine_version.as_deref(), Some("0.1.0"));
        assert_eq!(report.previous_engine_version, None);
        let uploaded = report.uploaded_bytes as u64;
        let amounts = told.amounts();
        assert!(uploaded > 0 && amounts.last() == Some(&(uploaded, uploaded)), "{kind:?}: {amounts:?}");
        assert!(amounts.is_sorted() && amounts.iter().all(|(_, total)| *total == uploaded), "{amounts:?}");
        assert_eq!(host.starts(), ["0.1.0"]);
        for (path, mode) in [
            ("/usr/local/bin/engine", 0o755),
            ("/etc/engine", 0o755),
            ("/etc/engine/tls", 0o700),
            ("/etc/engine/tls/ca.pem", 0o644),
            ("/etc/engine/tls/server.pem", 0o644),
            ("/etc/engine/tls/server-key.pem", 0o600),
            ("/etc/engine/daemon.json", 0o644),
            ("/etc/engine/environment", 0o600),
        ] {
            assert_eq!(host.mode(path), mode, "{kind:?}: {path}");
        }
        assert_eq!(host.read("/etc/engine/tls/server-key.pem"), "SECRET KEY 1\n");
        assert_eq!(fs::read_link(host.path("/usr/local/bin/docker")).unwrap(), Path::new("engine"));
        assert!(host.read("/etc/group").contains("docker:x:"));
        if kind != Kind::MachineOs {
            assert_eq!(host.read("/etc/hostname"), "mc1\n");
        }
        assert!(host.read("/etc/hosts").contains("127.0.1.1 mc1"));
        host.is_tidy();

        let told = Told::default();
        let asked = host.lines("/run/asked");
        let again = host.provision_with(&bundle, host.settings(), &told).await.unwrap();
        assert_eq!(again.changed, Vec::<String>::new(), "{kind:?}");
        assert_eq!(again.uploaded_bytes, 0);
        assert_eq!(again.engine_version.as_deref(), Some("0.1.0"));
        assert_eq!(told.lines().last().unwrap(), "Everything is as it has to be");
        assert_eq!((host.starts().len(), host.reloads(0)), (1, 0));
        let questions = host.lines("/run/asked").split_off(asked.len());
        assert!(questions.iter().all(|verb| verb.starts_with("show") || verb == "status"), "{questions:?}");
    }
}

#[tokio::test]
async fn values_arrive_exactly() {
    for kind in KINDS {
        let host = Host::new(kind);
        let settings = EngineSettings {
            env: vec![
                ("NASTY".to_owned(), NASTY.to_owned()),
                ("LINES".to_owned(), "one\ntwo".to_owned()),
                ("EMPTY".to_owned(), String::new()),
            ],
            labels: vec![format!("nasty={NASTY}")],
            options: vec![("log-opt".to_owned(), format!("tag={NASTY}"))],
            ..host.settings()
        };
        host.provision(settings.clone()).await.unwrap();
        let environment = host.environment();
        assert_eq!(environment["NASTY"], NASTY, "{kind:?}");
        assert_eq!(environment["LINES"], "one\ntwo");
        assert_eq!(environment["EMPTY"], "");
        let configuration: serde_json::Value =
            serde_json::from_str(&host.read("/etc/engine/daemon.json")).unwrap();
        assert_eq!(configuration["labels"][0], format!("nasty={NASTY}"));
        assert_eq!(configuration["log-opts"]["tag"], NASTY);
        assert_eq!(configuration["log-opts"]["max-size"], "10m");
        assert_eq!(host.provision(settings).await.unwrap().changed, Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_was_tampered_with_is_repaired() {
    for kind in KINDS {
        let host = Host::new(kind);
        host.provision(host.settings()).await.unwrap();

        // Certificates: taken up without a restart.
        fs::set_permissions(
            host.path("/etc/engine/tls/server-key.pem"),
            std::os::unix::fs::PermissionsExt::from_mode(0o644),
        )
        .unwrap();
        host.write("/etc/engine/tls/ca.pem", "another\n", 0o644);
        let report = host.provision(host.settings()).await.unwrap();
        assert_eq!(report.changed, ["Certificates installed", "Engine reloaded"], "{kind:?}");
        assert_eq!(host.mode("/etc/engine/tls/server-key.pem"), 0o600);
        assert_eq!(host.read("/etc/engine/tls/ca.pem"), "authority\n");
        assert_eq!((host.starts().len(), host.reloads(1)), (1, 1));

        // The engine itself, and the file that starts it.
        host.write("/usr/local/bin/engine", "#!/bin/sh\necho engine 6.6.6\n", 0o755);
        fs::remove_file(host.path(service_file(kind))).unwrap();
        let report = host.provision(host.settings()).await.unwrap();
        assert!(report.changed.contains(&"Service installed".to_owned()), "{:?}", report.changed);
        assert!(
            report.changed.contains(&"Engine upgraded from 6.6.6 to 0.1.0".to_owned()),
            "{:?}",
            report.changed
        );
        assert_eq!(host.starts(), ["0.1.0", "0.1.0"]);
        assert_eq!(host.provision(host.settings()).await.unwrap().changed, Vec::<String>::new());
    }
}

#[tokio::test]
async fn labels_are_reloaded_and_other_options_restarted() {
    let host = Host::new(Kind::OpenRc);
    host.provision(host.settings()).await.unwrap();
    let labelled = EngineSettings { labels: vec!["tier=web".to_owned()], ..host.settings() };
    let report = host.provision(labelled.clone()).await.unwrap();
    assert_eq!(report.changed, ["Configuration written", "Engine reloaded"]);
    let changed = EngineSettings { options: vec![("mtu".to_owned(), "1400".to_owned())], ..labelled };
    let report = host.provision(changed).await.unwrap();
    assert_eq!(report.changed, ["Configuration written", "Engine restarted"]);
    assert_eq!((host.starts().len(), host.reloads(1)), (2, 1));
}

#[tokio::test]
async fn an_upgrade_changes_the_engine_and_nothing_else() {
    let host = Host::new(Kind::MachineOs);
    host.provision(host.settings()).await.unwrap();
    let bundle = Bundle::default().with(engine("0.2.0", 0));
    let report = host.provision_with(&bundle, host.settings(), &Told::default()).await.unwrap();
    assert_eq!(report.changed, ["Engine upgraded from 0.1.0 to 0.2.0", "Engine restarted"]);
    assert_eq!(report.previous_engine_version.as_deref(), Some("0.1.0"));
    assert_eq!(report.engine_version.as_deref(), Some("0.2.0"));
    assert_eq!(host.starts(), ["0.1.0", "0.2.0"]);
}

#[tokio::test]
async fn a_refused_configuration_changes_nothing() {
    for kind in KINDS {
        let host = Host::new(kind);
        host.provision(host.settings()).await.unwrap();
        let (old, engine_before) = (host.read("/etc/engine/daemon.json"), host.read("/usr/local/bin/engine"));

        let settings =
            EngineSettings { options: vec![("colour".to_owned(), "red".to_owned())], ..host.settings() };
        let bundle = Bundle::default().with(engine("0.2.0", 0));
        let error = host.provision_with(&bundle, settings, &Told::default()).await.unwrap_err();
        assert!(matches!(error, ProvisionError::ConfigurationRefused { .. }), "{error:?}");
        assert!(error.to_string().contains("Unknown option colour"), "{error}");
        assert_eq!(error.layer(), "engine");

        assert_eq!(host.read("/etc/engine/daemon.json"), old);
        assert_eq!(host.read("/usr/local/bin/engine"), engine_before);
        assert_eq!(host.starts(), ["0.1.0"]);
        assert_eq!(host.provision(host.settings()).await.unwrap().changed, Vec::<String>::new());
        host.is_tidy();
    }
}

#[tokio::test]
async fn certificates_alone_are_replaced() {
    for kind in KINDS {
        let host = Host::new(kind);
        host.provision(host.settings()).await.unwrap();
        let session = host.log_in().await;
        let told = Told::default();
        let changed = provision::install_certificates(&session, &tls(2), &told).await.unwrap();
        assert_eq!(changed, ["Certificates installed", "Engine reloaded"], "{kind:?}");
        assert_eq!(host.read("/etc/engine/tls/server-key.pem"), "SECRET KEY 2\n");
        assert_eq!((host.starts().len(), host.reloads(1)), (1, 1));
        let changed = provision::install_certificates(&session, &tls(2), &told).await.unwrap();
        assert_eq!(changed, Vec::<String>::new());
        assert_eq!(host.reloads(0), 1);
        session.close().await;
        host.is_tidy();
    }
}

/// Whatever step the run is killed at, the next one completes it.
#[tokio::test]
async fn a_killed_run_is_completed_by_the_next() {
    for kind in [Kind::Systemd, Kind::MachineOs] {
        // While the files are in place and the engine still runs with the old ones.
        let host = Host::new(kind);
        host.provision(host.settings()).await.unwrap();
        host.write(
            "/opt/hook",
            "#!/bin/sh\n[ \"$1\" != restart ] || { rm /opt/hook; kill -9 \"$2\"; exit 1; }\n",
            0o755,
        );
        let settings = EngineSettings { env: vec![("A".to_owned(), "b".to_owned())], ..host.settings() };
        let error = host.provision(settings.clone()).await.unwrap_err();
        assert!(matches!(error, ProvisionError::Ended { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("again"));
        assert!(
            host.path("/run/machine-provision.lock").exists(),
            "it was killed without a chance to tidy up"
        );
        assert_eq!(host.starts().len(), 1);

        let report = host.provision(settings.clone()).await.unwrap();
        assert_eq!(report.changed, ["Engine restarted"], "{kind:?}");
        assert_eq!(host.environment()["A"], "b");
        host.is_tidy();
        assert_eq!(host.provision(settings).await.unwrap().changed, Vec::<String>::new());

        if kind != Kind::Systemd {
            // Its shell has a gzip of its own, and would not start ours.
            continue;
        }
        // While the new engine is being unpacked: the old one stays what it is.
        host.write(
            "/usr/local/sbin/gzip",
            "#!/bin/sh\nrm /usr/local/sbin/gzip\nkill -9 \"$PPID\"\nsleep 1\n",
            0o755,
        );
        let old = host.read("/usr/local/bin/engine");
        let bundle = Bundle::default().with(engine("0.2.0", 0));
        let settings = EngineSettings { env: vec![("A".to_owned(), "b".to_owned())], ..host.settings() };
        let error = host.provision_with(&bundle, settings.clone(), &Told::default()).await.unwrap_err();
        assert!(matches!(error, ProvisionError::Ended { .. }), "{error:?}");
        assert_eq!(host.read("/usr/local/bin/engine"), old);
        let report = host.provision_with(&bundle, settings, &Told::default()).await.unwrap();
        assert_eq!(report.changed, ["Engine upgraded from 0.1.0 to 0.2.0", "Engine restarted"]);
        host.is_tidy();
    }
}

/// The host goes on without us; the next run waits for it and finds what it has done.
#[tokio::test]
async fn a_lost_connection_is_made_up_for() {
    let host = Host::new(Kind::Systemd);
    host.provision(host.settings()).await.unwrap();
    let hook = "#!/bin/sh\n[ \"$1\" = restart ] || exit 0\nrm /opt/hook\n\
                parent() { sed -n 's/^PPid:[[:space:]]*//p' \"/proc/$1/status\"; }\n\
                # The script, the shell that unpacked it, the server's process for this login.\n\
                kill -9 \"$(parent \"$(parent \"$2\")\")\"\nsleep 2\n";
    host.write("/opt/hook", hook, 0o755);
    let settings = EngineSettings { env: vec![("A".to_owned(), "b".to_owned())], ..host.settings() };
    let error = host.provision(settings.clone()).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Session { .. }), "{error:?}");
    assert_eq!(error.layer(), "connection");
    assert!(error.hint().unwrap().contains("un the same command again"), "{:?}", error.hint());

    let report = host.provision(settings.clone()).await.unwrap();
    assert!(!report.changed.contains(&"Environment written".to_owned()), "{:?}", report.changed);
    assert_eq!(host.environment()["A"], "b");
    assert_eq!(host.provision(settings).await.unwrap().changed, Vec::<String>::new());
    host.is_tidy();
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_engine_in_place() {
    let small = "mkdir /mnt/kept\ncp -a $root/usr/local/. /mnt/kept\n\
                 mount -t tmpfs -o size=300k,mode=755 none $root/usr/local\ncp -a /mnt/kept/. $root/usr/local\n";
    let host = Host::with(Kind::Systemd, "root", small);
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(matches!(&error, ProvisionError::NoSpace { path, .. } if path == "/usr/local/bin"), "{error:?}");
    // With a `df` that promises more, it is the writing that fails.
    let session = host.log_in().await;
    let lie = "printf '#!/bin/sh\\necho Filesystem\\necho none 99999 1 99998 1%% /\\n' >/usr/local/sbin/df; chmod 755 /usr/local/sbin/df";
    assert!(session.output(lie, b"").await.unwrap().status.success());
    host.provision(host.settings()).await.unwrap();

    let large = Bundle::default().with(engine("0.2.0", 600 * 1024));
    let error = host.provision_with(&large, host.settings(), &Told::default()).await.unwrap_err();
    assert!(matches!(&error, ProvisionError::Step { step, .. } if step == "engine"), "{error:?}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(error.hint().unwrap().contains("Make room"));
    let version = session.output("/usr/local/bin/engine --version; ls -a /usr/local/bin", b"").await.unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.starts_with("engine 0.1.0\n") && !version.contains("machine-new"), "{version}");
    assert_eq!(host.starts(), ["0.1.0"]);

    session.close().await;
    host.is_tidy();
}

#[tokio::test]
async fn an_engine_that_does_not_come_up_is_reported_with_its_log() {
    let host = Host::with(Kind::MachineOs, "root", WITH_DASH);
    drop(host.log_in().await);
    host.write("/run/engine.mute", "", 0o644);
    // The wait is shortened by a clock that runs fast.
    host.write("/usr/local/bin/sleep", "#!/bin/sh\nexec /opt/busybox sleep 0.01\n", 0o755);
    let error = host.provision(host.settings()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, ProvisionError::Step { step, .. } if step == "service"), "{error:?}");
    assert!(
        text.contains("does not listen on port") && text.contains("Could not open the network"),
        "{text}"
    );

    // The next run does not take the files for the whole of it.
    fs::remove_file(host.path("/run/engine.mute")).unwrap();
    fs::remove_file(host.path("/usr/local/bin/sleep")).unwrap();
    let report = host.provision(host.settings()).await.unwrap();
    assert!(matches!(report.changed.as_slice(), [one] if one.starts_with("Engine ")), "{:?}", report.changed);
}

#[tokio::test]
async fn a_user_becomes_root_through_sudo() {
    if !Path::new("/usr/bin/sudo").exists() {
        skipped::say("sudo", "no user becomes root through it in a test, because it is not installed");
        return;
    }
    let host = Host::with(Kind::Systemd, "jo", "");
    for name in ["sudo", "other"] {
        let rules =
            "auth required pam_deny.so\naccount required pam_permit.so\nsession required pam_permit.so\n";
        host.write(&format!("/etc/pam.d/{name}"), rules, 0o644);
    }
    host.write("/etc/sudoers", "root ALL=(ALL) ALL\njo ALL=(ALL) ALL\n", 0o440);
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(matches!(error, ProvisionError::SudoRefused { .. }), "{error:?}");
    assert!(error.to_string().contains("password"), "{error}");
    assert!(error.hint().unwrap().contains("jo ALL=(ALL) NOPASSWD: ALL"), "{:?}", error.hint());
    assert_eq!(error.layer(), "sudo");

    host.write("/etc/sudoers", "root ALL=(ALL) ALL\njo ALL=(ALL) NOPASSWD: ALL\n", 0o440);
    let report = host.provision(host.settings()).await.unwrap();
    assert!(
        report.changed.contains(&"User `jo` added to the group `docker`".to_owned()),
        "{:?}",
        report.changed
    );
    assert!(host.read("/etc/group").lines().any(|line| line.starts_with("docker:") && line.ends_with(":jo")));
    assert_eq!(
        fs::metadata(host.path("/etc/engine/tls/server-key.pem"))
            .map(|file| std::os::unix::fs::MetadataExt::uid(&file))
            .unwrap(),
        0
    );
    assert_eq!(host.provision(host.settings()).await.unwrap().changed, Vec::<String>::new());
}

/// Debian's busybox has its own programs even where they are not on the disk; another shell has not.
const WITH_DASH: &str = "for file in /usr/bin/dash $(ldd /usr/bin/dash | grep -o '/[^ ]*'); do\n\
                         mkdir -p $root${file%/*}\ncp -L $file $root$file\ndone\nln -sf /usr/bin/dash $root/bin/sh\n";

#[tokio::test]
async fn hosts_that_cannot_run_an_engine_are_told_apart() {
    let host = Host::with(Kind::OpenRc, "jo", "");
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(matches!(error, ProvisionError::NoSudo { .. }), "{error:?}");

    let host = Host::new(Kind::OpenRc);
    fs::remove_dir_all(host.path("/sbin")).unwrap();
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(matches!(error, ProvisionError::UnknownInit { .. }), "{error:?}");
    assert!(error.to_string().starts_with("Alpine Linux v3.22 is not supported"), "{error}");

    let host = Host::with(Kind::MachineOs, "root", WITH_DASH);
    drop(host.log_in().await);
    for tool in ["tar", "gzip"] {
        fs::remove_file(host.path("/bin").join(tool)).unwrap();
    }
    let error = host.provision(host.settings()).await.unwrap_err();
    assert_eq!(error.to_string(), "The host lacks `gzip`, `tar`");

    let host = Host::new(Kind::MachineOs);
    fs::remove_dir_all(host.path("/sys/module/veth")).unwrap();
    fs::remove_dir_all(host.path("/sys/fs/cgroup")).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    host.write(&format!("/lib/modules/{}/modules.dep", release.trim()), "kernel/fs/x.ko:\n", 0o644);
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(error.to_string().ends_with("of the host lacks `veth`, `cgroups`"), "{error}");

    let host = Host::new(Kind::Systemd);
    host.write("/run/docker.service.active", "", 0o644);
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(matches!(error, ProvisionError::OtherEngine { ours: false, .. }), "{error:?}");

    let host = Host::new(Kind::Systemd);
    let taken = TcpListener::bind(("127.0.0.1", host.engine_port)).unwrap();
    let error = host.provision(host.settings()).await.unwrap_err();
    assert!(matches!(error, ProvisionError::PortTaken { .. }), "{error:?}");
    drop(taken);

    let nothing = Bundle::default();
    let error = host.provision_with(&nothing, host.settings(), &Told::default()).await.unwrap_err();
    assert!(error.to_string().starts_with("This build of `machine` carries no engine for"), "{error}");
    assert!(error.hint().unwrap().contains("cargo xtask build"));
    assert!(!host.path("/etc/engine").exists(), "nothing was changed");
}

#[tokio::test]
async fn what_belongs_to_others_is_left_alone() {
    let host = Host::new(Kind::Systemd);
    host.write("/usr/local/bin/docker", "somebody's client", 0o755);
    host.write("/etc/os-release", "ID=void\nPRETTY_NAME='Void Linux'\n", 0o644);
    let told = Told::default();
    let bundle = Bundle::default().with(engine("0.1.0", 0));
    host.provision_with(&bundle, host.settings(), &told).await.unwrap();
    assert_eq!(host.read("/usr/local/bin/docker"), "somebody's client");
    let notes: Vec<String> = told.lines().into_iter().filter(|line| line.starts_with("note: ")).collect();
    assert!(
        notes.iter().any(|note| note.contains("Void Linux") && note.contains("like any host with systemd"))
    );
    assert!(
        notes.iter().any(|note| note.contains("`/usr/local/bin/docker` is not the engine's")),
        "{notes:?}"
    );
}

#[tokio::test]
async fn firewalls_are_opened_for_the_port_alone() {
    let host = Host::new(Kind::Systemd);
    let firewall = "#!/bin/sh\necho \"$*\" >>/run/firewall\ncase $1 in --query-port*) [ -e /run/firewall.open ] ;; \
                    --permanent) : ;; --add-port*) : >/run/firewall.open ;; esac\n";
    host.write("/usr/local/sbin/firewall-cmd", firewall, 0o755);
    let report = host.provision(host.settings()).await.unwrap();
    let port = host.engine_port;
    assert!(report.changed.contains(&format!("Port {port} opened in firewalld")), "{:?}", report.changed);
    let added: Vec<String> =
        host.lines("/run/firewall").into_iter().filter(|line| line.contains("--add-port")).collect();
    assert_eq!(added, [format!("--permanent --add-port={port}/tcp"), format!("--add-port={port}/tcp")]);
    assert_eq!(host.provision(host.settings()).await.unwrap().changed, Vec::<String>::new());
}

fn digest(text: &str) -> String {
    use sha2::Digest as _;
    format!("{:x}", sha2::Sha256::digest(text))
}

/// Serves one installer to anybody who asks.
fn serve(script: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/install.sh", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", script.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(script.as_bytes()).unwrap();
        }
    });
    url
}

#[tokio::test]
async fn another_engine_is_installed_and_configured() {
    let dockerd = include_str!("provision/stand_ins/dockerd");
    let script = include_str!("provision/stand_ins/install-dockerd").replace("@DOCKERD@", dockerd);
    let host = Host::new(Kind::Systemd);
    host.write("/etc/docker/daemon.json", "{\"hosts\": [\"fd://\"], \"data-root\": \"/srv/docker\"}", 0o644);
    let settings = EngineSettings {
        install_sha256: Some(digest(&script)),
        install_url: Some(serve(script)),
        options: vec![("dns".to_owned(), "192.0.2.53".to_owned())],
        env: vec![("HTTP_PROXY".to_owned(), "http://proxy:3128".to_owned())],
        ..host.settings()
    };
    let report = host.provision(settings.clone()).await.unwrap();
    assert!(report.changed.contains(&"Engine installed".to_owned()), "{:?}", report.changed);
    assert_eq!(host.lines("/run/installs").len(), 1);
    let arguments = host.read("/run/dockerd.arguments");
    assert!(arguments.contains("--tlsverify --tlscacert /etc/docker/ca.pem"), "{arguments}");
    assert_eq!(host.mode("/etc/docker/server-key.pem"), 0o600);
    let configuration: serde_json::Value =
        serde_json::from_str(&host.read("/etc/docker/daemon.json")).unwrap();
    assert_eq!(
        configuration,
        serde_json::json!({
            "data-root": "/srv/docker", "dns": ["192.0.2.53"], "labels": ["provider=generic"],
            "log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}
        })
    );
    assert!(host.read("/etc/docker/daemon.json.before-machine").contains("fd://"));
    let drop_in = host.read("/etc/systemd/system/docker.service.d/10-machine.conf");
    assert!(drop_in.contains("\nExecStart=\nExecStart=/usr/local/bin/dockerd -H tcp://"), "{drop_in}");
    assert!(drop_in.contains("\nEnvironment=\"HTTP_PROXY=http://proxy:3128\""), "{drop_in}");

    let again = host.provision(settings).await.unwrap();
    assert_eq!(again.changed, Vec::<String>::new());
    assert_eq!((host.lines("/run/installs").len(), host.lines("/run/dockerd.starts").len()), (1, 2));

    // It reads its certificates at its start alone.
    let session = host.log_in().await;
    let told = Told::default();
    let changed = provision::install_certificates(&session, &tls(2), &told).await.unwrap();
    assert_eq!(changed, ["Certificates installed", "Engine restarted"]);
    assert!(told.lines().iter().any(|line| line.starts_with("note: ")), "{:?}", told.lines());
    assert_eq!(host.read("/etc/docker/server-key.pem"), "SECRET KEY 2\n");
}

#[tokio::test]
async fn an_installer_that_fails_is_quoted() {
    let host = Host::new(Kind::OpenRc);
    let script = "echo The mirror is on fire\nexit 7\n";
    let settings = EngineSettings {
        install_url: Some(serve(script.to_owned())),
        install_sha256: Some(digest(script)),
        ..host.settings()
    };
    let error = host.provision(settings).await.unwrap_err();
    assert!(
        error.to_string().contains("The installer ended with status 7\n  | The mirror is on fire"),
        "{error}"
    );
    assert!(!host.path("/etc/docker").exists());

    let settings = EngineSettings {
        install_url: Some("http://127.0.0.1:9/install.sh".to_owned()),
        install_sha256: Some(digest(script)),
        ..host.settings()
    };
    let error = host.provision(settings).await.unwrap_err();
    assert!(error.to_string().contains("Could not fetch http://127.0.0.1:9/install.sh"), "{error}");
}

#[tokio::test]
async fn an_installer_that_somebody_could_replace_is_not_run() {
    for kind in [Kind::Systemd, Kind::OpenRc] {
        let host = Host::new(kind);
        let url = serve("echo here >/run/installs\n".to_owned());
        let settings = EngineSettings {
            install_url: Some(url.clone()),
            install_sha256: Some(digest("what was meant")),
            ..host.settings()
        };
        let error = host.provision(settings).await.unwrap_err();
        assert!(error.to_string().contains("has another digest than the one that was given"), "{error}");
        let settings = EngineSettings { install_url: Some(url), ..host.settings() };
        let error = host.provision(settings).await.unwrap_err();
        assert!(matches!(error, ProvisionError::Settings(_)), "{error:?}");
        assert!(error.hint().unwrap().contains("--engine-install-sha256"), "{:?}", error.hint());
        assert!(!host.path("/run/installs").exists() && !host.path("/etc/docker").exists());
    }
}
