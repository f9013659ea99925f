//! Everything that can be wrong before a session exists, and the keys that open one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine::ssh::{HostKeyPolicy, Key, Passphrase, Session, SshError, Target, Timeouts, wait_for_banner};

use crate::child::{Task, child};
use crate::server::{Server, own_address, shell, wait};

fn refused(target: &Target) -> SshError {
    let timeouts = Timeouts {
        connect: Duration::from_secs(2),
        banner: Duration::from_secs(1),
        key_exchange: Duration::from_secs(1),
        ..Timeouts::default()
    };
    wait(Session::connect(target, &timeouts)).expect_err("it must not work")
}

#[test]
fn every_kind_of_key_opens_the_door() {
    let server = Server::start();
    server.shell(
        "umask 077
        for kind in rsa ecdsa ed25519; do ssh-keygen -q -t $kind -N '' -f user_$kind; done
        openssl genrsa -traditional -out user_pkcs1 2048; ssh-keygen -yf user_pkcs1 > user_pkcs1.pub
        cat user_*.pub > authorized_keys",
    );
    for name in ["user_rsa", "user_ecdsa", "user_ed25519", "user_pkcs1"] {
        let mut target = server.target();
        target.key = Key::File(server.path(name));
        let output = wait(async {
            let session = Session::connect(&target, &Timeouts::default()).await?;
            session.output("echo in", b"").await
        });
        assert_eq!(output.unwrap_or_else(|error| panic!("{name}: {error}")).stdout, b"in\n");
    }
    assert_eq!(server.logins(), 4);
    let log = server.log();
    assert!(!log.contains("ssh-rsa-sha1") && !log.contains("not in PubkeyAcceptedAlgorithms"), "{log}");
}

