//! The inside of a guest: its namespaces with the SSH server in them, and the ways in.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    disk::{Disk, HOST_KEY},
    engine,
};

/// Namespaces are there within moments.
const NAMESPACES: Duration = Duration::from_secs(20);

/// A guest's processes.
#[derive(Debug)]
pub struct Inside {
    first: Mutex<Child>,
    root: PathBuf,
    dial: mpsc::Sender<(u16, mpsc::Sender<io::Result<TcpStream>>)>,
}

impl Inside {
    /// Boots a disk.
    pub fn start(disk: &Disk, user: &str) -> io::Result<Self> {
        let here = disk.folder().display();
        let accounts = format!(
            "{user}:x:0:0:{user}:/root:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n\
             sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        );
        let file = |name: &str, text: &str| fs::write(disk.folder().join(name), text);
        file("passwd", &accounts)?;
        file("shadow", &format!("{user}:*:19000:0:99999:7:::\nroot:*:19000:0:99999:7:::\n"))?;
        file(
            "sshd_config",
            &format!(
                "Port 22\nListenAddress 127.0.0.1\nHostKey /mnt/root/{HOST_KEY}\nPidFile /mnt/root/run/sshd.pid\n\
                 AuthorizedKeysFile /mnt/logins\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
                 PermitRootLogin yes\nMaxStartups 100\nChrootDirectory /mnt/root\n"
            ),
        )?;
        file(
            "start",
            &format!(
                "set -e\nmount --make-rprivate /\n/bin/busybox ip link set lo up\n\
                 mount -t tmpfs -o mode=755 none /mnt\nroot=/mnt/root\nmkdir $root\n\
                 cp '{here}/logins' /mnt\nchmod 644 /mnt/logins\n\
                 mount --bind '{here}/root' $root\nmount --bind /usr $root/usr\nmount -o remount,bind,ro $root/usr\n\
                 mount --bind $root/local $root/usr/local\nmount -t proc proc $root/proc\nmount --bind /dev $root/dev\n\
                 mount --bind '{here}/passwd' /etc/passwd\nmount --bind '{here}/shadow' /etc/shadow\n\
                 mount -t tmpfs -o mode=755 none /run\nmkdir /run/sshd\nhostname localhost\n\
                 for unit in $root/etc/systemd/system/multi-user.target.wants/*.service; do\n\
                 [ ! -L \"$unit\" ] || chroot $root systemctl start \"${{unit##*/}}\" || :\ndone\n\
                 exec /usr/sbin/sshd -D -e -f '{here}/sshd_config'\n"
            ),
        )?;
        let log = fs::File::create(disk.folder().join("log"))?;
        let first = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "/bin/sh"])
            .arg(disk.folder().join("start"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let network = PathBuf::from(format!("/proc/{}/ns/net", first.id()));
        let (dial, dialled) = mpsc::channel();
        let this = Self { first: Mutex::new(first), root: disk.root(), dial };
        let network = entered(&network)?;
        thread::spawn(move || dial_from_within(&network, &dialled));
        Ok(this)
    }

    /// Ends it. Everything in there dies with its first process, and the mounts with the last.
    pub fn end(&self) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = first.kill();
        let _ = first.wait();
    }

    /// A connection to a port, made on the guest itself.
    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let gone = || io::Error::other("The guest is gone");
        let (answer, answered) = mpsc::channel();
        self.dial.send((port, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    /// Has a port be reached from an address or a socket; what comes for the engine is answered for it.
    pub fn lead_in(self: &Arc<Self>, port: u16, from: &str) -> io::Result<()> {
        let this = self.clone();
        let serve = move |connection: Connection| {
            let this = this.clone();
            thread::spawn(move || {
                if port == engine::PORT {
                    engine::answer(connection, &this.root);
                } else if let Ok(inner) = this.connect(port) {
                    // One that cannot be reached is closed.
                    join(connection, Connection::Tcp(inner));
                }
            });
        };
        if from.starts_with('/') {
            let _ = fs::remove_file(from);
            let listener = UnixListener::bind(from)?;
            thread::spawn(move || listener.incoming().flatten().map(Connection::Unix).for_each(serve));
        } else {
            let listener = TcpListener::bind(from)?;
            thread::spawn(move || listener.incoming().flatten().map(Connection::Tcp).for_each(serve));
        }
        Ok(())
    }
}

/// The network of a guest, as soon as it is one of its own.
fn entered(network: &Path) -> io::Result<fs::File> {
    let ours = fs::read_link("/proc/self/ns/net")?;
    let deadline = Instant::now() + NAMESPACES;
    while fs::read_link(network)? == ours {
        if Instant::now() > deadline {
            return Err(io::Error::other("The guest has no network of its own"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    fs::File::open(network)
}

/// Makes connections from a thread that is in the guest's network: that is a matter of each thread.
fn dial_from_within(network: &fs::File, asked: &mpsc::Receiver<(u16, mpsc::Sender<io::Result<TcpStream>>)>) {
    use std::os::fd::AsFd as _;
    let entered = move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
    for (port, answer) in asked {
        let connected = match entered {
            Ok(()) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)),
            Err(error) => Err(error.into()),
        };
        let _ = answer.send(connected);
    }
}

/// A connection from outside.
#[derive(Debug)]
pub enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    fn again(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    fn shut(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }
}

impl Read for Connection {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes on what comes, both ways, until both have ended.
pub fn join(one: Connection, other: Connection) {
    let (Ok(one_again), Ok(other_again)) = (one.again(), other.again()) else { return };
    let back = thread::spawn(move || pass(other_again, one_again));
    pass(one, other);
    let _ = back.join();
}

fn pass(mut from: Connection, mut to: Connection) {
    let ended = io::copy(&mut from, &mut to);
    to.shut(Shutdown::Write);
    if ended.is_err() {
        from.shut(Shutdown::Both);
        to.shut(Shutdown::Both);
    }
}
