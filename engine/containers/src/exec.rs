//! Further processes in running containers.

mod restore;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use engine_kernel::seccomp::Filters;
use engine_model::id::random_id;
use engine_model::life::Change;
use engine_model::task::vital;
use engine_model::wire::Ulimit;
use engine_shim::client::{Connection, Shim, ShimError};
use engine_shim::dialect::Dialect;
use engine_shim::protocol::{ExecTask, ExitRecord, Reply, Request, ShimConfig, Task};
use engine_store::Durability;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::container::Container;
use super::exit::last_word;
use super::record::Status;
use super::{ContainerError, Containers};
use crate::limits;
use crate::{oci, signals};

/// How long a finished one can still be asked about.
const REMEMBERED: Duration = Duration::from_mins(5);
/// How long one that was made may wait to be started.
const MOST_PATIENCE: Duration = Duration::from_hours(1);
/// How many may wait in one container; the oldest makes room.
const MOST_WAITING: usize = 1000;
/// What is said of one that never began.
const NEVER_BEGAN: i32 = 126;

/// What the directories of their supervising processes are called, in that of the container's.
const PREFIX: &str = "exec-";
/// The [`Record`], in there.
const RECORD: &str = "exec.json";
/// How it ended, in there.
const EXIT: &str = "exit.json";

/// The body of `POST /containers/{id}/exec`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecRequest {
    pub user: Option<String>,
    pub privileged: Option<bool>,
    pub tty: Option<bool>,
    pub console_size: Option<[u32; 2]>,
    pub attach_stdin: Option<bool>,
    pub attach_stdout: Option<bool>,
    pub attach_stderr: Option<bool>,
    pub detach_keys: Option<String>,
    pub env: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub cmd: Option<Vec<String>>,
    /// The stock client says it here as well; what counts is what the start says.
    pub detach: Option<bool>,
    /// Docker's library for Python says once more what the path says.
    pub container: Option<String>,
}

#[derive(Debug)]
pub struct Exec {
    pub id: String,
    pub container: Arc<Container>,
    pub request: ExecRequest,
    /// It asks whether the container is well, at no client's wish.
    is_check: bool,
    made: Instant,
    directory: PathBuf,
    /// What its supervising process speaks, where this daemon has not made it.
    dialect: OnceLock<Arc<Dialect>>,
    state: watch::Sender<ExecState>,
}

/// What the next daemon has to know of one that runs.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    request: ExecRequest,
    /// Whether it was, or was just about to be, told to begin.
    begun: bool,
    /// Whoever wanted to know what it says is gone with the daemon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_check: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ExecState {
    started: bool,
    running: bool,
    exit_code: Option<i32>,
    pid: i32,
    finished: Option<Instant>,
}

impl Exec {
    pub fn is_terminal(&self) -> bool {
        self.request.tty == Some(true)
    }

    fn state(&self) -> ExecState {
        *self.state.borrow()
    }

    fn change(&self, change: impl FnOnce(&mut ExecState)) {
        self.state.send_modify(change);
    }

    fn end(&self, code: i32) {
        self.change(|state| {
            state.running = false;
            state.exit_code = Some(code);
            state.finished = Some(Instant::now());
        });
    }

    /// Whether anybody may still want something of it.
    fn is_wanted(&self) -> bool {
        match self.state() {
            ExecState { finished: Some(finished), .. } => finished.elapsed() < REMEMBERED,
            ExecState { started: false, .. } => self.made.elapsed() < MOST_PATIENCE,
            _ => true,
        }
    }

    /// Waits until it is known how the process ended.
    pub async fn finished(&self) {
        // Cannot fail: the sender lives in this object.
        let _ = self.state.subscribe().wait_for(|state| state.finished.is_some()).await;
    }

    /// Tells the next daemon.
    fn put_on_record(&self, begun: bool) -> Result<(), ContainerError> {
        let record =
            Record { id: self.id.clone(), request: self.request.clone(), begun, is_check: self.is_check };
        let path = self.directory.join(RECORD);
        engine_store::write(&path, &record, Durability::Atomic)
            .map_err(|source| ContainerError::Write { path, source })
    }

