//! A real OpenSSH server for one test: its own folder, its own keys, an address of its own on the loopback network.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use machine::ssh::{HostKeyPolicy, Key, Passphrase, Session, Target, Timeouts, wait_for_banner};
use tempfile::TempDir;

pub(crate) struct Server {
    folder: TempDir,
    process: Child,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Every server gets an address of its own, so that no test can take the port of another.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = u16::try_from(std::process::id() % 65_536).unwrap().to_be_bytes();
    let number = u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
    Ipv4Addr::new(127, high.max(1), low, number)
}

pub(crate) fn shell(folder: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A runtime as that of the program.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server whose configuration has more lines. Without an RSA key, because that takes a while.
    pub(crate) fn start_with(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        shell(
            path,
            "umask 077; mkdir home
            test -w /run && mkdir -p -m 755 /run/sshd
            ssh-keygen -q -t ed25519 -N '' -C '' -f host_ed25519
            ssh-keygen -q -t ecdsa -N '' -C '' -f host_ecdsa
            ssh-keygen -q -t ed25519 -N '' -f key
            cp key.pub authorized_keys",
        );
        let address = own_address();
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let place = path.display();
        // Of each keyword the first value counts.
        let sftp = if lines.contains("Subsystem") { "" } else { "Subsystem sftp internal-sftp" };
        let config = format!(
            "{lines}\n{sftp}\nListenAddress {address}:{port}\nHostKey {place}/host_ed25519\nHostKey {place}/host_ecdsa\n\
             PidFile none\nUsePAM no\nStrictModes no\nLogLevel VERBOSE\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\nMaxSessions 100\n\
             AuthorizedKeysFile {place}/authorized_keys\nSetEnv HOME={place}/home\n"
        );
        fs::write(path.join("sshd_config"), config).unwrap();
        let log = fs::File::create(path.join("log")).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.arg("-D").arg("-e").arg("-f").arg(path.join("sshd_config"));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let process = process.expect("these tests need the program `/usr/sbin/sshd`");
        let server = Self { folder, process, host: address.to_string(), port };
        let banner = wait(wait_for_banner(&server.host, server.port, Duration::from_secs(20)));
        let banner = banner.unwrap_or_else(|error| panic!("{error}: {}", server.log()));
        assert!(banner.starts_with("SSH-2.0-OpenSSH"), "{banner}");
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn shell(&self, script: &str) {
        shell(self.folder.path(), script);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The server writes when it gets to it.
    pub(crate) fn wait_for_log(&self, text: &str) {
        for _ in 0..200 {
            if self.log().contains(text) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{text:?} is not in {}", self.log());
    }

    pub(crate) fn logins(&self) -> usize {
        self.log().matches("Accepted publickey").count()
    }

    pub(crate) fn connections(&self) -> usize {
        self.log().matches("Connection from").count()
    }

    /// The line of a public key.
    pub(crate) fn line(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap().trim().to_owned()
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            host: self.host.clone(),
            port: self.port,
            user: user(),
            key: Key::File(self.path("key")),
            passphrase: Passphrase::none(),
            host_key: HostKeyPolicy::Pinned(vec![self.line("host_ed25519.pub")]),
        }
    }

    pub(crate) async fn session(&self) -> Session {
        let session = Session::connect(&self.target(), &Timeouts::default()).await;
        session.unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    /// Ends it; nobody listens there any more.
    pub(crate) fn stop(&mut self) {
        self.cut();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Kills what serves the sessions, as a crash or a firewall would.
    pub(crate) fn cut(&self) {
        for child in children(self.process.id()) {
            // The server first, else it would tell that the command was killed.
            let grandchildren = children(child);
            kill(child);
            grandchildren.into_iter().for_each(kill);
        }
    }
}

fn kill(process: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

fn children(of: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
