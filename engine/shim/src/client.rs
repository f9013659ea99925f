//! The daemon's side of a supervising process: to begin one, to find it again, to ask it for things.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use engine_kernel::process::Process;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use crate::descriptor;
use crate::dialect::Dialect;
use crate::protocol::{self, LINE_LIMIT, Reply, Request, ShimConfig};

/// Making a container takes a fraction of a second; copying an image's content into a volume takes longer.
const CREATION: Duration = Duration::from_mins(10);
/// Everything else is answered at once.
const ANSWER: Duration = Duration::from_secs(30);
/// A new daemon does not wait longer for one that is stuck.
const GREETING: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("Could not prepare `{}`", path.display())]
    Prepare { path: PathBuf, source: io::Error },
    #[error("An earlier run of the container does not come to its end")]
    Busy,
    #[error("Could not start the supervising process")]
    Spawn { source: io::Error },
    #[error("Could not reach the supervising process")]
    Connect { source: io::Error },
    #[error("The supervising process is gone")]
    Gone,
    #[error("The supervising process does not answer")]
    Silent,
    #[error("Could not get hold of process {number} of the container")]
    Process { number: i32, source: io::Error },
    #[error("The supervising process (protocol {version}) does not know the request `{request}`")]
    Unknown { request: &'static str, version: u32 },
    #[error("The supervising process has answered something that this engine does not understand: `{reply}`")]
    Strange { reply: String },
    #[error("{0}")]
    Refused(String),
}

impl ShimError {
    /// Whether there is nobody at the socket, or no socket, rather than something that keeps one from getting there.
    pub fn is_absence(&self) -> bool {
        let kinds = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        matches!(self, Self::Connect { source } if kinds.contains(&source.kind()))
    }
}

/// A connection that carries one line a time.
#[derive(Debug)]
pub struct Connection(BufReader<UnixStream>);

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Whether whoever listens there runs the file that this process runs.
    fn is_to_own_program(&self) -> bool {
        let identity = |process: &str| {
            let metadata = fs::metadata(format!("/proc/{process}/exe")).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let listener = self.0.get_ref().peer_cred().ok().and_then(|told| told.pid());
        let theirs = listener.and_then(|listener| identity(&listener.to_string()));
        theirs.is_some() && theirs == identity("self")
    }

    pub async fn send(&mut self, request: &Request) -> Result<(), ShimError> {
        let mut line =
            serde_json::to_vec(request).map_err(|error| ShimError::Connect { source: error.into() })?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line).await.map_err(|_| ShimError::Gone)
    }

    pub async fn reply(&mut self) -> Result<Reply, ShimError> {
        let mut line = Vec::new();
        let limit = LINE_LIMIT as u64;
        let count =
            (&mut self.0).take(limit).read_until(b'\n', &mut line).await.map_err(|_| ShimError::Gone)?;
        if count == 0 {
            return Err(ShimError::Gone);
        }
        understand(&line)
    }

    /// The first reply on a connection, and a descriptor if one came with it.
    async fn first_reply(&mut self) -> Result<(Reply, Option<OwnedFd>), ShimError> {
        let stream = self.0.get_ref();
        let (mut line, mut found) = (Vec::new(), None);
        while !line.ends_with(b"\n") {
            stream.readable().await.map_err(|_| ShimError::Gone)?;
            let received = || descriptor::receive(stream, &mut line, &mut found);
            match stream.try_io(Interest::READABLE, received) {
                Ok(count) if count == 0 || line.len() > LINE_LIMIT => return Err(ShimError::Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(ShimError::Gone),
            }
        }
        Ok((understand(&line)?, found))
    }

    pub async fn ask(&mut self, request: &Request) -> Result<Reply, ShimError> {
        self.send(request).await?;
        match tokio::time::timeout(ANSWER, self.reply()).await {
            Ok(Ok(Reply::Failed { message })) => Err(ShimError::Refused(message)),
            Ok(reply) => reply,
            Err(_) => Err(ShimError::Silent),
        }
    }

    /// Says that nothing more will be asked.
    pub async fn close(&mut self) {
        let _ = self.0.get_mut().shutdown().await;
    }

    /// The bare stream, once the other side has changed to one. What it has sent already comes first.
    pub fn into_stream(self) -> BufReader<UnixStream> {
        self.0
    }
}

fn understand(line: &[u8]) -> Result<Reply, ShimError> {
    serde_json::from_slice(line).map_err(|_| ShimError::Strange {
        reply: protocol::name(line).unwrap_or_else(|| "a line that is no reply".to_owned()),
    })
}

/// Where a supervising process is, and what it speaks.
#[derive(Clone, Debug)]
pub struct Shim {
    directory: PathBuf,
    dialect: Arc<Dialect>,
}

