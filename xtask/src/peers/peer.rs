//! The engine, and dockerd with containerd and runc: each in namespaces of its own, on the same disk.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::run::check;

/// How long a daemon may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes the namespaces, says so, and stays until its input ends. For the engine: `/run` of its own is all it takes.
const PLAIN: &str = "set -e
    mount -t tmpfs tmpfs /run
    ip link set lo up
    echo ready
    exec cat";

/// As [`PLAIN`], with Debian's tree as the root: `$1`, with the data folder `$2` and the socket's folder `$3` in it.
const ROOTED: &str = "set -e
    mount --bind \"$1\" \"$1\"
    mkdir -p \"$1/data\" \"$1/socket\" \"$1/old\"
    mount --bind \"$2\" \"$1/data\"
    mount --bind \"$3\" \"$1/socket\"
    mount --rbind /sys \"$1/sys\"
    mount --rbind /dev \"$1/dev\"
    mount -t proc proc \"$1/proc\"
    mount -t tmpfs tmpfs \"$1/run\"
    cd \"$1\"
    pivot_root . old
    umount -l /old
    mount --make-rshared /
    ip link set lo up
    echo ready
    exec cat";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Engine,
    Dockerd,
}

/// One that runs.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    /// Of the socket, the data, the log, and the client's configuration.
    folder: PathBuf,
    /// A short one, as the path of a socket must be.
    socket: PathBuf,
    program: PathBuf,
    docker: PathBuf,
    holder: Child,
    daemon: Option<Child>,
}

impl Peer {
    /// Begins one. `program` is the engine, or the tree that dockerd is in.
    pub(super) fn start(kind: Kind, folder: &Path, program: &Path, docker: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(folder);
        for part in ["data", "config"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let sockets = std::env::temp_dir().join(format!("bench-{}-{kind:?}", std::process::id()));
        fs::create_dir_all(&sockets)?;
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--net", "--propagation", "private", "sh", "-c"]);
        match kind {
            Kind::Engine => holder.arg(PLAIN),
            Kind::Dockerd => holder.args([ROOTED, "sh"]).arg(program).arg(folder.join("data")).arg(&sockets),
        };
        let mut holder = holder
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Could not run `unshare` of util-linux")?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("no output")?).read_line(&mut said)?;
        let mut peer = Self {
            kind,
            folder: folder.to_owned(),
            socket: sockets.join("docker.sock"),
            program: program.to_owned(),
            docker: docker.to_owned(),
            holder,
            daemon: None,
        };
        if said.trim() != "ready" {
            bail!("Could not make the namespaces for {}; that takes root", peer.name());
        }
        peer.launch()?;
        Ok(peer)
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Engine => "engine",
            Kind::Dockerd => "dockerd",
        }
    }

