//! What runs in a VM that does not boot: Linux as far as `machine` can see, with SSH and an engine, in a second.
//!
//! The program `machine-guest` is a *guest*: namespaces with a root of their own, in which the SSH server of this computer
//! runs, with the keys that the user data of its first boot name. Provisioning installs an engine there that is a shell
//! script; who connects to its port is answered by TLS, with the certificates that this engine has read. Its disk is a
//! folder. It ends when its standard input does, so that it never outlives whoever holds the other end.
//!
//! It takes root, `unshare` and `sshd`.

#![cfg(target_os = "linux")]

pub mod disk;
pub mod engine;
pub mod inside;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

/// The user data of the first boot: text that cloud-init reads, or an image with it.
pub const USER_DATA: &str = "user-data";
/// More keys that log in, one a line; need not be there.
pub const AUTHORIZED_KEYS: &str = "authorized-keys";

/// A guest that runs. Dropped, it is gone.
#[derive(Debug)]
pub struct Guest {
    child: Child,
}

impl Guest {
    /// Boots one from the disk in this folder, with [`USER_DATA`] in it. `user` is the account that logs in, as root;
    /// each port leads in from an address (`127.0.0.2:22`), or from a socket at a path.
    pub fn start(program: &Path, disk: &Path, user: &str, ports: &[(u16, String)]) -> io::Result<Self> {
        let mut child =
            command(program, disk, user, ports).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        let output = child.stdout.take().ok_or_else(|| io::Error::other("A guest has no output"))?;
        io::BufRead::read_line(&mut io::BufReader::new(output), &mut said)?;
        if said.trim() == READY {
            return Ok(Self { child });
        }
        let status = child.wait()?;
        Err(io::Error::other(format!("The guest did not start: {status}")))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What a guest says as soon as its ports lead in.
pub const READY: &str = "ready";

/// The command that boots a guest.
pub fn command(program: &Path, disk: &Path, user: &str, ports: &[(u16, String)]) -> Command {
    let mut command = Command::new(program);
    command.arg(disk).arg(user).args(ports.iter().map(|(port, from)| format!("{port}={from}")));
    command
}

/// The program, if it was built beside this one (a test of the workspace); `cargo test --workspace` does it.
pub fn program(beside: &Path) -> Option<PathBuf> {
    let program = beside.with_file_name("machine-guest");
    program.exists().then_some(program)
}

/// Why there can be no guests on this computer, if so.
pub fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("guests take root".to_owned());
    }
    for program in ["/usr/sbin/sshd", "/usr/bin/unshare", "/usr/bin/ssh-keygen", "/bin/busybox"] {
        if fs::metadata(program).is_err() {
            return Some(format!("guests take `{program}`"));
        }
    }
    None
}

/// A loopback address that nobody has taken, for a guest's ports on it to be the usual ones.
pub fn free_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [_, _, high, low] = (std::process::id().wrapping_mul(251).wrapping_add(number)).to_be_bytes();
        // 127.16 and above are where VMs are put.
        let address = Ipv4Addr::new(127, 15, high, 1 + low % 254);
        if [22, engine::PORT].iter().all(|port| TcpListener::bind((address, *port)).is_ok()) {
            return address;
        }
    }
}

/// Waits until an SSH server speaks at an address.
pub fn wait_for_ssh(address: &str, longest: Duration) -> io::Result<()> {
    let deadline = Instant::now() + longest;
    loop {
        let mut beginning = [0; 4];
        let read = TcpStream::connect(address).and_then(|mut stream| stream.read_exact(&mut beginning));
        match read {
            Ok(()) if beginning == *b"SSH-" => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Lays out an engine, as `machine` is given one to install: a folder for `MACHINE_ENGINE_BUNDLE`.
pub fn lay_out_bundle(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let file = |end: &str| folder.join(format!("engine-{}.{end}", std::env::consts::ARCH));
    let mut packed = GzEncoder::new(fs::File::create(file("gz"))?, Compression::fast());
    packed.write_all(engine::PROGRAM.as_bytes())?;
    packed.finish()?;
    fs::write(file("sha256"), format!("{:x}", Sha256::digest(engine::PROGRAM)))?;
    fs::write(file("version"), engine::VERSION)
}
