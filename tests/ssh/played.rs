//! A host that is played: an SSH server in this process that knows what it is sent, and over a session with which host key.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

use machine::ssh::generate_key_pair;
use russh::keys::{HashAlg, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};

use crate::machine_program::Store;
use crate::server::own_address;

/// What a session was used for.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The fingerprint of the host key that its session began with.
    pub(crate) host_key: String,
    /// What came on the standard input of its command.
    pub(crate) input: String,
}

#[derive(Debug)]
struct Memory {
    folder: PathBuf,
    /// The host's own key, made when it is asked for one.
    own: PrivateKey,
    placed: bool,
    /// Whether its server shows the new key when it is told to.
    obeys: bool,
    logins: usize,
    sent: Vec<Sent>,
}

impl Memory {
    fn shown(&self) -> Option<PrivateKey> {
        if self.placed && self.obeys {
            return Some(self.own.clone());
        }
        PrivateKey::from_openssh(fs::read_to_string(self.folder.join("delivered")).ok()?).ok()
    }
}

pub(crate) struct Played {
    folder: tempfile::TempDir,
    store: Store,
    /// `delivered` or `delivered-once`.
    source: &'static str,
    memory: Arc<Mutex<Memory>>,
    place: String,
    _runtime: tokio::runtime::Runtime,
}

fn fingerprint(key: &PrivateKey) -> String {
    key.public_key().fingerprint(HashAlg::Sha256).to_string()
}

impl Played {
    pub(crate) fn new(source: &'static str, obeys: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = PrivateKey::from_openssh(generate_key_pair("").unwrap().private).unwrap();
        let memory = Memory {
            folder: folder.path().to_owned(),
            own,
            placed: false,
            obeys,
            logins: 0,
            sent: Vec::new(),
        };
        let memory = Arc::new(Mutex::new(memory));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = own_address();
        let ssh = runtime.block_on(tokio::net::TcpListener::bind((address, 0))).unwrap();
        let engine = TcpListener::bind((address, 0)).unwrap();
        let place = format!(
            "{} {address} {} {}",
            folder.path().display(),
            ssh.local_addr().unwrap().port(),
            engine.local_addr().unwrap().port()
        );
        std::thread::spawn(move || engine.incoming().for_each(|stream| not_tls(stream.unwrap())));
        runtime.spawn(serve(ssh, memory.clone()));
        let program = folder.path().join(format!("machine-driver-{source}"));
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ssh/machine-driver-played"), &program)
            .unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { folder, store: Store::new(), source, memory, place, _runtime: runtime }
    }

    /// `machine create`, which ends at the engine: that is not played.
    pub(crate) fn create(&self) -> Output {
        let place = format!("--{}-to", self.source);
        // Another engine, since this program may have none to install.
        let engine = ["--engine-install-url", "https://nowhere.invalid"];
        let words = ["create", "-d", self.source, &place, &self.place, engine[0], engine[1], "web1"];
        self.machine(&words)
    }

    pub(crate) fn machine(&self, words: &[&str]) -> Output {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        self.store.command(words).env("PATH", path).output().unwrap()
    }

    /// Everything that it was sent.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.memory.lock().unwrap().sent.clone()
    }

    /// The sessions over which the engine's private key came, by their host keys.
    pub(crate) fn trusted_with_secrets(&self) -> Vec<String> {
        let sent = self.sent();
        let secret = sent.iter().filter(|sent| sent.input.contains("PRIVATE KEY"));
        secret.map(|sent| sent.host_key.clone()).collect()
    }

    pub(crate) fn logins(&self) -> usize {
        self.memory.lock().unwrap().logins
    }

    /// The fingerprint of the key that it made itself.
    pub(crate) fn own_key(&self) -> String {
        fingerprint(&self.memory.lock().unwrap().own)
    }

    /// The key that the driver delivered, in the host's folder.
    pub(crate) fn delivered_key_file(&self) -> PathBuf {
        self.store.host().join("ssh_host_ed25519_key")
    }
}

/// What listens where the engine should, so that nobody waits for that.
fn not_tls(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
}

async fn serve(listener: tokio::net::TcpListener, memory: Arc<Mutex<Memory>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Some(key) = memory.lock().unwrap().shown() else { continue };
        let host = Host { memory: memory.clone(), shown: fingerprint(&key), inputs: HashMap::new() };
        let config = server::Config { keys: vec![key], ..server::Config::default() };
        tokio::spawn(async move {
            if let Ok(session) = server::run_stream(Arc::new(config), stream, host).await {
                let _ = session.await;
            }
        });
    }
}

struct Host {
    memory: Arc<Mutex<Memory>>,
    shown: String,
    inputs: HashMap<ChannelId, Vec<u8>>,
}

impl Host {
    /// What the scripts of `templates/shell` would answer.
    fn answer(&self, input: &str) -> String {
        let mut memory = self.memory.lock().unwrap();
        memory.sent.push(Sent { host_key: self.shown.clone(), input: input.to_owned() });
        if input.contains("echo host-key=placed") {
            memory.placed = true;
            "host-key=placed\n".to_owned()
        } else if input.contains("host-key=%s") {
            format!("host-key={}\n", memory.own.public_key().to_openssh().unwrap())
        } else if input.contains("machine-probe=begin") {
            "root=login\nmachine-probe=begin\nnode=web1\nkernel=6.1\narchitecture=x86_64\ncgroup=2\n\
             os-release=ID=debian\ninit=systemd\ndockerd=/usr/bin/dockerd\nmachine-probe=end\n"
                .to_owned()
        } else {
            "finished\n".to_owned()
        }
    }
}

impl Handler for Host {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        self.memory.lock().unwrap().logins += 1;
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.inputs.insert(channel, Vec::new());
        session.channel_success(channel)
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        self.inputs.entry(channel).or_default().extend_from_slice(data);
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        let input = self.inputs.remove(&channel).unwrap_or_default();
        let answer = self.answer(&String::from_utf8_lossy(&input));
        session.data(channel, answer.into_bytes())?;
        session.exit_status_request(channel, 0)?;
        session.eof(channel)?;
        session.close(channel)
    }
}