impl Shim {
    pub fn at(directory: PathBuf, dialect: Arc<Dialect>) -> Self {
        Self { directory, dialect }
    }

    /// Asks what it speaks, and for the process that it supervises. One that knows no hello closes the connection, and is
    /// still there.
    pub async fn hello(&self) -> Result<(Dialect, Option<Process>), ShimError> {
        let mut connection = self.connect().await?;
        let greeting = Request::Hello { version: protocol::VERSION };
        let is_own_program = connection.is_to_own_program();
        let answer = match connection.send(&greeting).await {
            Ok(()) => tokio::time::timeout(GREETING, connection.first_reply())
                .await
                .unwrap_or(Err(ShimError::Silent)),
            Err(error) => Err(error),
        };
        match answer {
            Ok((Reply::Hello { version, requests }, handle)) => {
                let process = handle.and_then(|handle| Process::of(handle).ok());
                Ok((Dialect::of(version, requests, is_own_program), process))
            }
            Err(ShimError::Gone) => self.connect().await.map(|_| (Dialect::first(), None)),
            Err(error) => Err(error),
            Ok(_) => Err(ShimError::Strange { reply: "no hello".to_owned() }),
        }
    }

    /// The process with this number, if it is a child of the supervising process: of one that hands none over.
    pub async fn child(&self, number: i32) -> Result<Process, ShimError> {
        let failed = |source| ShimError::Process { number, source };
        let connection = self.connect().await?;
        let told = connection.0.get_ref().peer_cred().map_err(failed)?;
        let parent = told.pid().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Process::child(number, parent).map_err(failed)
    }

    pub async fn connect(&self) -> Result<Connection, ShimError> {
        let failed = |source| ShimError::Connect { source };
        // By way of an open directory the path of the socket is short, however long the directory's is.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &self.directory, flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), protocol::SOCKET);
        Ok(Connection::new(UnixStream::connect(path).await.map_err(failed)?))
    }

    /// Asks it, unless it would not know what is meant.
    async fn say(&self, request: &Request) -> Result<(Connection, Reply), ShimError> {
        if !self.dialect.knows(request) {
            let (request, version) = (request.name(), self.dialect.version());
            return Err(ShimError::Unknown { request, version });
        }
        let mut connection = self.connect().await?;
        let reply = connection.ask(request).await?;
        Ok((connection, reply))
    }

    pub async fn ask(&self, request: &Request) -> Result<Reply, ShimError> {
        Ok(self.say(request).await?.1)
    }

    /// Begins a supervising process for a further process of the container, and waits until that one can be told to start; the
    /// supervising process ends by itself if the connection is dropped before. The container's own, if it is this program, makes
    /// a copy of itself; else this program is begun anew.
    pub async fn exec(&self, directory: &Path, config: &ShimConfig) -> Result<Connection, ShimError> {
        if !self.dialect.is_own_program() {
            return Ok(spawn(directory, config, None).await?.0);
        }
        configure(directory, config)?;
        let mut connection = self.connect().await?;
        connection.send(&Request::Exec { directory: directory.to_owned() }).await?;
        match tokio::time::timeout(ANSWER, connection.reply()).await.map_err(|_| ShimError::Silent)?? {
            Reply::Created { .. } => Ok(connection),
            Reply::Failed { message } => Err(ShimError::Refused(message)),
            _ => Err(ShimError::Gone),
        }
    }

