//! What a new daemon finds: containers that run, that ended meanwhile, that were being made or removed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine_kernel::cgroup;
use engine_kernel::process::OpenNamespace;
use engine_model::Found;
use engine_model::chain;
use engine_model::life::Change;
use engine_model::task::vital;
use engine_shim::client::{self, Connection};
use engine_shim::dialect::Dialect;
use engine_shim::protocol::{self, Request};
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::exit::should_restart;
use super::record::{CONFIG_FILE, FORMAT, Identity, STATE_FILE, State, Status};
use super::{Container, ContainerError, Containers, sandbox};

/// How long a supervising process is left alone that cannot be reached.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

impl Containers {
    pub(super) async fn restore(&self) -> Result<(), ContainerError> {
        remove_leftovers(&self.0.config.data_root.join("volumes"));
        self.blocking(|containers| containers.load().map(|()| containers.sweep_pins())).await?;
        let mut running: Vec<(Arc<Container>, Option<Connection>)> = Vec::new();
        let mut ended = Vec::new();
        for container in self.all() {
            match container.status() {
                Status::Running | Status::Paused => match container.shim().connect().await {
                    Ok(connection) => running.push((container, Some(connection))),
                    Err(error) if error.is_absence() => ended.push(container),
                    Err(error) => {
                        let error = chain(&error);
                        tracing::error!(
                            container = container.id,
                            error,
                            "It counts as running; trying again"
                        );
                        running.push((container, None));
                    }
                },
                Status::Removing | Status::Dead => {
                    let _operation = container.operation.lock().await;
                    if let Err(error) = self.remove_locked(&container, container.state().with_volumes).await {
                        tracing::error!(container = container.id, "{}", engine_model::chain(&error));
                    }
                }
                // The daemon before this one was stopped in the middle of a restart.
                Status::Exited if container.is_removed_at_its_end() => {
                    let _operation = container.operation.lock().await;
                    if let Err(error) = self.remove_locked(&container, true).await {
                        tracing::error!(container = container.id, "{}", engine_model::chain(&error));
                    }
                }
                Status::Created | Status::Restarting | Status::Exited => {}
            }
        }
        for (container, _) in &running {
            self.complete_state(container).await;
        }
        greet_all(&running).await;
        self.blocking(|containers| {
            containers.note_damaged_volumes();
            containers.restore_mounted();
            Ok(())
        })
        .await?;
        let mut live = Vec::new();
        // Their paths lead there as long as they are open.
        let mut held = Vec::new();
        for (container, _) in &running {
            let state = container.state();
            let namespace = container.namespace("net").ok();
            let naming = container.spec().ok().map(|spec| self.naming(container, &spec));
            for (number, endpoint) in state.endpoints.iter().enumerate() {
                live.push(Found {
                    container: container.id.clone(),
                    endpoint: endpoint.clone(),
                    ports: if number == 0 { state.ports.clone() } else { Vec::new() },
                    namespace: namespace.as_ref().map(OpenNamespace::path),
                    naming: naming.clone(),
                });
            }
            held.extend(namespace);
        }
        // Those that are not known keep their place, too.
        let unknown = self.unknown().clone();
        for id in unknown {
            let places = self.0.network.places(&id).await;
            let pin = sandbox::folder(&self.0.config.exec_root).join(&id);
            let namespace = pin.exists().then_some(pin);
            live.extend(places.into_iter().map(|(endpoint, ports)| Found {
                container: id.clone(),
                endpoint,
                ports,
                namespace: namespace.clone(),
                naming: None,
            }));
        }
        if let Err(error) = self.0.network.restore(&live).await {
            tracing::error!("Could not restore the networks: {}", engine_model::chain(&error));
        }
        drop(held);
        for (container, connection) in running {
            self.tell_name(&container).await;
            tracing::info!(container = container.id, "Found a running container");
            match connection {
                Some(connection) => {
                    self.restore_execs(&container).await;
                    self.check_health(&container);
                    self.renew_lines(Arc::clone(&container));
                    self.watch(&container, connection);
                }
                None => self.find_later(container),
            }
        }
        for container in ended {
            self.ended_unseen(&container).await;
        }
        for container in self.all() {
            let state = container.state();
            let was_started = state.started_at.is_some();
            if state.status == Status::Restarting
                || (was_started
                    && state.status == Status::Exited
                    && should_restart(&container, &state, state.exit_code))
            {
                container.change_state(|state| state.status = Status::Restarting);
                container.tell(&self.0.events, &Change::Waits);
                self.restart_later(&container, Duration::ZERO);
            }
        }
        Ok(())
    }

