//! The process that supervises one container, or one other process in it. It lives as long as that process, so that
//! the daemon can come and go.
//!
//! It is this program again, started by the daemon with the name of a directory that holds its configuration. It has
//! one thread, because libcontainer makes processes without `exec`. The connection that it was born with is its
//! standard input; the claim to the container (see [`client::Claim`]) is its standard output. The one of a further process in
//! a container begins as a copy of the container's (see `branch.rs`).

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine_store::Durability;
use rustix::fs::{CWD, Mode, OFlags};

mod branch;
mod capabilities;
mod children;
pub mod client;
mod descriptor;
pub mod dialect;
mod executor;
#[cfg(test)]
mod fuzz;
mod init;
pub mod log;
mod logging;
mod mapped;
mod mounts;
pub mod outlet;
mod peer;
mod prepare;
pub mod protocol;
mod serve;
mod task;
mod terminal;
mod users;

pub use mapped::OWN_FILES;
use outlet::Outlet;
use peer::Peer;
use protocol::{ExecTask, ExitRecord, Reply, ShimConfig, Task};
use serve::Server;

/// Everything that can end this process early.
#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("There is no directory given")]
    NoDirectory,
    #[error("Could not read the configuration `{}`", path.display())]
    Configuration { path: PathBuf, source: io::Error },
    #[error("Could not become independent of the engine")]
    Detach { source: io::Error },
    #[error("This is no process that joins a container")]
    NoExec,
    #[error("Could not offer the socket")]
    Listen { source: io::Error },
    #[error("Could not watch the process")]
    Watch { source: io::Error },
    #[error("Could not record the exit in `{}`", path.display())]
    Record { path: PathBuf, source: io::Error },
}

/// The arguments are those after `shim`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    close_what_is_not_ours();
    abort_on_panic();
    let Some(directory) = arguments.first().map(PathBuf::from) else {
        return fail(&ShimError::NoDirectory);
    };
    if let Ok(file) = open_messages(&directory) {
        set_messages(file);
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_writer(|| Messages)
        .init();
    match run(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Where this process says what it could not say to anyone else. Not its standard error: what libcontainer makes of this
/// process says it as well, and there that is the container's.
static MESSAGES: Mutex<Option<File>> = Mutex::new(None);

fn set_messages(file: File) {
    let earlier = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).replace(file);
    // A copy of this process has closed it already: the number may be this one's.
    std::mem::forget(earlier);
}

pub(crate) fn open_messages(directory: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(directory.join(protocol::MESSAGES))
}

struct Messages;

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(file) => file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The hook that mounts what the runtime must not write in. The arguments are those after `late-mounts`.
pub fn late_mounts(arguments: &[OsString]) -> ExitCode {
    let Some(directory) = arguments.first().map(PathBuf::from) else {
        return ExitCode::FAILURE;
    };
    let Err(error) = mounts::mount_late(&directory) else { return ExitCode::SUCCESS };
    // The supervising process passes on what is written there.
    if let Ok(mut file) = OpenOptions::new().append(true).open(directory.join(protocol::MESSAGES)) {
        let _ = writeln!(file, "{error}");
    }
    ExitCode::FAILURE
}

/// Whoever started the daemon may have left files open that are nobody's business here, least of all the container's.
#[expect(unsafe_code, reason = "there is no safe form of close_range")]
fn close_what_is_not_ours() {
    // SAFETY: this is the first thing that the process does, so nothing of it has opened a descriptor yet.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}

/// A process that libcontainer has made as a copy of this one must never come back into what it was copied from, with locks
/// and files that are not its own; nor is a supervisor that has lost its way of any use.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |information| {
        report(information);
        std::process::abort();
    }));
}

fn fail(error: &ShimError) -> ExitCode {
    tracing::error!("{}", engine_model::chain(error));
    ExitCode::FAILURE
}

fn run(directory: &Path) -> Result<(), ShimError> {
    let (control, claim) = detach().map_err(|source| ShimError::Detach { source })?;
    let config = configuration(directory)?;
    let listener = listen(directory)?;
    let control = Peer::new(control).map_err(|source| ShimError::Listen { source })?;
    match &config.task {
        Task::Container(task) => container(directory, &config, task, listener, control, claim),
        Task::Exec(task) => exec(directory, &config, task, listener, control, None),
    }
}

