#![allow(clippy::unwrap_used)]
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use machine_driver::{
    ErrorKind, HostId, MemoryJournal, Silent,
    conformance::{MakesNothing, Suite},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;

/// A server that says something to everybody who connects, and then waits for the other to go.
async fn server(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(words).await.ok();
            if words.is_empty() {
                continue;
            }
            open.push(stream);
        }
    });
    port
}

fn key(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

const PEM: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n…\n";

async fn configure(given: &[(&str, &str)]) -> Result<Value, DriverError> {
    let given: BTreeMap<String, Vec<String>> =
        given.iter().map(|(name, value)| ((*name).into(), vec![(*value).into()])).collect();
    Generic.configure(&Options::resolve(&Generic.flags(), &given).unwrap()).await
}

/// What the driver is told of a host with these options.
async fn host(given: &[(&str, &str)]) -> HostView {
    HostView {
        name: "a".parse().unwrap(),
        id: HostId::random(),
        owner: String::new(),
        folder: "/nonexistent".into(),
        cache: "/nonexistent".into(),
        config: configure(given).await.unwrap(),
        place: None,
        login: None,
        host_key: None,
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let port = server(b"Be welcome\r\nSSH-2.0-OpenSSH_9.2\r\n").await;
    Suite::new(&Generic, &MakesNothing)
        .option("generic-ip-address", "127.0.0.1")
        .option("generic-ssh-port", &port.to_string())
        .option("generic-ssh-key", &key(folder.path(), "id", PEM, 0o600))
        .requires("generic-ip-address")
        .refuses("generic-ip-address", "root@host")
        .refuses("generic-ip-address", "-oProxyCommand=x")
        .refuses("generic-ip-address", "host:22")
        .refuses("generic-ip-address", "a b")
        .refuses("generic-ssh-port", "0")
        .refuses("generic-engine-port", "65536")
        .refuses("generic-ssh-user", "-l")
        .refuses("generic-ssh-user", "a b")
        .run()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_missing_address_is_said_in_the_old_words() {
    let error = configure(&[]).await.unwrap_err();
    assert_eq!(error.to_string(), "generic driver requires the --generic-ip-address option");
}

#[tokio::test]
async fn what_is_no_ssh_server_is_refused() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (port, message) in [
        (server(b"").await, "No SSH server speaks on port"),
        (server(b"SSH-1.5-old\r\n").await, "No SSH server speaks on port"),
        (closed, "Could not connect to port"),
    ] {
        let error = reach::banner("127.0.0.1", port).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Refused);
        assert!(error.to_string().starts_with(message), "{error}");
    }
}

/// A web server waits for more after its answer: only the time limit ends that.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_says_ssh_is_given_up() {
    let port = server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = reach::banner("127.0.0.1", port).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "No answer within 20 seconds");
}

#[tokio::test]
async fn key_files_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let open = key(folder.path(), "open", PEM, 0o644);
    let public = key(folder.path(), "id.pub", "ssh-ed25519 AAAA\n", 0o600);
    let other = key(folder.path(), "other", "hello", 0o600);
    for (path, message) in [
        (missing.clone(), format!("SSH key does not exist: {missing:?}")),
        (open.clone(), format!("Permissions 0644 for {open:?} are too open")),
        (public.clone(), format!("{public:?} is no private SSH key")),
        (other.clone(), format!("{other:?} is no private SSH key")),
        (folder.path().to_str().unwrap().to_owned(), format!("{:?} is no SSH key", folder.path())),
    ] {
        let host = host(&[("generic-ip-address", "127.0.0.1"), ("generic-ssh-key", &path)]).await;
        let error = Generic.check(&host).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test]
async fn the_state_is_whether_the_port_answers() {
    let port = server(b"SSH-2.0-x\r\n").await.to_string();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    for (port, state) in [(port, State::Running), (closed, State::Stopped)] {
        let host = host(&[("generic-ip-address", "127.0.0.1"), ("generic-ssh-port", &port)]).await;
        assert_eq!(Generic.state(&host, &Value::Null).await.unwrap(), state);
    }
}

#[tokio::test]
async fn the_verbs_are_refused_in_the_old_words() {
    let host = host(&[("generic-ip-address", "127.0.0.1")]).await;
    let journal = &mut MemoryJournal::default();
    let answers = [
        Generic.start(&host, journal, &Silent).await,
        Generic.stop(&host, journal, &Silent).await,
        Generic.kill(&host, journal, &Silent).await,
    ];
    for (answer, verb) in answers.into_iter().zip(["start", "stop", "kill"]) {
        assert_eq!(answer.unwrap_err().to_string(), format!("generic driver does not support {verb}"));
    }
}

#[tokio::test]
async fn without_a_key_the_agent_is_asked() {
    let host = host(&[("generic-ip-address", "[2001:db8::1]"), ("generic-ssh-user", "admin")]).await;
    let endpoint = Generic.endpoint(&host, &Value::Null).await.unwrap();
    let ssh = endpoint.ssh.clone().unwrap();
    assert_eq!((ssh.user.as_str(), ssh.port, ssh.key), ("admin", 22, SshKey::Agent));
    assert_eq!(endpoint.url(), "tcp://[2001:db8::1]:2376");
}