    /// Watches a container whose supervising process cannot be reached yet, for whatever reason but that it is gone.
    fn find_later(&self, container: Arc<Container>) {
        let containers = self.clone();
        vital(async move {
            loop {
                tokio::time::sleep(BETWEEN_TRIES).await;
                match container.shim().connect().await {
                    Ok(connection) => {
                        greet(&container).await;
                        containers.restore_execs(&container).await;
                        containers.check_health(&container);
                        return containers.watch(&container, connection);
                    }
                    Err(error) if error.is_absence() => return containers.ended_unseen(&container).await,
                    Err(_) => {}
                }
            }
        });
    }

    /// A container ended while no daemon was there.
    async fn ended_unseen(&self, container: &Arc<Container>) {
        let exit = self.find_exit(container).await;
        self.ended(container, exit).await;
    }

    fn load(&self) -> Result<(), ContainerError> {
        let config = &self.0.config;
        let folder = config.data_root.join("containers");
        let failed = |source| ContainerError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let directory = entry.map_err(failed)?.path();
            // Other things in there are nobody's here.
            if !is_container(&directory) {
                continue;
            }
            let Some(identity) = self.read_identity(&directory) else { continue };
            let Some(state) = self.read_state(&directory) else { continue };
            let container =
                Container::new(identity, state, &config.data_root, &config.exec_root, &self.0.cgroup_parent);
            let mut index = self.index();
            index.names.insert(container.identity().name.clone(), container.id.clone());
            index.containers.insert(container.id.clone(), Arc::new(container));
        }
        Ok(())
    }

    /// Reads what a container is. A directory without that is what remains of an interrupted create or remove, unless
    /// something was written in it.
    fn read_identity(&self, directory: &Path) -> Option<Identity> {
        let path = directory.join(CONFIG_FILE);
        let why = match engine_store::read_versioned::<Identity>(&path, FORMAT) {
            Ok(Some(identity)) if directory.file_name() != Some(identity.id.as_ref()) => {
                "it is of another container".to_owned()
            }
            Ok(Some(identity)) => return Some(identity),
            Ok(None) if is_bare(directory) => {
                tracing::warn!(directory = %directory.display(), "Removing what remains of a container");
                if let Err(error) = fs::remove_dir_all(directory) {
                    tracing::error!(%error, directory = %directory.display(), "Could not remove it");
                }
                return None;
            }
            Ok(None) => "it is not there".to_owned(),
            Err(error) => chain(&error),
        };
        self.leave_out(directory, &why);
        None
    }

    /// A container that cannot be read stays where it is: it may run, and its layer is in there.
    fn leave_out(&self, directory: &Path, why: &str) {
        self.0.quarantine.note(format!(
            "The container in `{}` is left out and nothing of it is touched, for want of its record: {why}",
            directory.display()
        ));
        self.unknown().extend(directory.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    }

    /// Reads how a container is.
    fn read_state(&self, directory: &Path) -> Option<State> {
        let path = directory.join(STATE_FILE);
        match engine_store::read(&path) {
            Ok(Some(state)) => return Some(state),
            Ok(None) => {}
            Err(error) if error.is_damage() => self.set_aside(&path, &chain(&error)),
            Err(error) => {
                self.leave_out(directory, &chain(&error));
                return None;
            }
        }
        Some(presumed(directory))
    }

    pub(super) fn set_aside(&self, path: &Path, why: &str) {
        if let Err(error) = self.0.quarantine.set_aside(path, why) {
            tracing::error!(path = %path.display(), why, %error, "Could not set aside what cannot be read");
        }
    }

    /// Fills in what a lost state said of a container that turned out to run.
    async fn complete_state(&self, container: &Container) {
        if container.state().pid != 0 {
            return;
        }
        let (directory, id) = (container.runtime_directory.clone(), container.id.clone());
        let (cgroup, pin) = (container.cgroup(), container.pin.clone());
        let found = tokio::task::spawn_blocking(move || {
            let pinned = OpenNamespace::pinned(&pin).is_ok();
            (client::process(&directory, &id), cgroup::is_frozen(&cgroup), pinned)
        });
        let (pid, is_frozen, pinned) = found.await.unwrap_or_default();
        let places = self.0.network.places(&container.id).await;
        container.change_state(|state| {
            state.pid = pid.unwrap_or(0);
            state.pinned = pinned;
            if is_frozen {
                state.status = Status::Paused;
            }
            state.ports = places.iter().flat_map(|(_, ports)| ports.iter().copied()).collect();
            state.endpoints = places.into_iter().map(|(endpoint, _)| endpoint).collect();
        });
    }
}

