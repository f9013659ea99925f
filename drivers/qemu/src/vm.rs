//! The VM as a process: starting it, asking it, ending it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use machine_driver::{DriverError, HostId, Progress, State};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    address::Place,
    command::{CONSOLE, LOG, MONITOR, PID_FILE, PORTS, PORTS_MONITOR, PREVIOUS_CONSOLE},
    ports::{PORT_FORWARDER_WORD, READY},
    process::{Marker, Process},
    qmp::{Qmp, QmpError},
};

/// QEMU is there within a second; a machine that is very busy gets more.
const LAUNCH: Duration = Duration::from_mins(1);
const FORWARDER: Duration = Duration::from_secs(15);
const MONITOR_LIMIT: Duration = Duration::from_secs(3);
/// What an orderly shutdown may take.
const SHUTDOWN: Duration = Duration::from_mins(2);
/// A guest that is still booting does not see the button being pressed.
const PRESS_AGAIN: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn marker(folder: &Path, id: &HostId) -> Marker {
    Marker::new(["-uuid".into(), id.to_string()], folder)
}

pub(crate) fn forwarder_marker(folder: &Path, id: &HostId) -> Marker {
    Marker::new([PORT_FORWARDER_WORD.into(), id.to_string()], folder)
}

/// Work that blocks, away from the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(DriverError::failed("The work was interrupted").with_source(error)))
}

/// The VM's process, by what is recorded or by the file that QEMU itself writes.
pub(crate) fn find(folder: &Path, recorded: Option<Process>, id: &HostId) -> Option<Process> {
    let marker = marker(folder, id);
    recorded.filter(|process| process.is_alive(&marker)).or_else(|| {
        let pid = fs::read_to_string(folder.join(PID_FILE)).ok()?;
        Process::with_pid(pid.trim().parse().ok()?, &marker)
    })
}

/// Like [`find`], and also finds one that was being started when its caller was killed.
pub(crate) async fn find_or_wait(
    folder: &Path,
    recorded: Option<Process>,
    id: &HostId,
) -> Result<Option<Process>, DriverError> {
    let marker = marker(folder, id);
    let deadline = Instant::now() + LAUNCH;
    loop {
        if let Some(process) = find(folder, recorded, id) {
            return Ok(Some(process));
        }
        if Process::all(&marker).is_empty() {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return kill_everything(marker).await.map(|()| None);
        }
        sleep(POLL).await;
    }
}

pub(crate) async fn kill_everything(marker: Marker) -> Result<(), DriverError> {
    blocking(move || {
        Process::kill_all(&marker)
            .map_err(|error| DriverError::failed("Could not kill the VM's process").with_source(error))
    })
    .await
}

/// Runs QEMU in a session of its own, and returns when the VM runs.
pub(crate) async fn launch(
    binary: &Path,
    arguments: &[String],
    folder: &Path,
    id: &HostId,
) -> Result<Process, LaunchError> {
    clear_runtime_files(folder).map_err(|source| LaunchError::Prepare { source })?;
    match fs::rename(folder.join(CONSOLE), folder.join(PREVIOUS_CONSOLE)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(LaunchError::Prepare { source });
        }
        _ => {}
    }
    // A file, not a pipe: QEMU stays when its caller ends. What it has to say is appended, so that it can be cut.
    let log = remove_if_there(&folder.join(LOG))
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(folder.join(LOG)))
        .map_err(|source| LaunchError::Prepare { source })?;
    let failed = |reason: String| LaunchError::Run { program: binary.to_owned(), reason };
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log));
    leave_session(&mut command);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + LAUNCH;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(failed(complaint(folder, &status.to_string())));
        }
        if answers(folder).await
            && let Some(process) = find(folder, None, id)
        {
            return Ok(process);
        }
        if Instant::now() > deadline {
            let _ = child.start_kill();
            return Err(failed(complaint(
                folder,
                &format!("The VM does not run after {} s", LAUNCH.as_secs()),
            )));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Why a VM could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("Could not make room for a new run of the VM")]
    Prepare { source: io::Error },
    #[error("`{}` does not run the VM: {reason}", program.display())]
    Run { program: PathBuf, reason: String },
}

/// Neither Ctrl-C nor the end of the caller's terminal is meant for what the command runs.
#[expect(unsafe_code, reason = "there is no safe way to a session of its own without a program in between")]
fn leave_session(command: &mut Command) {
    // SAFETY: the closure runs in the child after fork and makes one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
}

/// Whether the VM's monitor talks, which it does once everything is set up.
async fn answers(folder: &Path) -> bool {
    let folder = folder.to_owned();
    spawn_blocking(move || Qmp::open(&folder, MONITOR, MONITOR_LIMIT).is_ok()).await.unwrap_or(false)
}