/// The life of a copy of a container's supervising process, whose first process is this one.
fn branch(directory: &Path, control: UnixStream, container: OwnedFd, pid: i32) {
    let Ok(mut control) = Peer::new(control) else { return };
    let prepare = || {
        let config = configuration(directory)?;
        let Task::Exec(task) = &config.task else { return Err(ShimError::NoExec) };
        let task = ExecTask { init_pid: pid, ..*task.clone() };
        let become_another = || {
            branch::redirect_messages(open_messages(directory)?)?;
            become_independent()
        };
        become_another().map_err(|source| ShimError::Detach { source })?;
        Ok((task, config, listen(directory)?))
    };
    let outcome = match prepare() {
        Ok((task, config, listener)) => exec(directory, &config, &task, listener, control, Some(container)),
        Err(error) => {
            control.reply(&Reply::Failed { message: engine_model::chain(&error) });
            Err(error)
        }
    };
    if let Err(error) = outcome {
        tracing::error!("{}", engine_model::chain(&error));
    }
}

fn listen(directory: &Path) -> Result<UnixListener, ShimError> {
    // The path of a socket must be short, so it is bound by its name alone.
    let bind = || {
        std::env::set_current_dir(directory)?;
        UnixListener::bind(protocol::SOCKET)
    };
    bind().map_err(|source| ShimError::Listen { source })
}

fn container(
    directory: &Path,
    config: &ShimConfig,
    task: &protocol::ContainerTask,
    listener: UnixListener,
    mut control: Peer,
    claim: OwnedFd,
) -> Result<(), ShimError> {
    // A log server that cannot be reached is known before there is anything to undo.
    let outlet = match Outlet::begin(directory, config) {
        Ok(outlet) => outlet,
        Err(message) => {
            control.reply(&Reply::Failed { message });
            return Ok(());
        }
    };
    forget_environment();
    let (container, running) = match task::create(directory, config, task) {
        Ok(created) => created,
        Err(error) => {
            control.reply(&Reply::Failed { message: engine_model::chain(&error) });
            return Ok(());
        }
    };
    let created = Reply::Created { pid: running.pid };
    match running.handle() {
        Ok(handle) => control.hand_over(&created, handle.as_fd()),
        Err(_) => control.reply(&created),
    }
    let container = RefCell::new(container);
    let begin = || match container.borrow_mut().start() {
        Ok(()) => Ok(None),
        Err(error) => Err(engine_model::chain(&error)),
    };
    let outcome = (|| {
        let mut server = Server::new(config, listener, control, outlet, Box::new(begin))?;
        server.adopt(running)?;
        trim_memory();
        // The kernel takes its time for that.
        server.afterwards(Box::new(|| {
            if let Some(pins) = &task.pins
                && let Err(error) = engine_kernel::pin::drop_copies(pins)
            {
                tracing::error!(%error, "Could not let go of other containers' network namespaces");
            }
        }));
        let kill_rest = || {
            if task::may_leave_processes(config) {
                engine_kernel::cgroup::kill_all(&config.cgroup);
            }
        };
        let code = server.run(&kill_rest);
        if task::may_leave_processes(config) {
            server.collect();
        }
        io::Result::Ok((server, code))
    })();
    match outcome {
        Ok((mut server, code)) => {
            let out_of_memory = task::clean_up(&mut container.borrow_mut(), config);
            let Some(code) = code else { return Ok(()) };
            finish(config, &mut server, &serve::exit_record(code, out_of_memory), Some(claim))
        }
        Err(source) => {
            task::clean_up(&mut container.borrow_mut(), config);
            Err(ShimError::Watch { source })
        }
    }
}

