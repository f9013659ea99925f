//! From a container on disk to a running one.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine_kernel::etc::{self, DnsRequest};
use engine_kernel::overlay::Overlay;
use engine_kernel::{cgroup, loopback};
use engine_model::{Endpoint, EndpointRequest, PortRequest, PublishedPort};
use engine_shim::client::{self, Connection};
use engine_shim::protocol::{self, ContainerTask, LogConfig, Reply, Request, ShimConfig, Task, VolumeFill};
use jiff::Timestamp;

use super::record::{EXIT_FILE, Identity, MountKind, Status};
use super::{Container, ContainerError, Containers, gone_is_fine, logs};
use crate::spec::{self, Namespace, Surroundings};

/// What the network gave.
#[derive(Default)]
struct Connected {
    endpoints: Vec<Endpoint>,
    ports: Vec<PublishedPort>,
}

/// Files that the engine writes for a container, and where they appear in it.
pub(super) const FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

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
        if result.is_err() && container.identity().host.auto_remove {
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
                container.life.send_modify(|life| {
                    life.alive = false;
                    life.exit_code = code;
                    life.error = text;
                });
                Err(error)
            }
        }
    }

    async fn bring_up(&self, container: &Arc<Container>) -> Result<(), ContainerError> {
        let identity = container.identity();
        let around = self.surroundings(container, &identity)?;
        let config = {
            let (container, identity) = (Arc::clone(container), Arc::clone(&identity));
            self.blocking(move |containers| containers.write_bundle(&container, &identity, &around)).await?
        };
        let (connection, pid) = client::spawn(&container.runtime_directory, &config).await?;
        let connected = match self.connect(container, &identity, pid).await {
            Ok(connected) => connected,
            Err(error) => {
                abandon(connection).await;
                self.disconnect(&container.id).await;
                return Err(error);
            }
        };
        match self.begin(container, connection, pid, connected).await {
            Ok(connection) => {
                self.watch(container, connection);
                Ok(())
            }
            Err(error) => {
                self.disconnect(&container.id).await;
                Err(error)
            }
        }
    }

    /// Lets the process begin, once those who asked for its output are connected.
    async fn begin(
        &self,
        container: &Arc<Container>,
        mut connection: Connection,
        pid: i32,
        connected: Connected,
    ) -> Result<Connection, ContainerError> {
        let shim = container.shim();
        let pending = std::mem::take(&mut *container.pending());
        for client in pending {
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
        });
        // The disk and the process begin their work together.
        let (settled, answer) = tokio::join!(container.settle(), connection.ask(&Request::Start));
        let () = settled;
        match answer? {
            Reply::Started { .. } => {}
            _ => return Err(client::ShimError::Gone.into()),
        }
        container.life.send_modify(|life| {
            life.alive = true;
            life.error.clear();
        });
        container.publish(&self.0.events, "start", &[]);
        Ok(connection)
    }

    /// Writes everything that the supervising process reads.
    fn write_bundle(
        &self,
        container: &Container,
        identity: &Identity,
        around: &Surroundings,
    ) -> Result<ShimConfig, ContainerError> {
        engine_shim::client::wait_for_end(&container.directory)?;
        engine_shim::client::prepare(&container.runtime_directory)?;
        let exit_file = container.directory.join(EXIT_FILE);
        gone_is_fine(fs::remove_file(&exit_file))
            .map_err(|source| ContainerError::Remove { path: exit_file.clone(), source })?;
        let write = |path: PathBuf, content: &[u8]| {
            fs::write(&path, content).map_err(|source| ContainerError::Write { path, source })
        };
        write(container.directory.join("hostname"), format!("{}\n", around.hostname).as_bytes())?;
        write(container.directory.join("resolv.conf"), resolver(identity).as_bytes())?;
        write(container.directory.join("hosts"), own_hosts(identity, &around.hostname, &[])?.as_bytes())?;
        self.create_sources(&identity.mounts)?;
        let (spec, devices) = spec::build(identity, around)?;
        let text = serde_json::to_vec(&spec).map_err(spec::SpecError::from)?;
        write(container.runtime_directory.join(protocol::BUNDLE), &text)?;
        let lower = self.0.images.lower_dirs(&identity.image_id)?;
        let [rows, columns] = identity.host.console_size.map(|size| u16::try_from(size).unwrap_or(0));
        let volumes = identity
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Volume && point.copy)
            .map(|point| VolumeFill { source: point.source.clone(), destination: point.destination.clone() })
            .collect();
        Ok(ShimConfig {
            id: container.id.clone(),
            task: Task::Container(Box::new(ContainerTask {
                overlay: Overlay {
                    lower,
                    upper: container.directory.join("upper"),
                    work: container.directory.join("work"),
                },
                volumes,
                devices,
                shares_pid_namespace: around.pid != Namespace::Own,
                init: identity.host.init == Some(true),
            })),
            terminal: identity.config.tty,
            console_size: (rows > 0 && columns > 0).then_some((rows, columns)),
            open_stdin: identity.config.open_stdin,
            stdin_once: identity.config.stdin_once,
            log: log_config(container, &identity.log_options)?,
            exit_file,
            user: identity.config.user.clone(),
            groups: identity.host.group_add.clone().unwrap_or_default(),
            cgroup: container.cgroup.clone(),
        })
    }

    fn surroundings(
        &self,
        container: &Container,
        identity: &Identity,
    ) -> Result<Surroundings, ContainerError> {
        let host = &identity.host;
        let network = match host.network_mode.as_str() {
            "host" => Namespace::Host,
            mode => match mode.strip_prefix("container:") {
                Some(other) => self.shared_namespace(other, "net")?,
                None => Namespace::Own,
            },
        };
        let namespace = |mode: &str, kind: &str| match mode {
            "host" => Ok(Namespace::Host),
            mode => match mode.strip_prefix("container:") {
                Some(other) => self.shared_namespace(other, kind),
                None => Ok(Namespace::Own),
            },
        };
        let ipc = namespace(&host.ipc_mode, "ipc")?;
        let shared_memory = match host.ipc_mode.strip_prefix("container:") {
            Some(other) => {
                Some(PathBuf::from(format!("/proc/{}/root/dev/shm", self.find(other)?.state().pid)))
            }
            None => None,
        };
        // Whoever is in another's network has the other's names for it.
        let files_of = match host.network_mode.strip_prefix("container:") {
            Some(other) => self.find(other)?.directory.clone(),
            None => container.directory.clone(),
        };
        let hostname = match identity.config.hostname.as_str() {
            "" if host.network_mode == "host" || host.uts_mode == "host" => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            "" => container.default_hostname(),
            name => name.to_owned(),
        };
        Ok(Surroundings {
            rootfs: container.runtime_directory.join(protocol::ROOTFS),
            cgroup: container.cgroup.clone(),
            hostname,
            network,
            pid: namespace(&host.pid_mode, "pid")?,
            ipc,
            shared_memory,
            files: FILES.iter().map(|(name, inside)| (files_of.join(name), PathBuf::from(inside))).collect(),
            default_ulimits: self.0.config.default_ulimits.clone(),
            unified_cgroups: cgroup::is_unified(),
        })
    }

    fn shared_namespace(&self, other: &str, kind: &str) -> Result<Namespace, ContainerError> {
        let other = self.find(other)?;
        let state = other.state();
        if !state.status.is_alive() {
            let message = format!("cannot join network of a non running container: {}", other.id);
            return Err(ContainerError::Conflict(message));
        }
        Ok(Namespace::Shared(format!("/proc/{}/ns/{kind}", state.pid).into()))
    }

    /// Gives the new network namespace its interfaces and publishes ports.
    async fn connect(
        &self,
        container: &Container,
        identity: &Identity,
        pid: i32,
    ) -> Result<Connected, ContainerError> {
        let mode = identity.host.network_mode.as_str();
        let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
        if mode == "host" || mode.starts_with("container:") {
            return Ok(Connected::default());
        }
        if mode == "none" || identity.config.network_disabled == Some(true) {
            let result = tokio::task::spawn_blocking(move || loopback::bring_up(&netns)).await?;
            return match result {
                Ok(()) => Ok(Connected::default()),
                Err(error) => {
                    Err(ContainerError::Refused(format!("Could not bring the loopback up: {error}")))
                }
            };
        }
        let network = &self.0.network;
        let hosts_file = container.directory.join("hosts");
        let mut connected = Connected::default();
        let mut wanted = vec![mode];
        wanted.extend(identity.networks.keys().map(String::as_str).filter(|name| !same_network(name, mode)));
        for name in wanted {
            let request = endpoint_request(identity, name, &hosts_file)?;
            connected.endpoints.push(network.attach(&container.id, &netns, &request).await?);
        }
        if let Some(first) = connected.endpoints.first() {
            let ports = port_requests(identity)?;
            if !ports.is_empty() {
                connected.ports = network.publish(&container.id, first, &ports).await?;
            }
        }
        write_hosts(&hosts_file, identity, container, &connected.endpoints)?;
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

/// Lets a supervising process end that has not begun, and waits until it has cleaned up.
async fn abandon(mut connection: Connection) {
    connection.close().await;
    // It answers with the end of the stream when all is gone.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), connection.reply()).await;
}

fn same_network(name: &str, mode: &str) -> bool {
    let plain = |name: &str| if name == "default" { "bridge".to_owned() } else { name.to_owned() };
    plain(name) == plain(mode)
}

fn endpoint_request(
    identity: &Identity,
    name: &str,
    hosts_file: &Path,
) -> Result<EndpointRequest, ContainerError> {
    let wish = identity.networks.iter().find(|(known, _)| same_network(known, name)).map(|(_, wish)| wish);
    let address = match wish.and_then(|wish| wish.ipam_config.as_ref()).map(|ipam| ipam.ipv4_address.as_str())
    {
        None | Some("") => None,
        Some(text) => {
            let parsed =
                text.parse().map_err(|_| ContainerError::Invalid(format!("invalid IPv4 address: {text}")))?;
            Some(parsed)
        }
    };
    let own_mac =
        identity.config.mac_address.clone().filter(|_| same_network(name, &identity.host.network_mode));
    let mac_address = wish.map(|wish| wish.mac_address.clone()).filter(|mac| !mac.is_empty()).or(own_mac);
    Ok(EndpointRequest {
        network: name.to_owned(),
        container_name: identity.name.clone(),
        address,
        mac_address: mac_address.filter(|mac| !mac.is_empty()),
        aliases: wish.and_then(|wish| wish.aliases.clone()).unwrap_or_default(),
        hosts_file: Some(hosts_file.to_owned()),
    })
}

/// The file is mounted already, so it is written in place. What the network has put there stays.
fn write_hosts(
    path: &Path,
    identity: &Identity,
    container: &Container,
    endpoints: &[Endpoint],
) -> Result<(), ContainerError> {
    let hostname = match identity.config.hostname.as_str() {
        "" => container.default_hostname(),
        name => name.to_owned(),
    };
    let base = own_hosts(identity, &hostname, &[])?;
    let full = own_hosts(identity, &hostname, endpoints)?;
    let current = fs::read_to_string(path).unwrap_or_default();
    let added = current.strip_prefix(base.as_str()).unwrap_or_default();
    fs::write(path, format!("{full}{added}"))
        .map_err(|source| ContainerError::Write { path: path.to_owned(), source })
}

fn own_hosts(identity: &Identity, hostname: &str, endpoints: &[Endpoint]) -> Result<String, ContainerError> {
    if identity.host.network_mode == "host" && identity.host.extra_hosts.as_ref().is_none_or(Vec::is_empty) {
        // The names that hold on the host hold in its network.
        return Ok(fs::read_to_string("/etc/hosts").unwrap_or_default());
    }
    let gateway = endpoints.first().and_then(|endpoint| endpoint.gateway).map(IpAddr::from);
    let entries = identity.host.extra_hosts.clone().unwrap_or_default();
    // Before there is a network, the gateway is not known yet.
    let extra = if endpoints.is_empty() {
        let entries: Vec<_> = entries.into_iter().filter(|entry| !entry.ends_with("host-gateway")).collect();
        etc::extra_hosts(&entries, None)
    } else {
        etc::extra_hosts(&entries, gateway)
    };
    let extra = extra.map_err(|error| ContainerError::Invalid(error.to_string()))?;
    let addresses: Vec<IpAddr> = endpoints.iter().map(|endpoint| endpoint.address.into()).collect();
    Ok(etc::hosts(hostname, &identity.config.domainname, &addresses, &extra))
}

fn resolver(identity: &Identity) -> String {
    let host = &identity.host;
    if host.network_mode == "host"
        && host.dns.is_empty()
        && host.dns_search.is_empty()
        && host.dns_options.is_empty()
    {
        return fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    etc::resolv_conf(&DnsRequest {
        servers: host.dns.clone(),
        search: host.dns_search.clone(),
        options: host.dns_options.clone(),
    })
}

fn log_config(
    container: &Container,
    options: &BTreeMap<String, String>,
) -> Result<Option<LogConfig>, ContainerError> {
    let Some(path) = container.log_path() else { return Ok(None) };
    let (max_size, max_files) = logs::limits(options).map_err(ContainerError::Invalid)?;
    Ok(Some(LogConfig { path, max_size, max_files }))
}

/// The ports to publish: those that were named, and with `-P` all that the image exposes.
fn port_requests(identity: &Identity) -> Result<Vec<PortRequest>, ContainerError> {
    let invalid = |text: &str| ContainerError::Invalid(format!("invalid port specification: \"{text}\""));
    let port = |text: &str| -> Result<_, ContainerError> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let number: u16 = number.parse().map_err(|_| invalid(text))?;
        let protocol = protocol.parse().map_err(|_| invalid(text))?;
        Ok((number, protocol))
    };
    let mut requests = Vec::new();
    for (text, bindings) in &identity.host.port_bindings {
        let (container_port, protocol) = port(text)?;
        let default = [engine_model::wire::PortBinding::default()];
        let bindings = bindings.as_deref().filter(|bindings| !bindings.is_empty()).unwrap_or(&default);
        for binding in bindings {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                address => Some(address.parse().map_err(|_| invalid(address))?),
            };
            let host_port = match binding.host_port.split('-').next().unwrap_or_default() {
                "" => None,
                number => Some(number.parse().map_err(|_| invalid(&binding.host_port))?),
            };
            requests.push(PortRequest { protocol, container_port, host_ip, host_port });
        }
    }
    if identity.host.publish_all_ports {
        for text in identity.config.exposed_ports.iter().flatten().map(|(text, _)| text) {
            let (container_port, protocol) = port(text)?;
            if !requests
                .iter()
                .any(|known| known.container_port == container_port && known.protocol == protocol)
            {
                requests.push(PortRequest { protocol, container_port, host_ip: None, host_port: None });
            }
        }
    }
    Ok(requests)
}

/// What the supervising process said, in the words that docker's clients look for.
fn translate(error: ContainerError) -> ContainerError {
    let ContainerError::Shim(client::ShimError::Refused(message)) = error else { return error };
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
