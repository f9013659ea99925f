//! The last steps inside the container: find the program, and become it.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::seccomp::Filter;
use libcontainer::oci_spec::runtime::{LinuxCapabilities, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::init;
use super::mapped::Joining;

/// Runs the program of the OCI configuration, with docker's words for what can go wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// Loaded last, as everything before it may take more than it lets through.
    pub seccomp: Option<Filter>,
    /// What remains once the filter is loaded; loading it needs more.
    pub capabilities: Option<LinuxCapabilities>,
    /// The first process of the container that this one joins, where it is held.
    pub container: Option<Arc<OwnedFd>>,
    /// What it takes to get among the container's users, which is not done yet.
    pub joining: Option<Arc<Joining>>,
    /// Whether this process stays, to look after the program.
    pub init: bool,
    /// Rows and columns of its terminal, known before the program first looks.
    pub console_size: Option<(u16, u16)>,
}

/// The prefix of every message from here, by which the caller finds it within libcontainer's own.
pub(crate) const MARK: &str = "exec: ";

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        if let Some(joining) = &self.joining {
            joining.join().map_err(|error| {
                let message = format!("{MARK}could not become one of the container's users: {error}");
                ExecutorValidationError::ArgValidationError(message)
            })?;
        }
        // The container does not outlive the process that watches over it, which is waiting for this one just now.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        // What has been joined by its number was the container, if it is there still.
        if self.container.as_ref().is_some_and(|container| has_ended(container)) {
            let message = format!("{MARK}the container has ended");
            return Err(ExecutorValidationError::ArgValidationError(message));
        }
        let arguments =
            spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default();
        let name = arguments.first().map(String::as_str).unwrap_or_default();
        match find(name, search_path(spec)) {
            Ok(_) => Ok(()),
            Err(message) => Err(ExecutorValidationError::ArgValidationError(message)),
        }
    }

    /// The environment goes directly to the program, in its own order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Some(process) = spec.process() else { return Err(ExecutorError::InvalidArg) };
        let arguments = process.args().as_deref().unwrap_or_default();
        let name = arguments.first().map(String::as_str).unwrap_or_default();
        let path = find(name, search_path(spec)).map_err(ExecutorError::Other)?;
        if let Some((rows, columns)) = self.console_size {
            let sized = super::terminal::resize(rustix::stdio::stdin(), rows, columns);
            sized.map_err(|error| {
                ExecutorError::Other(format!("{MARK}could not size the terminal: {error}"))
            })?;
        }
        self.confine().map_err(ExecutorError::Other)?;
        listen_again();
        let environment = process.env().as_deref().unwrap_or_default();
        let run = || {
            let error = become_program(&path, arguments, environment);
            // This is the container's own standard error.
            let message = format!("exec {}: {}\n", path.display(), plain(&error));
            let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
            NOT_EXECUTABLE
        };
        let code = if self.init { init::tend(run).unwrap_or(NOT_EXECUTABLE) } else { run() };
        init::end(code)
    }
}

/// What docker's runtime ends with when the kernel refuses a program that looked right.
const NOT_EXECUTABLE: i32 = 255;

impl Program {
    fn confine(&self) -> Result<(), String> {
        if let Some(seccomp) = &self.seccomp {
            seccomp.load().map_err(|error| format!("{MARK}could not load the seccomp filter: {error}"))?;
        }
        if let Some(capabilities) = &self.capabilities {
            let syscall = libcontainer::syscall::syscall::create_syscall();
            libcontainer::capabilities::drop_privileges(capabilities, syscall.as_ref())
                .map_err(|error| format!("{MARK}could not drop capabilities: {error}"))?;
        }
        Ok(())
    }
}

/// Whether the process of this pidfd has ended.
fn has_ended(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    !matches!(rustix::event::poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

fn search_path(spec: &Spec) -> &str {
    let environment =
        spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default()
}

fn find(name: &str, search_path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("{MARK}{name:?}: stat {name}: no such file or directory"))
            }
            Err(error) => Err(format!("{MARK}{name:?}: {}", plain(&error))),
        };
    }
    let mut refused = None;
    for folder in search_path.split(':').filter(|_| !name.is_empty()) {
        let path = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = Some(error),
            Err(_) => {}
        }
    }
    match refused {
        Some(error) => Err(format!("{MARK}{name:?}: {}", plain(&error))),
        None => Err(format!("{MARK}{name:?}: executable file not found in $PATH")),
    }
}

fn check(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS)?;
    Ok(())
}

/// The C library's words without Rust's `(os error 2)`.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}

/// What the supervising process ignores, or whoever started the engine, would otherwise be ignored in the container,
/// too.
#[expect(unsafe_code, reason = "the C library's call about signals")]
fn listen_again() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the process has one thread; the default action is valid for all signals, and where it cannot be
        // changed nothing happens.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

#[expect(unsafe_code, reason = "execve has no safe form here")]
fn become_program(path: &Path, arguments: &[String], environment: &[String]) -> io::Error {
    let strings = |texts: &[String]| -> Vec<CString> {
        texts.iter().filter_map(|text| CString::new(text.as_bytes()).ok()).collect()
    };
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let (arguments, environment) = (strings(arguments), strings(environment));
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argument_pointers, environment_pointers) = (pointers(&arguments), pointers(&environment));
    // SAFETY: the pointer lists end with null, and what they point to lives until the call replaces the process or
    // fails.
    unsafe {
        libc::execve(path.as_ptr(), argument_pointers.as_ptr(), environment_pointers.as_ptr());
    }
    io::Error::last_os_error()
}