    /// Where the daemon listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Starts the daemon and waits until it answers which containers there are; returns how long that took.
    pub(super) fn launch(&mut self) -> Result<Duration> {
        let log = fs::File::options().append(true).create(true).open(self.folder.join("log"))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--net"]);
        match self.kind {
            Kind::Engine => {
                command.arg(&self.program).args(["daemon", "--exec-root", "/run/bench"]);
                command
                    .args(["--pidfile", "/run/bench.pid", "--config-file"])
                    .arg(self.folder.join("daemon.json"));
                command.arg("--data-root").arg(self.folder.join("data"));
                command.arg("--host").arg(format!("unix://{}", self.socket.display()));
                fs::write(self.folder.join("daemon.json"), r#"{"prune": {"enabled": false}}"#)?;
            }
            Kind::Dockerd => {
                command.args(["dockerd", "--live-restore", "--data-root", "/data"]);
                command.args(["--host", "unix:///socket/docker.sock"]);
            }
        }
        let began = Instant::now();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon = self.daemon.insert(command.spawn().context("Could not run `nsenter` of util-linux")?);
        while began.elapsed() < PATIENCE {
            if let Some(status) = daemon.try_wait()? {
                bail!("{:?} ended ({status}), see `{}`", self.kind, self.folder.join("log").display());
            }
            if http(&self.socket, "GET", "/containers/json", "").is_ok_and(|status| status == 200) {
                return Ok(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{:?} does not answer, see `{}`", self.kind, self.folder.join("log").display())
    }

    /// Ends the daemon; containers run on.
    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        check(Command::new("kill").arg(daemon.id().to_string()))?;
        let began = Instant::now();
        while daemon.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                bail!("{:?} does not end", self.kind);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Of the socket, the data, the log, and the client's configuration.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program of this machine in the peer's network.
    pub(super) fn in_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--", program]);
        command
    }

    /// How often each thread of the daemon's own processes has gone to sleep of its own will.
    pub(super) fn sleeps(&self) -> Result<HashMap<PathBuf, u64>> {
        let daemon = self.daemon.as_ref().context("no daemon")?.id();
        let mut counts = HashMap::new();
        for id in self.processes()? {
            let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            if id != daemon && (!command.contains("containerd") || command.contains("containerd-shim")) {
                continue;
            }
            for thread in fs::read_dir(format!("/proc/{id}/task"))?.flatten() {
                let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                let count = line.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
                counts.insert(thread.path(), count);
            }
        }
        Ok(counts)
    }

    /// The stock client.
    pub(super) fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.docker);
        command.args(arguments).stdout(Stdio::null());
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", self.folder.join("config"));
        for variable in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_API_VERSION"] {
            command.env_remove(variable);
        }
        command
    }

    /// A request without a client between; anything but success is an error.
    pub(super) fn request(&self, method: &str, path: &str, body: &str) -> Result<()> {
        let status = http(&self.socket, method, path, body)?;
        if !(200..300).contains(&status) {
            bail!("{} answered {method} {path} with {status}", self.name());
        }
        Ok(())
    }

    /// The memory of the daemon's own processes, and of those that supervise containers, in bytes; shared pages count in
    /// parts. The last is the number of supervisors.
    pub(super) fn memory(&self) -> Result<(u64, u64, u64)> {
        let daemon = self.daemon.as_ref().context("no daemon")?.id();
        let (mut own, mut supervisors, mut count) = (0, 0, 0);
        for id in self.processes()? {
            let Some(bytes) = proportional(id) else { continue };
            let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            if command.starts_with("engine\0shim") || command.contains("containerd-shim") {
                supervisors += bytes;
                count += 1;
            } else if id == daemon || command.contains("containerd") {
                own += bytes;
            }
        }
        Ok((own, supervisors, count))
    }

    /// The processes in this peer's network: the daemon and what it has started, but not containers.
    fn processes(&self) -> Result<Vec<u32>> {
        let network = |id: u32| fs::metadata(format!("/proc/{id}/ns/net")).map(|file| file.ino());
        let ours = network(self.holder.id())?;
        let ids =
            fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(ids.filter(|id| network(*id).is_ok_and(|found| found == ours)).collect())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Ok(all) = self.docker(&["ps", "-aq"]).stdout(Stdio::piped()).output() {
            let all = String::from_utf8_lossy(&all.stdout).into_owned();
            let all: Vec<&str> = all.split_whitespace().collect();
            for some in all.chunks(200) {
                let _ = self.docker(&[&["rm", "-f"], some].concat()).stderr(Stdio::null()).status();
            }
        }
        let _ = self.stop();
        for id in self.processes().unwrap_or_default().into_iter().filter(|id| *id != self.holder.id()) {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_dir_all(self.folder.join("data"));
        if let Some(sockets) = self.socket.parent() {
            let _ = fs::remove_dir_all(sockets);
        }
    }
}

/// A process's share of memory, in bytes.
fn proportional(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Sends a request and reads the whole answer, of which only the status is of interest.
fn http(socket: &Path, method: &str, path: &str, body: &str) -> Result<u16> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("not an answer of HTTP")
}
