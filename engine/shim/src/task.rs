//! The process under supervision: made, begun and cleaned up through libcontainer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::cgroup;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::{CWD, Mode, OFlags, Uid};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags};

use super::executor::{MARK, Program};
use super::prepare;
use super::protocol::{self, ContainerTask, ExecTask, ShimConfig, Task};

/// Where libcontainer hands over the terminal.
const CONSOLE: &str = "console.sock";

/// What libcontainer adds to its own error if it could not remove everything at once.
const CLEANUP: &str = ". error during cleanup: ";

/// What is left to do before or after the process runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub pid: i32,
    pub streams: Streams,
}

/// This side of the process's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    pub stdin: Option<OwnedFd>,
    /// Both streams of a terminal.
    pub terminal: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Running {
    /// A pidfd of it, as long as it is not collected.
    pub(crate) fn handle(&self) -> io::Result<OwnedFd> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Prepare(#[from] prepare::PrepareError),
    #[error("Could not learn how the container was made")]
    State { source: io::Error },
    #[error("Could not set up the streams")]
    Streams { source: io::Error },
    #[error("Could not set up the terminal")]
    Terminal { source: io::Error },
    #[error("Could not apply the device rules")]
    Devices { source: io::Error },
    #[error("Could not set the shares of block devices")]
    BlockWeights { source: io::Error },
    #[error("Could not give the container its control group")]
    Cgroup { source: io::Error },
    #[error("The configuration is not understood")]
    Configuration { source: serde_json::Error },
}

/// The other side, given to the process.
struct Given {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Makes the container; its first process waits to be started.
pub(crate) fn create(
    directory: &Path,
    config: &ShimConfig,
    task: &ContainerTask,
) -> Result<(Container, Running), TaskError> {
    let prepare::Prepared { owner, capabilities, namespaces } = prepare::container(directory, config, task)?;
    let console = Console::new(directory, config)?;
    let (streams, given) = streams(config, owner)?;
    let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(Program {
            init: task.init,
            container: None,
            joining: None,
            seccomp: config.seccomp.clone(),
            capabilities,
            console_size: console_size(config),
        })
        .with_root_path(directory.join(protocol::STATE))
        .map_err(|error| refused(&error, directory))?
        .with_console_socket(console.as_ref().map(|console| console.path.clone()));
    if let Some(given) = given {
        builder = builder.with_stdin(given.stdin).with_stdout(given.stdout).with_stderr(given.stderr);
    }
    let mut container = builder
        .as_init(directory)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| refused(&error, directory))?;
    drop(namespaces);
    let pid = match container.pid() {
        Some(pid) => pid.as_raw(),
        None => 0,
    };
    let finished = cgroup::apply_devices(&config.cgroup, &task.devices)
        .map_err(|source| TaskError::Devices { source })
        .and_then(|()| {
            cgroup::weights::apply(&config.cgroup, &task.block_weights)
                .map_err(|source| TaskError::BlockWeights { source })
        })
        .and_then(|()| give_cgroup(config, task).map_err(|source| TaskError::Cgroup { source }))
        .and_then(|()| with_console(streams, console, owner));
    match finished {
        Ok(streams) => Ok((container, Running { pid, streams })),
        Err(error) => {
            clean_up(&mut container, config);
            Err(error)
        }
    }
}

/// A container with users of its own could not write where the host's root owns all.
fn give_cgroup(config: &ShimConfig, task: &ContainerTask) -> io::Result<()> {
    let Some(owners) = task.owners.as_ref().filter(|_| task.writable_cgroups && cgroup::is_unified()) else {
        return Ok(());
    };
    let (user, group) = owners.ids.root();
    cgroup::give(&config.cgroup, user, group)
}

/// Runs another process in a container, unless its first process, where that is held, has ended: the number may be another's.
pub(crate) fn exec(
    directory: &Path,
    config: &ShimConfig,
    task: &ExecTask,
    container: Option<Arc<OwnedFd>>,
) -> Result<Running, TaskError> {
    let console = Console::new(directory, config)?;
    let mut process = task.process.clone();
    let prepare::Joined { owner, capabilities, joining } =
        prepare::exec(config, &mut process, task.init_pid)?;
    let (streams, given) = streams(config, owner)?;
    let understood = |source| TaskError::Configuration { source };
    let program = Program {
        init: false,
        container,
        joining: joining.map(Arc::new),
        seccomp: config.seccomp.clone(),
        capabilities,
        console_size: console_size(config),
    };
    let path = directory.join("process.json");
    let content = serde_json::to_vec(&process).map_err(understood)?;
    std::fs::write(&path, content).map_err(|source| TaskError::Streams { source })?;
    copy_state(&task.container_directory, directory, &config.id)
        .map_err(|source| TaskError::State { source })?;
    let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(program)
        .with_root_path(directory.join(protocol::STATE))
        .map_err(|error| refused(&error, directory))?
        .with_console_socket(console.as_ref().map(|console| console.path.clone()));
    if let Some(given) = given {
        builder = builder.with_stdin(given.stdin).with_stdout(given.stdout).with_stderr(given.stderr);
    }
    let pid = builder
        .as_tenant()
        .with_process(Some(path))
        .with_detach(true)
        .build()
        .map_err(|error| refused(&error, directory))?
        .as_raw();
    let streams = with_console(streams, console, owner)?;
    Ok(Running { pid, streams })
}

/// What libcontainer has to know of a container to have a process join it, in the directory of that process: what it makes there
/// besides, and leaves behind, goes with the process.
fn copy_state(from: &Path, to: &Path, container: &str) -> io::Result<()> {
    let (from, to) = (from.join(protocol::STATE).join(container), to.join(protocol::STATE).join(container));
    std::fs::create_dir_all(&to)?;
    for file in ["state.json", "youki_config.json"] {
        std::fs::copy(from.join(file), to.join(file))?;
    }
    Ok(())
}

/// Removes what libcontainer made, the cgroup with everything in it included; says whether memory ran out in it.
pub(crate) fn clean_up(container: &mut Container, config: &ShimConfig) -> bool {
    let out_of_memory = cgroup::ran_out_of_memory(&config.cgroup);
    if matches!(&config.task, Task::Container(task) if task.writable_cgroups) {
        cgroup::remove_divisions(&config.cgroup);
    }
    if let Err(error) = container.delete(true) {
        tracing::error!(%error, "Could not delete the container");
        cgroup::remove(&config.cgroup);
    }
    out_of_memory
}

/// Whether other processes of the container may still be alive when its first one is gone.
pub(crate) fn may_leave_processes(config: &ShimConfig) -> bool {
    matches!(&config.task, Task::Container(task) if task.shares_pid_namespace)
}

/// libcontainer tells in words what went wrong; our own words are inside when they come from [`Program`].
fn refused(error: &libcontainer::error::LibcontainerError, directory: &Path) -> TaskError {
    let text = engine_model::chain(error);
    if let Some(start) = text.find(MARK) {
        let own = &text[start..];
        // A cgroup that is still busy then goes when the supervising process does.
        let own = own.split_once(CLEANUP).map_or(own, |(own, _)| own);
        return TaskError::Refused(own.trim_end_matches('\0').to_owned());
    }
    // It logs more than it returns.
    let messages = std::fs::read_to_string(directory.join(protocol::MESSAGES)).unwrap_or_default();
    let details: Vec<&str> = messages.lines().take(3).collect();
    TaskError::Refused(if details.is_empty() { text } else { format!("{text} ({})", details.join("; ")) })
}

/// `owner` is the user of the process, as the host calls it.
fn streams(config: &ShimConfig, owner: u32) -> Result<(Streams, Option<Given>), TaskError> {
    if config.terminal {
        return Ok((Streams { stdin: None, terminal: None, stdout: None, stderr: None }, None));
    }
    let failed = |source: rustix::io::Errno| TaskError::Streams { source: source.into() };
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed);
    let (stdout, given_stdout) = pipe()?;
    let (stderr, given_stderr) = pipe()?;
    let (given_stdin, stdin) = if config.open_stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        (null.map_err(failed)?, None)
    };
    // A program opens them anew by `/dev/stdout` and so on.
    for given in [&given_stdin, &given_stdout, &given_stderr].into_iter().skip(usize::from(stdin.is_none())) {
        rustix::fs::fchown(given, Some(Uid::from_raw(owner)), None).map_err(failed)?;
    }
    for own in stdin.iter().chain([&stdout, &stderr]) {
        rustix::io::ioctl_fionbio(own, true).map_err(failed)?;
    }
    let given = Given { stdin: given_stdin, stdout: given_stdout, stderr: given_stderr };
    Ok((Streams { stdin, terminal: None, stdout: Some(stdout), stderr: Some(stderr) }, Some(given)))
}

