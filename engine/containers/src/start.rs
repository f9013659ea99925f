//! From a container on disk to a running one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine_kernel::cgroup;
use engine_kernel::overlay::Overlay;
use engine_kernel::part::{Part, Whole};
use engine_kernel::process::OpenNamespace;
use engine_model::life::Change;
use engine_model::spec::{ContainerSpec, Delivery, FileLimits, LogSpec, NetworkMode, Share};
use engine_model::{Endpoint, Failure, PublishedPort};
use engine_shim::client::{self, Claim, Connection, Made, ShimError};
use engine_shim::dialect::Dialect;
use engine_shim::outlet;
use engine_shim::protocol::{
    self, ContainerTask, LogConfig, LogProcess, Reply, Request, ShimConfig, Task, VolumeFill,
};
use jiff::Timestamp;

use super::health::Health;
use super::record::{EXIT_FILE, Identity, MountKind, MountPoint, Status};
use super::{Container, ContainerError, Containers, endpoint, gone_is_fine, sandbox};
use crate::oci::{self, Namespace, Surroundings};
use crate::users::Mapping;
use crate::{attributes, complaints, limits};

/// What the network gave.
#[derive(Default)]
struct Connected {
    endpoints: Vec<Endpoint>,
    ports: Vec<PublishedPort>,
    /// In a namespace of the container's own, which is pinned.
    pinned: bool,
}

/// Files that the engine writes for a container, and where they appear in it.
pub(super) const FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

/// An empty file by which programs see that they run in a container, as dockerd makes it.
pub(super) const MARK: &str = "/.dockerenv";

impl Containers {
    /// Starts a container at a client's wish.
    pub async fn start(&self, container: &Arc<Container>) -> Result<(), ContainerError> {
        let _operation = container.operation.lock().await;
        match container.status() {
            Status::Running => return Err(ContainerError::NotModified),
            Status::Paused => {
                let message = "cannot start a paused container, try unpause instead";
                return Err(ContainerError::Conflict(message.to_owned()));
            }
            Status::Removing | Status::Dead => {
                let message = "container is marked for removal and cannot be started";
                return Err(ContainerError::Conflict(message.to_owned()));
            }
            // A wait before a restart is over at once.
            Status::Restarting | Status::Created | Status::Exited => {}
        }
        container.restart_now_or_never.notify_waiters();
        container.change_state(|state| {
            state.restart_count = 0;
            state.manually_stopped = false;
        });
        let result = self.start_locked(container).await;
        if result.is_err() {
            container.tell(&self.0.events, &Change::GivenUp);
        }
        if result.is_err() && container.is_removed_at_its_end() {
            self.remove_locked(container, true).await?;
        }
        result
    }