#[test]
fn the_host_key_decides() {
    let server = Server::start();
    let with = |policy| Target { host_key: policy, ..server.target() };
    let pinned =
        |lines: &[&str]| with(HostKeyPolicy::Pinned(lines.iter().map(|line| (*line).to_owned()).collect()));
    let (ed25519, ecdsa) = (server.line("host_ed25519.pub"), server.line("host_ecdsa.pub"));
    let other = server.line("key.pub");

    // The kind that is known is the kind that is shown.
    for (lines, shown) in [(vec![&*ecdsa], &ecdsa), (vec![&*other, &*ed25519], &ed25519)] {
        let session = wait(Session::connect(&pinned(&lines), &Timeouts::default())).unwrap();
        assert_eq!(session.host_key().line, *shown);
    }

    // By its fingerprint, whichever of the server's keys it is.
    let sum = Command::new("ssh-keygen").arg("-lf").arg(server.path("host_ecdsa.pub")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let session =
        wait(Session::connect(&pinned(&[sum.split_whitespace().nth(1).unwrap()]), &Timeouts::default()))
            .unwrap();
    assert_eq!(session.host_key().line, ecdsa);

    let error = refused(&pinned(&[&other]));
    assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
    for name in ["host_ed25519.pub", "key.pub"] {
        let fingerprint = Command::new("ssh-keygen").arg("-lf").arg(server.path(name)).output().unwrap();
        let fingerprint = String::from_utf8(fingerprint.stdout).unwrap();
        let fingerprint = fingerprint.split_whitespace().nth(1).unwrap();
        assert!(error.to_string().contains(fingerprint), "{error} does not name {fingerprint}");
    }
    assert_eq!(error.layer(), "host key");

    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = |answer: bool| {
        let asked = asked.clone();
        with(HostKeyPolicy::Ask(Arc::new(move |offered| {
            // Longer than the key exchange may take without a person.
            std::thread::sleep(Duration::from_millis(1500));
            asked.lock().unwrap().push(offered.line.clone());
            answer
        })))
    };
    let error = refused(&ask(false));
    assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{error}");
    let timeouts = Timeouts { key_exchange: Duration::from_secs(1), ..Timeouts::default() };
    let session = wait(Session::connect(&ask(true), &timeouts)).unwrap();
    assert_eq!(session.host_key().line, ed25519);
    assert_eq!(*asked.lock().unwrap(), [ed25519.clone(), ed25519.clone()]);
    let spoiled = refused(&pinned(&["ssh-ed25519 nonsense"]));
    assert!(matches!(spoiled, SshError::HostKeyRecord { .. }), "{spoiled}");
    assert_eq!(server.logins(), 4);
}

#[test]
fn key_files_that_cannot_be_used_are_explained_before_anybody_connects() {
    let server = Server::start();
    let before = server.connections();
    server.shell("cp key open; chmod 644 open; umask 077; ssh-keygen -q -t ed25519 -N secret -f closed");
    let with = |name: &str| Target { key: Key::File(server.path(name)), ..server.target() };
    let path = |name: &str| server.path(name).display().to_string();
    assert_eq!(
        refused(&with("open")).to_string(),
        format!("permissions 0644 for '{}' are too open", path("open"))
    );
    assert_eq!(refused(&with("none")).to_string(), format!("The key file `{}` does not exist", path("none")));
    fs::set_permissions(server.path("key.pub"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let error = refused(&with("key.pub"));
    assert!(matches!(error, SshError::KeyInvalid { .. }), "{error}");
    assert!(error.hint().unwrap().contains(&path("key")), "{error:?}");
    // In a process without a terminal nobody is asked for the passphrase.
    let (code, output) = child(&Task::Connect { target: with("closed") }, &[("SSH_AUTH_SOCK", "")]);
    assert_eq!(code, 1);
    assert!(
        output.contains(&format!("The key file `{}` is encrypted with a passphrase", path("closed"))),
        "{output}"
    );
    assert_eq!(server.connections(), before);
}

#[test]
fn a_login_that_is_refused_says_what_is_offered() {
    let server = Server::start_with("AuthenticationMethods publickey");
    server.shell("umask 077; ssh-keygen -q -t ed25519 -N '' -f stranger");
    let target = Target { key: Key::File(server.path("stranger")), ..server.target() };
    let error = refused(&target);
    let expected = format!(
        "`{}` refused the login of `{}` with the key `{}`; it offers publickey",
        server.host,
        target.user,
        server.path("stranger").display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("authorized_keys"));

    let partial = Server::start_with("AuthenticationMethods publickey,password\nPasswordAuthentication yes");
    let error = refused(&partial.target());
    let expected = format!(
        "`{}` accepted the key `{}` of `{}`, but wants password as well",
        partial.host,
        partial.path("key").display(),
        target.user
    );
    assert_eq!(error.to_string(), expected);
}

/// An agent that does not outlive its test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_agent_opens_the_door() {
    let server = Server::start();
    let home = server.path("home");
    let socket = server.path("agent").display().to_string();
    let mut command = Command::new("ssh-agent");
    command.args(["-D", "-a", &socket]).stdout(Stdio::null()).stderr(Stdio::null());
    let _agent = Agent(command.spawn().unwrap());
    server.shell(
        "while ! test -S agent; do sleep 0.02; done
        umask 077; export SSH_AUTH_SOCK=agent
        for n in 1 2; do ssh-keygen -q -t ed25519 -N '' -f useless$n; ssh-add -q useless$n; done
        ssh-keygen -q -t rsa -N '' -f rsa; ssh-add -q rsa; cp rsa.pub authorized_keys
        ssh-keygen -q -t ed25519 -N '' -f closed; ssh-add -q closed; ssh-keygen -q -p -N secret -f closed
        cat closed.pub >> authorized_keys",
    );
    let home = home.display().to_string();
    let target = Target { key: Key::Agent, ..server.target() };
    let environment = [("SSH_AUTH_SOCK", socket.as_str()), ("HOME", home.as_str())];
    let (code, output) = child(&Task::Connect { target: target.clone() }, &environment);
    assert_eq!((code, output.as_str()), (0, "connected"), "{}", server.log());
    assert!(server.log().contains("Accepted publickey") && server.log().contains("RSA"), "{}", server.log());

    // An encrypted key file is used through the agent that has opened it.
    let file = Target { key: Key::File(server.path("closed")), ..server.target() };
    let (code, output) = child(&Task::Connect { target: file }, &environment);
    assert_eq!((code, output.as_str()), (0, "connected"));

    let strict = Server::start_with("MaxAuthTries 2");
    let target_of_strict = Target { key: Key::Agent, ..strict.target() };
    let (code, output) = child(&Task::Connect { target: target_of_strict }, &environment);
    assert_eq!(code, 1);
    assert!(
        output.contains("broke off the login") && output.contains("Too many authentication failures"),
        "{output}"
    );

    server.shell("cp useless1.pub authorized_keys; SSH_AUTH_SOCK=agent ssh-add -q -D");
    let (code, output) = child(&Task::Connect { target: target.clone() }, &environment);
    assert_eq!(code, 1);
    assert!(
        output.contains("There is no key to log in to") && output.contains("the agent holds no key"),
        "{output}"
    );

    // Without an agent, the usual key files.
    server.shell("mkdir -p home/.ssh; cp key home/.ssh/id_ed25519; cp key.pub authorized_keys");
    let (code, output) = child(&Task::Connect { target }, &[("SSH_AUTH_SOCK", ""), ("HOME", &home)]);
    assert_eq!((code, output.as_str()), (0, "connected"));
}

/// Longer than any greeting.
const TALKATIVE: &str = include_str!("login.rs");

/// Accepts connections and answers each in the same way.
fn listener(answer: &'static [u8], close: bool) -> (String, u16) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(answer);
            if !close {
                open.push(stream);
            }
        }
    });
    (address.ip().to_string(), address.port())
}