/// Learns what the supervising processes speak that were found, and gets hold of what they supervise, all at once: an engine
/// of another version may have started them.
async fn greet_all(running: &[(Arc<Container>, Option<Connection>)]) {
    let mut greetings = JoinSet::new();
    for (container, _) in running {
        let container = Arc::clone(container);
        greetings.spawn(async move { greet(&container).await });
    }
    greetings.join_all().await;
}

/// What cannot be learned changes nothing: the container runs, and is spoken to in the words that there always were.
async fn greet(container: &Container) {
    let shim = container.shim();
    let greeted = shim.hello().await;
    if greeted.is_ok() {
        // The daemon before this one may have ended just before it would have said so. To all others it is no news.
        let _ = shim.ask(&Request::Start).await;
    }
    let (dialect, process) = greeted.unwrap_or_else(|error| {
        let error = chain(&error);
        tracing::warn!(container = container.id, error, "The supervising process says no hello");
        (Dialect::first(), None)
    });
    let process = match process {
        Some(process) => Ok(process),
        None => shim.child(container.state().pid).await,
    };
    match process {
        Ok(process) => {
            // What is on record is a number, which may be wrong by now.
            if let Ok(number) = process.number()
                && number != container.state().pid
            {
                container.change_state(|state| state.pid = number);
            }
            container.hold(Some(Arc::new(process)));
        }
        Err(error) => tracing::warn!(container = container.id, "{}", chain(&error)),
    }
    if dialect.version() > protocol::VERSION {
        tracing::warn!(
            container = container.id,
            version = dialect.version(),
            "A newer engine has started the supervising process; what it does not know is refused"
        );
    }
    container.speaks(dialect);
}

/// Goes on with removals of volumes that were broken off. However large they are, nobody waits for it.
fn remove_leftovers(volumes: &Path) {
    let failed = |path: &Path, error| {
        tracing::error!(%error, path = %path.display(), "Could not remove what is left of a volume");
    };
    match engine_store::leftovers(volumes) {
        Ok(found) => drop(tokio::task::spawn_blocking(move || {
            for path in found {
                fs::remove_dir_all(&path).unwrap_or_else(|error| failed(&path, error));
            }
        })),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => failed(volumes, error),
    }
}

/// What must be assumed of a container whose state is not known: if it has ever been started, it may run, and what it was
/// made for holds when it does not.
fn presumed(directory: &Path) -> State {
    // Written at every start, before the process is made.
    match fs::metadata(directory.join("hosts")).and_then(|metadata| metadata.modified()) {
        Ok(time) => {
            State { status: Status::Running, started_at: Timestamp::try_from(time).ok(), ..State::default() }
        }
        Err(_) => State::default(),
    }
}

/// Whether this is the directory of a container: its name is an id.
fn is_container(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit) && path.is_dir()
}

/// Whether nothing of a container was ever written to: what a create or remove leaves that was interrupted.
fn is_bare(directory: &Path) -> bool {
    match fs::read_dir(directory.join("upper")) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