fn with_console(mut streams: Streams, console: Option<Console>, owner: u32) -> Result<Streams, TaskError> {
    if let Some(console) = console {
        let terminal = console.receive().map_err(|source| TaskError::Terminal { source })?;
        rustix::io::ioctl_fionbio(&terminal, true)
            .map_err(|error| TaskError::Terminal { source: error.into() })?;
        let failed = |error: rustix::io::Errno| TaskError::Terminal { source: error.into() };
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let inner = rustix::pty::ioctl_tiocgptpeer(&terminal, flags | rustix::pty::OpenptFlags::CLOEXEC);
        rustix::fs::fchown(inner.map_err(failed)?, Some(Uid::from_raw(owner)), None).map_err(failed)?;
        streams.terminal = Some(terminal);
    }
    Ok(streams)
}

/// The size that the terminal has from the beginning, where there is a terminal.
fn console_size(config: &ShimConfig) -> Option<(u16, u16)> {
    config.console_size.filter(|_| config.terminal)
}

/// The socket on which libcontainer gives the terminal's master side.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    /// The process's working directory must be `directory`: the path of a socket has to be short.
    fn new(directory: &Path, config: &ShimConfig) -> Result<Option<Self>, TaskError> {
        if !config.terminal {
            return Ok(None);
        }
        let bind = || {
            std::env::set_current_dir(directory)?;
            UnixListener::bind(CONSOLE)
        };
        let listener = bind().map_err(|source| TaskError::Terminal { source })?;
        Ok(Some(Self { path: directory.join(CONSOLE), listener }))
    }

    fn receive(self) -> io::Result<OwnedFd> {
        let (socket, _) = self.listener.accept()?;
        let _ = std::fs::remove_file(&self.path);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        let mut parts = [io::IoSliceMut::new(&mut name)];
        rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                && let Some(terminal) = descriptors.next()
            {
                return Ok(terminal);
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no terminal was handed over"))
    }
}