    /// How the process ended, once it has.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.state().exit_code
    }

    pub(super) fn has_begun(&self) -> bool {
        self.state().running
    }

    /// Kills the process. What that has begun goes on.
    pub(super) async fn kill(&self) -> Result<(), ContainerError> {
        self.shim().ask(&Request::Kill { signal: signals::KILL }).await?;
        Ok(())
    }

    /// Its supervising process.
    fn shim(&self) -> Shim {
        let dialect = self.dialect.get().cloned().unwrap_or_else(|| Arc::new(Dialect::own()));
        Shim::at(self.directory.clone(), dialect)
    }

    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), ContainerError> {
        let over = || ContainerError::Conflict(format!("exec process {} is not running", self.id));
        if !self.state().running {
            return Err(over());
        }
        // Without a terminal there is nothing that has a size.
        if !self.is_terminal() {
            return Ok(());
        }
        match self.shim().ask(&Request::Resize { rows, columns }).await {
            Err(error) if error.is_absence() || matches!(error, ShimError::Gone) => Err(over()),
            told => Ok(told.map(drop)?),
        }
    }

    /// The answer to `GET /exec/{id}/json`.
    pub fn describe(&self) -> Value {
        let state = self.state();
        let command = self.request.cmd.clone().unwrap_or_default();
        let mut view = json!({
            "ID": self.id,
            "Running": state.running,
            "ExitCode": state.exit_code,
            "ProcessConfig": {
                "tty": self.is_terminal(),
                "entrypoint": command.first().cloned().unwrap_or_default(),
                "arguments": command.get(1..).unwrap_or_default(),
                "privileged": self.request.privileged.unwrap_or(false),
            },
            "OpenStdin": self.request.attach_stdin == Some(true),
            "OpenStderr": self.request.attach_stderr == Some(true),
            "OpenStdout": self.request.attach_stdout == Some(true),
            "CanRemove": false,
            "ContainerID": self.container.id,
            "DetachKeys": self.request.detach_keys.clone().unwrap_or_default(),
            "Pid": state.pid,
        });
        if let Some(user) = self.request.user.as_ref().filter(|user| !user.is_empty()) {
            view["ProcessConfig"]["user"] = user.clone().into();
        }
        view
    }
}

/// An exec whose process waits for the word to begin.
#[derive(Debug)]
pub struct Prepared {
    waiting: Waiting,
    pub stream: Option<BufReader<UnixStream>>,
}

/// The word that it waits for. Dropped unsaid, it is the end of the exec.
#[derive(Debug)]
pub struct Waiting {
    exec: Arc<Exec>,
    /// Until it begins. The supervising process ends when this does.
    connection: Option<Connection>,
    /// What is said of it if nothing comes of it; none once it has begun.
    unsuccessful: Option<i32>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(code) = self.unsuccessful else { return };
        self.connection = None;
        self.exec.end(code);
        // It is not there if it was not even made.
        let _ = fs::remove_dir_all(&self.exec.directory);
    }
}

impl Containers {
    pub fn create_exec(
        &self,
        container: &Arc<Container>,
        request: ExecRequest,
    ) -> Result<Arc<Exec>, ContainerError> {
        self.make_exec(container, request, false)
    }

    /// The same for one that asks whether the container is well.
    pub(super) fn create_check(
        &self,
        container: &Arc<Container>,
        command: &[String],
    ) -> Result<Arc<Exec>, ContainerError> {
        let request = ExecRequest {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecRequest::default()
        };
        self.make_exec(container, request, true)
    }

    fn make_exec(
        &self,
        container: &Arc<Container>,
        request: ExecRequest,
        is_check: bool,
    ) -> Result<Arc<Exec>, ContainerError> {
        may_exec(container)?;
        if request.cmd.as_ref().and_then(|command| command.first()).is_none_or(String::is_empty) {
            return Err(ContainerError::Invalid("No exec command specified".to_owned()));
        }
        let id = random_id();
        let directory = container.runtime_directory.join(format!("{PREFIX}{}", &id[..16]));
        let (container, state) = (Arc::clone(container), watch::Sender::default());
        let (made, dialect) = (Instant::now(), OnceLock::new());
        let exec =
            Arc::new(Exec { id: id.clone(), container, request, is_check, made, directory, dialect, state });
        let mut execs = self.execs();
        execs.retain(|_, exec| exec.is_wanted());
        let waits = |other: &&Arc<Exec>| other.container.id == exec.container.id && !other.state().started;
        if execs.values().filter(waits).count() >= MOST_WAITING
            && let Some(oldest) = execs.values().filter(waits).min_by_key(|exec| exec.made)
        {
            let oldest = oldest.id.clone();
            execs.remove(&oldest);
        }
        execs.insert(id, Arc::clone(&exec));
        drop(execs);
        let command = exec.request.cmd.clone().unwrap_or_default().join(" ");
        exec.container.tell(&self.0.events, &Change::ExecCreated { exec: exec.id.clone(), command });
        Ok(exec)
    }