    /// A stream of the process's output, and for its input.
    pub async fn attach(
        &self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<BufReader<UnixStream>, ShimError> {
        let (connection, _) = self.say(&Request::Attach { stdin, stdout, stderr }).await?;
        Ok(connection.into_stream())
    }

    /// A stream of one byte each time the log has grown.
    pub async fn follow(&self) -> Result<BufReader<UnixStream>, ShimError> {
        let (connection, _) = self.say(&Request::Follow).await?;
        Ok(connection.into_stream())
    }
}

/// The right to be the one run of a container. The supervising process inherits it, so it is free again when nothing is
/// left of that process, and never before: not even if the daemon dies while the process is just coming up.
#[derive(Debug)]
pub struct Claim(File);

/// Waits until nothing is left of an earlier run of a container, and claims the next one: a daemon that was killed may
/// have left a supervising process behind that is just coming up or clearing up. `container` is its directory.
pub fn claim(container: &Path) -> Result<Claim, ShimError> {
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(false).write(true).mode(0o600).open(container.join(protocol::LOCK));
    claim_file(container, file)
}

/// As [`claim`], for a container that is to go; answers `None` if it has never been claimed. Writes nothing.
pub fn claim_last(container: &Path) -> Result<Option<Claim>, ShimError> {
    match OpenOptions::new().write(true).open(container.join(protocol::LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => claim_file(container, file).map(Some),
    }
}

fn claim_file(container: &Path, file: io::Result<File>) -> Result<Claim, ShimError> {
    let failed = |source| ShimError::Prepare { path: container.to_owned(), source };
    let file = file.map_err(failed)?;
    let end = Instant::now() + ANSWER;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Claim(file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if Instant::now() > end => return Err(ShimError::Busy),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The first process of a container whose supervising process has this directory, as libcontainer wrote it down.
pub fn process(directory: &Path, container: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct State {
        pid: Option<i32>,
    }
    let path = directory.join(protocol::STATE).join(container).join("state.json");
    engine_store::read::<State>(&path).ok()??.pid
}

/// Makes an empty directory for a supervising process. A group that is named can pass through it.
pub fn prepare(directory: &Path, group: Option<u32>) -> Result<(), ShimError> {
    let failed = |source| ShimError::Prepare { path: directory.to_owned(), source };
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for inner in [protocol::STATE, protocol::ROOTFS] {
        builder.create(directory.join(inner)).map_err(failed)?;
    }
    if group.is_some() {
        let open = || {
            chown(directory, None, group)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o710))
        };
        open().map_err(failed)?;
    }
    Ok(())
}

/// Begins a supervising process and waits until what it supervises is made. The process ends by itself if the
/// connection is dropped before it was told to start. One for a container's first process takes a claim, and is answered
/// with that process.
pub async fn spawn(
    directory: &Path,
    config: &ShimConfig,
    claim: Option<Claim>,
) -> Result<(Connection, Option<Made>), ShimError> {
    let (ours, child) = begin(directory, config, claim)?;
    tokio::spawn(reap(child));
    let mut connection = Connection::new(ours);
    let reply =
        tokio::time::timeout(CREATION, connection.first_reply()).await.map_err(|_| ShimError::Silent)??;
    match reply {
        (Reply::Created { pid: number }, handle) => {
            let process = handle.map(Process::of).transpose();
            let process = process.map_err(|source| ShimError::Process { number, source })?;
            Ok((connection, process.map(|process| Made { number, process })))
        }
        (Reply::Failed { message }, _) => Err(ShimError::Refused(message)),
        _ => Err(ShimError::Gone),
    }
}

/// The first process of a container.
#[derive(Debug)]
pub struct Made {
    pub number: i32,
    pub process: Process,
}

async fn reap(mut child: tokio::process::Child) {
    match child.wait().await {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::error!(%status, "A supervising process failed"),
        Err(error) => tracing::error!(%error, "Could not wait for a supervising process"),
    }
}

/// This program, by way of a mount of its own that nobody can write through and nobody can find.
///
/// For a moment a process inside the container runs this program, and by `/proc/PID/exe` a container that has enough
/// rights could reach the file and write to it later.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match read_only_view() {
        Ok(view) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd()));
            // Open for as long as this process lives.
            std::mem::forget(view);
            path
        }
        Err(error) => {
            tracing::warn!(%error, "Containers are made by this program's file itself, which they might write to");
            PathBuf::from("/proc/self/exe")
        }
    })
}

#[expect(unsafe_code, reason = "there is no safe form of mount_setattr yet")]
fn read_only_view() -> io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = rustix::mount::open_tree(CWD, "/proc/self/exe", flags)?;
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the pointers are valid for the call, and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(view) } else { Err(io::Error::last_os_error()) }
}

fn configure(directory: &Path, config: &ShimConfig) -> Result<(), ShimError> {
    let write = || fs::write(directory.join(protocol::CONFIGURATION), serde_json::to_vec(config)?);
    write().map_err(|source| ShimError::Prepare { path: directory.to_owned(), source })
}

fn begin(
    directory: &Path,
    config: &ShimConfig,
    claim: Option<Claim>,
) -> Result<(UnixStream, tokio::process::Child), ShimError> {
    configure(directory, config)?;
    let messages = crate::open_messages(directory)
        .map_err(|source| ShimError::Prepare { path: directory.to_owned(), source })?;
    let spawning = |source| ShimError::Spawn { source };
    let (ours, theirs) = BlockingStream::pair().map_err(spawning)?;
    ours.set_nonblocking(true).map_err(spawning)?;
    let child = tokio::process::Command::new(program())
        .arg0("engine")
        .arg("shim")
        .arg(directory)
        .env_clear()
        .envs(environment(config))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(claim.map_or_else(Stdio::null, |claim| Stdio::from(claim.0)))
        .stderr(Stdio::from(messages))
        .spawn()
        .map_err(spawning)?;
    Ok((UnixStream::from_std(ours).map_err(spawning)?, child))
}

/// What the log process needs of this process's environment, by way of the supervising process.
fn environment(config: &ShimConfig) -> Vec<(String, OsString)> {
    let names = config.log_process.iter().flat_map(|process| &process.environment);
    names.filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect()
}