    /// Starts a container whose `operation` the caller holds.
    pub(super) async fn start_locked(&self, container: &Arc<Container>) -> Result<(), ContainerError> {
        container.stopping.store(false, Ordering::Release);
        match self.bring_up(container).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = translate(error);
                let (code, text) = match &error {
                    ContainerError::Invalid(text) if is_missing(text) => (127, text.clone()),
                    ContainerError::Invalid(text) => (126, text.clone()),
                    other => (128, engine_model::chain(other)),
                };
                container.pending().clear();
                container.hold(None);
                // An earlier run may be alive still, with all that it has.
                if !matches!(error, ContainerError::Shim(ShimError::Busy)) {
                    self.disconnect(&container.id).await;
                    let failed = Arc::clone(container);
                    let containers = self.clone();
                    let cleared = tokio::task::spawn_blocking(move || {
                        failed.unpin();
                        containers.let_go_of_volumes(&failed.id);
                    });
                    let _ = cleared.await;
                }
                container.change_state(|state| {
                    if state.status != Status::Exited || state.started_at.is_none() {
                        state.status =
                            if state.started_at.is_some() { Status::Exited } else { Status::Created };
                    }
                    state.pid = 0;
                    state.exit_code = code;
                    state.error.clone_from(&text);
                    state.endpoints.clear();
                    state.ports.clear();
                });
                container.tell(&self.0.events, &Change::NotStarted { code, error: text });
                Err(error)
            }
        }
    }

    async fn bring_up(&self, container: &Arc<Container>) -> Result<(), ContainerError> {
        let (identity, spec) = (container.identity(), container.spec()?);
        // The engine may have begun to give containers users of their own.
        self.check_users(&spec)?;
        container.lie_below(&self.0.cgroup_parent);
        self.wait_for_linked(&identity).await;
        // Namespaces of others are held in there until this one has joined them.
        let around = Arc::new(self.surroundings(container, &spec)?);
        let (config, claim, users) = {
            let (container, identity, spec) =
                (Arc::clone(container), Arc::clone(&identity), Arc::clone(&spec));
            let around = Arc::clone(&around);
            let write =
                move |containers: &Self| containers.write_bundle(&container, &identity, &spec, &around);
            self.blocking(write).await?
        };
        container.speaks(Dialect::own());
        let connect = self.connect(container, &identity.name, &spec);
        let make = client::spawn(&container.runtime_directory, &config, Some(claim));
        let (connected, made) = if sets_up_network(&spec) {
            let connected = connect.await.map_err(of_networking)?;
            (Ok(connected), make.await)
        } else {
            tokio::join!(connect, make)
        };
        drop((around, users));
        let (connected, (connection, made)) = match (connected, made) {
            (Err(error), Ok((connection, _))) => {
                abandon(connection).await;
                return Err(of_networking(error));
            }
            (connected, made) => (connected.map_err(of_networking)?, made?),
        };
        let Made { number: pid, process } = made.ok_or(ShimError::Gone)?;
        container.hold(Some(Arc::new(process)));
        let connection = self.begin(container, &spec, connection, pid, connected).await?;
        self.check_health(container);
        self.watch(container, connection);
        self.tell_linked(container);
        Ok(())
    }

    /// Lets the process begin, once those who asked for its output are connected.
    async fn begin(
        &self,
        container: &Arc<Container>,
        spec: &ContainerSpec,
        mut connection: Connection,
        pid: i32,
        connected: Connected,
    ) -> Result<Connection, ContainerError> {
        let shim = container.shim();
        let pending = std::mem::take(&mut *container.pending());
        for client in pending.into_iter().filter(|client| !client.ready.is_closed()) {
            let stream = shim.attach(client.stdin, client.stdout, client.stderr).await?;
            // Whoever has left meanwhile does not take it.
            let _ = client.ready.send(stream);
        }
        // Before it begins, so that a daemon that comes after this one looks for it.
        container.change_state(|state| {
            state.status = Status::Running;
            state.pid = pid;
            state.exit_code = 0;
            state.error.clear();
            state.out_of_memory = false;
            state.started_at = Some(Timestamp::now());
            state.finished_at = None;
            state.endpoints = connected.endpoints;
            state.ports = connected.ports;
            state.pinned = connected.pinned;
            let is_checked = spec.health.is_some();
            state.health = is_checked.then(|| Arc::new(Health::at_start(state.health.as_deref())));
        });
        // The disk and the process begin their work together.
        let (settled, answer) = tokio::join!(container.settle(), connection.ask(&Request::Start));
        let () = settled;
        match answer? {
            Reply::Started { .. } => {}
            _ => return Err(ShimError::Gone.into()),
        }
        container.tell(&self.0.events, &Change::Started);
        Ok(connection)
    }

    /// Claims the container, makes its network namespace, and writes everything that the supervising process reads.
    fn write_bundle(
        &self,
        container: &Container,
        identity: &Identity,
        spec: &ContainerSpec,
        around: &Surroundings,
    ) -> Result<(ShimConfig, Claim, Option<OpenNamespace>), ContainerError> {
        let claim = client::claim(&container.directory)?;
        let mapping = self.mapping_of(spec);
        client::prepare(&container.runtime_directory, mapping.map(|mapping| mapping.root().1))?;
        let users = match (mapping, &around.network) {
            (Some(mapping), _) => Some(self.users_of(&container.id, mapping, spec, around)?),
            (None, Namespace::Pinned(path)) => {
                self.pin(&container.id, path)?;
                None
            }
            (None, _) => None,
        };
        let exit_file = container.directory.join(EXIT_FILE);
        gone_is_fine(fs::remove_file(&exit_file))
            .map_err(|source| ContainerError::Remove { path: exit_file.clone(), source })?;
        let write = |path: PathBuf, content: &[u8]| {
            fs::write(&path, content).map_err(|source| ContainerError::Write { path, source })
        };
        write(container.directory.join("hostname"), format!("{}\n", around.hostname).as_bytes())?;
        write(container.directory.join("resolv.conf"), self.resolver_file(&spec.network).as_bytes())?;
        let hosts = self.hosts_file(&spec.network)? + &self.lines_of_links(identity)?;
        write(container.directory.join("hosts"), hosts.as_bytes())?;
        for (name, _) in FILES {
            self.give_to_root(spec, &container.directory.join(name))?;
        }
        self.create_sources(&identity.mounts)?;
        self.hold_volumes(&container.id, &identity.mounts)?;
        let filters = &self.0.filters;
        let lent = std::mem::take(&mut *container.lent());
        let bundle = {
            let users = users.as_ref();
            oci::build(&identity.command, &identity.mounts, spec, around, users, &lent, filters)?
        };
        let text = serde_json::to_vec(&bundle.configuration).map_err(oci::SpecError::from)?;
        write(container.runtime_directory.join(protocol::BUNDLE), &text)?;
        let lower = self.0.images.lower_dirs(&identity.image_id)?;
        let process = &spec.process;
        let parts =
            oci::parts(&identity.mounts).map(|point| self.part(point, mapping)).collect::<Result<_, _>>()?;
        let folder = container.runtime_directory.join(protocol::PARTS);
        let is_filled = |point: &&MountPoint| point.kind == MountKind::Volume && point.copy;
        let fill = |point: &MountPoint| VolumeFill {
            source: match oci::parts(&identity.mounts).position(|part| std::ptr::eq(part, point)) {
                Some(number) => folder.join(number.to_string()),
                None => point.source.clone(),
            },
            destination: point.destination.clone(),
        };
        let volumes = identity.mounts.iter().filter(is_filled).map(fill).collect();
        let (log, log_process) = logging(container, identity, &spec.log, &self.0.config.exec_root)?;
        let config = ShimConfig {
            id: container.id.clone(),
            task: Task::Container(Box::new(ContainerTask {
                overlay: Overlay {
                    lower,
                    upper: container.directory.join("upper"),
                    work: container.directory.join("work"),
                },
                owners: mapping.map(Mapping::owners),
                writable_cgroups: spec.confinement.writable_cgroups,
                volumes,
                parts,
                pins: Some(sandbox::folder(&self.0.config.exec_root)),
                shared_memory: around.shared_memory.as_ref().map(OpenNamespace::path),
                devices: bundle.devices,
                block_weights: limits::weights(&spec.limits).map_err(oci::SpecError::from)?,
                shares_pid_namespace: !matches!(around.pid, Namespace::Own),
                init: process.init,
            })),
            terminal: process.terminal,
            console_size: process.console_size,
            open_stdin: process.open_stdin,
            stdin_once: process.stdin_once,
            log,
            log_process,
            exit_file,
            user: process.user.clone(),
            groups: process.groups.clone(),
            seccomp: bundle.seccomp.as_deref().cloned(),
            cgroup: container.cgroup(),
        };
        Ok((config, claim, users))
    }

    /// What is mounted in place of a mount point's source.
    pub(super) fn part(&self, point: &MountPoint, mapping: Option<&Mapping>) -> Result<Part, ContainerError> {
        let whole = match &point.image {
            Some(image) => Whole::Layers(self.0.images.lower_dirs(image)?),
            None => Whole::Directory(point.source.clone()),
        };
        Ok(Part { whole, path: point.subpath.clone(), owners: mapping.map(Mapping::owners) })
    }

    fn surroundings(
        &self,
        container: &Container,
        spec: &ContainerSpec,
    ) -> Result<Surroundings, ContainerError> {
        let namespace = |share: &Share, kind: &str| match share {
            Share::Own => Ok(Namespace::Own),
            Share::Host => Ok(Namespace::Host),
            Share::Of(other) => self.shared_namespace(other, kind),
        };
        let mode = &spec.network.mode;
        let network = match mode {
            NetworkMode::Host => Namespace::Host,
            NetworkMode::Of(other) => self.shared_namespace(other, "net")?,
            NetworkMode::None | NetworkMode::Joined => Namespace::Pinned(container.pin.clone()),
        };
        let sharing = &spec.sharing;
        let shared_memory = match &sharing.ipc {
            Share::Of(other) => Some(self.shared_memory_of(other)?),
            Share::Own | Share::Host => None,
        };
        // Whoever is in another's network has the other's names for it.
        let files_of = match mode {
            NetworkMode::Of(other) => self.find(other)?.directory.clone(),
            _ => container.directory.clone(),
        };
        let hostname = match &spec.process.hostname {
            Some(name) => name.clone(),
            None if *mode == NetworkMode::Host || sharing.host_names => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            // As it is in the other's files.
            None if matches!(mode, NetworkMode::Of(_)) => fs::read_to_string(files_of.join("hostname"))
                .map_or_else(|_| container.default_hostname(), |name| name.trim_end().to_owned()),
            None => container.default_hostname(),
        };
        Ok(Surroundings {
            rootfs: container.runtime_directory.join(protocol::ROOTFS),
            cgroup: container.cgroup(),
            hostname,
            links: self.variables_of_links(&container.identity()),
            network,
            pid: namespace(&sharing.pid, "pid")?,
            ipc: namespace(&sharing.ipc, "ipc")?,
            shared_memory,
            files: FILES.iter().map(|(name, inside)| (files_of.join(name), PathBuf::from(inside))).collect(),
            default_ulimits: self.0.config.default_ulimits.clone(),
            unified_cgroups: cgroup::is_unified(),
            own_folders: self.own_folders(),
        })
    }

    /// The mount namespace of a container whose `/dev/shm` is to be another's as well.
    fn shared_memory_of(&self, other: &str) -> Result<OpenNamespace, ContainerError> {
        let other = self.find(other)?;
        if other.spec().is_ok_and(|spec| !spec.sharing.shared_memory) {
            return Err(ContainerError::Conflict(format!(
                "cannot join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                other.id
            )));
        }
        other.namespace("mnt")
    }

    fn shared_namespace(&self, other: &str, kind: &str) -> Result<Namespace, ContainerError> {
        let other = self.find(other)?;
        if !other.status().is_alive() {
            let message = format!("cannot join network of a non running container: {}", other.id);
            return Err(ContainerError::Conflict(message));
        }
        Ok(Namespace::Shared(other.namespace(kind)?))
    }

    /// Gives the new network namespace its interfaces and publishes ports.
    async fn connect(
        &self,
        container: &Container,
        name: &str,
        spec: &ContainerSpec,
    ) -> Result<Connected, ContainerError> {
        let mode = &spec.network.mode;
        if matches!(mode, NetworkMode::Host | NetworkMode::Of(_)) {
            return Ok(Connected::default());
        }
        let network = &self.0.network;
        let mut connected = Connected { pinned: true, ..Connected::default() };
        for wish in &spec.network.endpoints {
            let request = endpoint::request(wish, name, self.naming(container, spec));
            connected.endpoints.push(network.attach(&container.id, &container.pin, &request).await?);
        }
        let ports = &spec.network.ports;
        // Where there is no bridge, nothing can be published.
        let bridged = connected.endpoints.iter().find(|endpoint| !endpoint.host_interface.is_empty());
        let first = bridged.or_else(|| connected.endpoints.first());
        if let Some(first) = first.filter(|_| !ports.is_empty()) {
            connected.ports = network.publish(&container.id, first, ports).await?;
        }
        Ok(connected)
    }

    /// Gives back addresses and ports.
    pub(super) async fn disconnect(&self, id: &str) {
        if let Err(error) = self.0.network.release(id).await {
            tracing::error!(
                container = id,
                error = engine_model::chain(&error),
                "Could not release the network"
            );
        }
    }
}