    pub fn find_exec(&self, id: &str) -> Result<Arc<Exec>, ContainerError> {
        let found = self.execs().get(id).cloned();
        found.ok_or_else(|| ContainerError::NoSuchExec(id.to_owned()))
    }

    /// Nobody asks about it any more.
    pub(super) fn forget_exec(&self, exec: &Exec) {
        self.execs().remove(&exec.id);
    }

    /// The ids of a container's execs that run.
    pub fn execs_of(&self, container: &str) -> Vec<String> {
        let execs = self.execs();
        let mut ids: Vec<String> = execs
            .values()
            .filter(|exec| exec.container.id == container && exec.state().running)
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }

    pub(super) fn forget_execs(&self, container: &str) {
        for exec in self.execs().values().filter(|exec| exec.container.id == container) {
            exec.change(|state| {
                if state.running {
                    state.running = false;
                    state.exit_code = Some(137);
                }
                state.finished.get_or_insert_with(Instant::now);
            });
        }
    }

    /// Prepares the process, and the stream of its output unless `detached`.
    pub async fn prepare_exec(
        &self,
        exec: &Arc<Exec>,
        detached: bool,
        console_size: Option<[u32; 2]>,
    ) -> Result<Prepared, ContainerError> {
        may_exec(&exec.container)?;
        let mut fresh = false;
        exec.change(|state| fresh = !std::mem::replace(&mut state.started, true));
        if !fresh {
            return Err(ContainerError::Conflict(format!(
                "Error: Exec command {} is already running",
                exec.id
            )));
        }
        // Whatever goes wrong from here on, it does not wait for ever.
        let waiting = Waiting { exec: Arc::clone(exec), connection: None, unsuccessful: Some(NEVER_BEGAN) };
        let prepared = self.prepare(exec, waiting, detached, console_size).await;
        // The container may have been paused, or have ended, since.
        prepared.map_err(|error| {
            may_exec(&exec.container).err().unwrap_or_else(|| exec.container.unless_ended(error))
        })
    }

    async fn prepare(
        &self,
        exec: &Arc<Exec>,
        mut waiting: Waiting,
        detached: bool,
        console_size: Option<[u32; 2]>,
    ) -> Result<Prepared, ContainerError> {
        let config = exec_config(
            exec,
            console_size,
            &self.0.config.default_ulimits,
            &self.0.filters,
            &self.variables_of_links(&exec.container.identity()),
        )?;
        fs::create_dir(&exec.directory)
            .map_err(|source| ContainerError::Write { path: exec.directory.clone(), source })?;
        exec.put_on_record(false)?;
        waiting.connection = Some(exec.container.shim().exec(&exec.directory, &config).await?);
        let wanted = |flag: Option<bool>| flag == Some(true);
        let request = &exec.request;
        let stream = if detached {
            None
        } else {
            let (stdin, stdout) = (wanted(request.attach_stdin), wanted(request.attach_stdout));
            let stderr = wanted(request.attach_stderr);
            Some(exec.shim().attach(stdin, stdout || exec.is_terminal(), stderr).await?)
        };
        Ok(Prepared { waiting, stream })
    }

    /// Lets the process begin; the error is worded for the client's eyes.
    pub async fn begin_exec(&self, waiting: Waiting) -> Result<(), ContainerError> {
        let exec = Arc::clone(&waiting.exec);
        self.begin_with(&exec, waiting).await.map_err(|error| exec.container.unless_ended(error))
    }