/// What QEMU said, or else what is known.
fn complaint(folder: &Path, otherwise: &str) -> String {
    let text = fs::read(folder.join(LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(4096)]).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.last() {
        None => otherwise.to_owned(),
        Some(last) => last.chars().filter(|c| !c.is_control()).collect(),
    }
}

/// Sockets and the process number of a VM that does not run.
pub(crate) fn clear_runtime_files(folder: &Path) -> io::Result<()> {
    for file in [MONITOR, PORTS_MONITOR, PORTS, PID_FILE] {
        remove_if_there(&folder.join(file))?;
    }
    Ok(())
}

pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Starts the port forwarder.
pub(crate) async fn launch_forwarder(
    helper: &Path,
    folder: &Path,
    place: Place,
    id: &HostId,
) -> Result<Process, DriverError> {
    let failed = || DriverError::failed(format!("Could not start the port forwarder `{}`", helper.display()));
    let mut command = Command::new(helper);
    command
        .arg(PORT_FORWARDER_WORD)
        .args([id.to_string(), place.address.to_string(), place.ssh_port.to_string()])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    leave_session(&mut command);
    let mut child = command.spawn().map_err(|error| failed().with_source(error))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output.take(64));
        let _ = timeout(FORWARDER, output.read_line(&mut line)).await;
    }
    // Only now: right after its start a process has no command line to be known by.
    let process = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(|pid| Process::with_pid(pid, &forwarder_marker(folder, id)));
    match process {
        Some(process) if line.trim() == READY => Ok(process),
        _ => {
            let _ = child.start_kill();
            Err(failed().with_source("It did not come up"))
        }
    }
}

/// The state of a VM whose process lives.
pub(crate) async fn ask(folder: PathBuf) -> State {
    let answer = spawn_blocking(move || {
        let mut monitor = Qmp::open(&folder, MONITOR, MONITOR_LIMIT)?;
        monitor.execute("query-status", None)
    })
    .await;
    let status = match &answer {
        Ok(Ok(answer)) => answer["status"].as_str().unwrap_or_default(),
        // Somebody else talks to the monitor, or it is busy: the process is there.
        _ => return State::Running,
    };
    match status {
        "paused" | "suspended" => State::Paused,
        "prelaunch" | "inmigrate" => State::Starting,
        "shutdown" => State::Stopping,
        "guest-panicked" | "internal-error" | "io-error" => State::Error,
        _ => State::Running,
    }
}

/// Presses the power button and waits for the guest to be done.
pub(crate) async fn shut_down(
    folder: &Path,
    process: Process,
    id: &HostId,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let marker = marker(folder, id);
    let began = Instant::now();
    let mut pressed: Option<Instant> = None;
    let mut trouble: Option<QmpError> = None;
    while process.is_alive(&marker) {
        if began.elapsed() > SHUTDOWN {
            let message = format!("`{name}` did not shut down within {} seconds", SHUTDOWN.as_secs());
            let error = DriverError::failed(message)
                .with_hint(format!("`machine kill {name}` stops it as if the power was cut"));
            return Err(match trouble {
                Some(trouble) => error.with_source(trouble),
                None => error,
            });
        }
        if pressed.is_none_or(|pressed| pressed.elapsed() > PRESS_AGAIN) {
            if pressed.is_some() {
                progress.note("The VM is still shutting down");
            }
            trouble = tell(folder.to_owned(), "system_powerdown").await.err();
            pressed = Some(Instant::now());
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Ends the VM at once.
pub(crate) async fn cut_power(folder: &Path, process: Process, id: &HostId) -> Result<(), DriverError> {
    let marker = marker(folder, id);
    // QEMU writes what it holds back when it is told to quit; a QEMU that hangs is killed.
    if tell(folder.to_owned(), "quit").await.is_ok() {
        let deadline = Instant::now() + MONITOR_LIMIT;
        while process.is_alive(&marker) && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
    }
    kill_everything(marker).await
}

async fn tell(folder: PathBuf, command: &'static str) -> Result<(), QmpError> {
    let told = spawn_blocking(move || {
        let mut monitor = Qmp::open(&folder, MONITOR, MONITOR_LIMIT)?;
        match monitor.execute(command, None) {
            Ok(_) => Ok(()),
            // It may be gone before it has answered.
            Err(QmpError::Closed) if command == "quit" => Ok(()),
            Err(error) => Err(error),
        }
    });
    told.await.unwrap_or(Err(QmpError::Closed))
}

/// The forwarder ends with QEMU by itself; one that does not is killed.
pub(crate) async fn end_forwarder(folder: &Path, id: &HostId) -> Result<(), DriverError> {
    let marker = forwarder_marker(folder, id);
    let deadline = Instant::now() + Duration::from_secs(3);
    while !Process::all(&marker).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    kill_everything(marker).await
}