/// Whether its maker has wishes for settings of the network. They are applied when the process is made, and reach the interfaces
/// that are there by then.
fn sets_up_network(spec: &ContainerSpec) -> bool {
    spec.confinement.sysctls.keys().any(|name| name.starts_with("net"))
}

/// Lets a supervising process end that has not begun, and waits until it has cleaned up.
async fn abandon(mut connection: Connection) {
    connection.close().await;
    // It answers with the end of the stream when all is gone.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), connection.reply()).await;
}

/// The file that the supervising process writes, and the process that takes the output as well or in its place.
fn logging(
    container: &Container,
    identity: &Identity,
    log: &LogSpec,
    exec_root: &Path,
) -> Result<(Option<LogConfig>, Option<LogProcess>), ContainerError> {
    let file = |limits: FileLimits| {
        let FileLimits { max_size, max_files, compress } = limits;
        container.log_path().map(|path| LogConfig {
            path,
            max_size,
            max_files,
            compress,
            attributes: attributes::of(identity),
        })
    };
    let process = |driver: &str, delivery: Delivery, file: Option<LogConfig>| {
        let writes_file = file.is_some();
        let settings = engine_logging::Settings {
            driver: driver.to_owned(),
            options: identity.log_options.clone(),
            file,
            container: attributes::container(identity)?,
        };
        Ok::<_, ContainerError>(LogProcess {
            settings: serde_json::to_value(settings)
                .map_err(|error| ContainerError::Invalid(error.to_string()))?,
            buffer: match delivery {
                Delivery::Blocking => None,
                Delivery::NonBlocking { buffer } => Some(buffer),
            },
            writes_file,
            messages: complaints::file(exec_root, &container.id),
            environment: engine_logging::environment(driver).iter().map(|name| (*name).to_owned()).collect(),
        })
    };
    Ok(match log {
        LogSpec::Nowhere => (None, None),
        LogSpec::File { limits, delivery: Delivery::Blocking } => (file(*limits), None),
        LogSpec::File { limits, delivery } => {
            (None, Some(process(&identity.log_driver, *delivery, file(*limits))?))
        }
        LogSpec::Elsewhere { driver, kept, delivery } => {
            (kept.and_then(file), Some(process(driver, *delivery, None)?))
        }
    })
}

/// What the supervising process said, in the words that docker's clients look for.
fn translate(error: ContainerError) -> ContainerError {
    let ContainerError::Shim(ShimError::Refused(message)) = error else { return error };
    if message.starts_with(outlet::FAILED) {
        return ContainerError::Refused(format!("failed to create task for container: {message}"));
    }
    let text = format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: {message}: unknown"
    );
    if is_missing(&message) || message.contains("permission denied") || message.contains("is a directory") {
        ContainerError::Invalid(text)
    } else {
        ContainerError::Refused(text)
    }
}

fn is_missing(text: &str) -> bool {
    text.contains("executable file not found") || text.contains("no such file or directory")
}

/// Says what it was that failed.
fn of_networking(error: ContainerError) -> ContainerError {
    match error {
        ContainerError::Outside(Failure { kind, message }) => {
            let message = format!("failed to set up container networking: {message}");
            ContainerError::Outside(Failure { kind, message })
        }
        error => error,
    }
}