#[test]
fn servers_that_are_none_fail_at_their_layer() {
    let folder = tempfile::tempdir().unwrap();
    shell(folder.path(), "umask 077; ssh-keygen -q -t ed25519 -N '' -f key");
    let target = |(host, port): (String, u16)| Target {
        host,
        port,
        user: "nobody".to_owned(),
        key: Key::File(folder.path().join("key")),
        passphrase: Passphrase::none(),
        host_key: HostKeyPolicy::Pinned(vec![]),
    };
    let error = refused(&target(listener(b"", false)));
    assert!(matches!(error, SshError::BannerTimeout { .. }), "{error}");
    let error = refused(&target(listener(b"", true)));
    assert!(matches!(error, SshError::BannerClosed { .. }), "{error}");
    let error = refused(&target(listener(b"HTTP/1.1 400 Bad Request\r\n\r\n", false)));
    assert!(error.to_string().ends_with("does not speak SSH, it says `HTTP/1.1 400 Bad Request`"), "{error}");
    let error = refused(&target(listener(b"\x16\x03\x01\x00", false)));
    assert!(matches!(error, SshError::NotSsh { .. }), "{error}");
    let error = refused(&target(listener(TALKATIVE.as_bytes(), false)));
    assert!(matches!(error, SshError::NotSsh { .. }), "{error}");
    let error = refused(&target(listener(b"SSH-2.0-Silence\r\n", false)));
    assert!(matches!(error, SshError::KeyExchangeTimeout { .. }), "{error}");
    let error = refused(&target(listener(b"SSH-2.0-Gone\r\n", true)));
    assert!(matches!(error, SshError::KeyExchange { .. }), "{error}");
    let error = refused(&target(listener(
        b"SSH-2.0-Garbage\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        false,
    )));
    assert_eq!(error.layer(), "key exchange", "{error}");

    let free = TcpListener::bind((own_address(), 0)).unwrap().local_addr().unwrap();
    let error = refused(&target((free.ip().to_string(), free.port())));
    assert!(matches!(error, SshError::Connect { .. }), "{error}");
    assert!(error.hint().unwrap().contains("Nothing listens there"));
    let patient = Timeouts { connect: Duration::from_secs(60), ..Timeouts::default() };
    let nowhere = target(("no.such.host.invalid".to_owned(), 22));
    let error = wait(Session::connect(&nowhere, &patient)).unwrap_err();
    // Names below `.invalid` have no address, whoever is asked, and be it that nobody is.
    assert!(matches!(error, SshError::Address { .. }), "{error}");
}

#[test]
fn waiting_for_a_server_ends_when_it_comes_or_when_it_cannot() {
    let address = own_address();
    let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
    let host = address.to_string();
    // Nobody, then somebody who hangs up, then one who hangs, then a server: a machine that boots.
    let booting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let listener = TcpListener::bind((address, port)).unwrap();
        drop(listener.accept().unwrap());
        let (mut hanging, _) = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"Welcome\r\nSSH-2.0-Late_1.0\r\n").unwrap();
        let _ = hanging.read(&mut [0; 1]);
    });
    let banner = wait(wait_for_banner(&host, port, Duration::from_secs(20))).unwrap();
    assert_eq!(banner, "SSH-2.0-Late_1.0");
    booting.join().unwrap();

    let error = wait(wait_for_banner(&host, port, Duration::from_millis(700))).unwrap_err();
    assert!(matches!(error, SshError::Connect { .. }), "{error}");
    let (host, port) = listener(b"HTTP/1.1 400 Bad Request\r\n\r\n", false);
    // It does not wait for its deadline, which lies far beyond the patience of this test.
    let waiting = wait_for_banner(&host, port, Duration::from_secs(3600));
    let outcome = wait(async { tokio::time::timeout(Duration::from_secs(60), waiting).await });
    let error = outcome.expect("it ends by itself").unwrap_err();
    assert!(matches!(error, SshError::NotSsh { .. }), "{error}");
}

#[test]
fn keys_made_here_are_accepted_there() {
    let server = Server::start();
    let pair = machine::ssh::generate_key_pair("mc1").unwrap();
    fs::write(server.path("authorized_keys"), &pair.public).unwrap();
    let path: PathBuf = server.path("made");
    fs::write(&path, &pair.private).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let target = Target { key: Key::File(path), ..server.target() };
    wait(Session::connect(&target, &Timeouts::default())).unwrap();
}