    async fn begin_with(&self, exec: &Arc<Exec>, mut waiting: Waiting) -> Result<(), ContainerError> {
        let Some(mut connection) = waiting.connection.take() else { return Err(ShimError::Gone.into()) };
        exec.put_on_record(true)?;
        match connection.ask(&Request::Start).await {
            Ok(Reply::Started { pid }) => {
                waiting.unsuccessful = None;
                exec.change(|state| {
                    state.running = true;
                    state.pid = pid;
                });
                let command = exec.request.cmd.clone().unwrap_or_default().join(" ");
                exec.container.tell(&self.0.events, &Change::ExecStarted { exec: exec.id.clone(), command });
                self.watch_exec(exec, connection);
                Ok(())
            }
            Ok(_) => Err(ShimError::Gone.into()),
            Err(ShimError::Refused(message)) => {
                let missing = message.contains("executable file not found")
                    || message.contains("no such file or directory");
                waiting.unsuccessful = Some(if missing { 127 } else { NEVER_BEGAN });
                Err(ContainerError::Invalid(format!(
                    "OCI runtime exec failed: exec failed: unable to start container process: {message}: unknown"
                )))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn watch_exec(&self, exec: &Arc<Exec>, mut connection: Connection) {
        let (containers, exec) = (self.clone(), Arc::clone(exec));
        vital(async move {
            let told = match connection.send(&Request::Wait).await {
                Ok(()) => last_word(&mut connection, &exec.container.id).await,
                Err(_) => None,
            };
            containers.exec_ended(&exec, told.or_else(|| recorded_exit(&exec.directory))).await;
        });
    }

    /// Without a record of the exit, somebody has killed all that could have written it.
    async fn exec_ended(&self, exec: &Exec, exit: Option<ExitRecord>) {
        let code = exit.map_or(137, |exit| exit.code);
        exec.end(code);
        exec.container.tell(&self.0.events, &Change::ExecEnded { exec: exec.id.clone(), code });
        let directory = exec.directory.clone();
        let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(directory)).await;
    }
}

/// How the process ended whose supervising process has this directory.
fn recorded_exit(directory: &Path) -> Option<ExitRecord> {
    engine_store::read(&directory.join(EXIT)).ok().flatten()
}

fn may_exec(container: &Container) -> Result<(), ContainerError> {
    match container.status() {
        Status::Running => Ok(()),
        Status::Paused => Err(ContainerError::Conflict(format!(
            "Container {} is paused, unpause the container before exec",
            container.identity().name
        ))),
        Status::Restarting => Err(ContainerError::Conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.identity().name
        ))),
        _ => Err(container.ended()),
    }
}

fn exec_config(
    exec: &Exec,
    console_size: Option<[u32; 2]>,
    default_ulimits: &BTreeMap<String, Ulimit>,
    filters: &Filters,
    links: &[String],
) -> Result<ShimConfig, ContainerError> {
    let spec = exec.container.spec()?;
    let own = &spec.process;
    let request = &exec.request;
    let privileged = request.privileged == Some(true) || spec.confinement.privileged;
    let confinement = oci::confinement(&spec.confinement, privileged, filters)?;
    let hostname = own.hostname.clone().unwrap_or_else(|| exec.container.default_hostname());
    let mut environment = oci::environment(own, &hostname, links);
    if exec.is_terminal() && !own.terminal {
        environment.push("TERM=xterm".to_owned());
    }
    oci::merge_environment(&mut environment, request.env.as_deref().unwrap_or_default());
    let directory = request.working_dir.as_deref().filter(|directory| !directory.is_empty());
    let own_directory = own.directory.to_string_lossy();
    let directory = directory.unwrap_or(&own_directory);
    let command = request.cmd.clone().unwrap_or_default();
    let mut process = oci::process(&command, &environment, directory, exec.is_terminal(), &confinement);
    let rlimits = limits::processes(&spec.limits, default_ulimits);
    if !rlimits.is_empty() {
        process["rlimits"] = rlimits.into();
    }
    let [rows, columns] = console_size
        .or(request.console_size)
        .unwrap_or_default()
        .map(|size| u16::try_from(size).unwrap_or(0));
    Ok(ShimConfig {
        id: exec.container.id.clone(),
        task: Task::Exec(Box::new(ExecTask {
            container_directory: exec.container.runtime_directory.clone(),
            init_pid: exec.container.state().pid,
            process,
        })),
        terminal: exec.is_terminal(),
        console_size: (rows > 0 && columns > 0).then_some((rows, columns)),
        open_stdin: request.attach_stdin == Some(true),
        stdin_once: true,
        log: None,
        log_process: None,
        exit_file: exec.directory.join(EXIT),
        user: request.user.clone().filter(|user| !user.is_empty()).unwrap_or_else(|| own.user.clone()),
        groups: own.groups.clone(),
        seccomp: confinement.seccomp.as_deref().cloned(),
        cgroup: exec.container.cgroup(),
    })
}

impl Prepared {
    /// Both parts.
    pub fn into_parts(self) -> (Waiting, Option<BufReader<UnixStream>>) {
        (self.waiting, self.stream)
    }
}