fn exec(
    directory: &Path,
    config: &ShimConfig,
    task: &protocol::ExecTask,
    listener: UnixListener,
    mut control: Peer,
    container: Option<OwnedFd>,
) -> Result<(), ShimError> {
    control.reply(&Reply::Created { pid: 0 });
    let container = container.map(Arc::new);
    let begin = || {
        let result = task::exec(directory, config, task, container.clone());
        trim_memory();
        result.map(Some).map_err(|error| engine_model::chain(&error))
    };
    let mut server = Server::new(config, listener, control, None, Box::new(begin))
        .map_err(|source| ShimError::Watch { source })?;
    match server.run(&|| {}) {
        Some(code) => {
            server.collect();
            finish(config, &mut server, &serve::exit_record(code, false), None)
        }
        None => Ok(()),
    }
}

fn finish(
    config: &ShimConfig,
    server: &mut Server,
    exit: &ExitRecord,
    claim: Option<OwnedFd>,
) -> Result<(), ShimError> {
    // Known nowhere else, so not even a power cut may take it.
    let recorded = engine_store::write(&config.exit_file, exit, Durability::Durable);
    server.finish_file();
    // The container may be started again while clients read what is left of this run.
    drop(claim);
    server.farewell(exit);
    recorded.map_err(|source| ShimError::Record { path: config.exit_file.clone(), source })
}

/// Takes the connection from standard input and the claim from standard output, and leaves the daemon's session.
fn detach() -> io::Result<(UnixStream, OwnedFd)> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let claim = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    become_independent()?;
    rustix::thread::set_name(c"engine-shim")?;
    outlive_shutdown();
    Ok((UnixStream::from(control), claim))
}

fn become_independent() -> io::Result<()> {
    rustix::process::setsid()?;
    // What the process leaves behind comes here, not to whoever has started this one.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// When a host shuts down it asks every process to end. The container has to do so first, and this one records it;
/// a container that does not is killed after a while (see [`serve`]), so that it does not hold up the host.
#[expect(unsafe_code, reason = "the C library's call about signals")]
fn outlive_shutdown() {
    for signal in DEAF_TO {
        // SAFETY: ignoring is valid for these signals, and the process has one thread.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    let handler = note_shutdown as extern "C" fn(libc::c_int);
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
    unsafe {
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
    }
}

/// Whether the host has asked this process to end.
static HOST_ENDS: AtomicBool = AtomicBool::new(false);

extern "C" fn note_shutdown(_: libc::c_int) {
    HOST_ENDS.store(true, Ordering::Relaxed);
}

/// What the supervising process ignores; the container does not.
const DEAF_TO: [libc::c_int; 3] = [libc::SIGINT, libc::SIGHUP, libc::SIGPIPE];

fn configuration(directory: &Path) -> Result<ShimConfig, ShimError> {
    let path = directory.join(protocol::CONFIGURATION);
    let read = || Ok(serde_json::from_reader(io::BufReader::new(File::open(&path)?))?);
    read().map_err(|source| ShimError::Configuration { path: path.clone(), source })
}

/// What the log process was given of the daemon's variables, which may be secret, is nothing for the processes that are made as
/// copies of this one.
#[expect(unsafe_code, reason = "there is no safe way to where the variables are")]
fn forget_environment() {
    unsafe extern "C" {
        /// environ(7).
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: there is one thread. Each string of the environment is this process's own memory, which the kernel has put on its
    // stack, and is overwritten up to its terminator; nobody reads variables after that.
    unsafe {
        let mut place = environ;
        while !place.is_null() && !(*place).is_null() {
            libc::memset((*place).cast(), 0, libc::strlen(*place));
            place = place.add(1);
        }
        libc::clearenv();
    }
}

/// What was needed to make the container is not needed to watch it.
#[expect(unsafe_code, reason = "a call into the C library")]
fn trim_memory() {
    // SAFETY: the call has no arguments that could be wrong, and there is one thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    const INNER: &str = "ENGINE_SHIM_TEST_PANICS";

    /// In a process of its own, which it ends.
    #[test]
    fn nothing_survives_a_panic() {
        if std::env::var_os(INNER).is_some() {
            abort_on_panic();
            let _ = std::panic::catch_unwind(|| panic!("as hostile input would bring it about"));
            // Only who came back gets here.
            return;
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--test-threads=1", "tests::nothing_survives_a_panic"])
            .env(INNER, "yes")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    }
}
