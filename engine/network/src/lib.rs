//! Networks of containers: bridges, addresses, published ports.
//!
//! ```text
//!            host                                  container's network namespace
//! outside ── eth0 ── packet filter ── docker0 ── vethXXXXXXX ──── eth0, default route by docker0
//!               │    (masquerade out,    │
//!               │     rewrite in)        │
//!               └── listening sockets ───┘   the proxy, for what the packet filter leaves alone
//! ```
//!
//! The packet filter's table is written as a whole when the daemon starts, and from then on changed by what comes and goes. What
//! is wanted is kept in files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use engine_model::task::vital;
use engine_model::{Endpoint, EndpointRequest, NetworkConfig, PortRequest, Protocol, PublishedPort};
use engine_store::Quarantine;
use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard};
use tracing::{debug, info, warn};

mod addresses;
mod bridge;
mod built_in;
mod conntrack;
mod error;
mod filter;
mod links;
mod neighbours;
mod networks;
mod ports;
mod proxy;
mod rebuild;
mod record;
mod rules;
mod running;
mod state;
#[cfg(test)]
mod tests;

use ports::Publication;
use record::State;
use running::{Running, Waiting, redirection};

pub use error::NetworkError;
pub use networks::{NewNetwork, OPTIONS, SO_ANYWAY};
pub use record::{Attachment, BridgeRecord, NetworkKind, NetworkRecord};

/// The default network and its bridge.
const DEFAULT_NETWORK: &str = "bridge";
const DEFAULT_BRIDGE: &str = "docker0";
const DEFAULT_MTU: u32 = 1500;
/// How often a port that somebody else took while the daemon was away is tried again.
const BETWEEN_TRIES: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// How often the packet filter is looked after.
const BETWEEN_LOOKS: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(30) };

/// Networks of this engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    running: Mutex<Running>,
}

/// Work with the kernel, away from the threads that serve requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|source| Err(NetworkError::Interrupted { source }))
}

impl Network {
    /// Makes the default bridge and the packet filter's table, or makes them right. Containers of before stay connected.
    pub async fn open(
        config: &NetworkConfig,
        state_dir: &Path,
        quarantine: &Quarantine,
    ) -> Result<Self, NetworkError> {
        let mtu = config.mtu.unwrap_or(DEFAULT_MTU);
        if !(68..=65_535).contains(&mtu) {
            return Err(NetworkError::Mtu { value: mtu });
        }
        let wish = config.bip.as_deref().map(built_in::bridge_address).transpose()?;
        let (folder, quarantine) = (state_dir.to_owned(), quarantine.clone());
        let (folder, state) = blocking(move || {
            let mut state = State::load(&folder, &quarantine)?;
            built_in::ensure(&mut state, wish, mtu)?;
            bridge::enable_forwarding()?;
            for bridge in state.networks.iter().filter_map(NetworkRecord::bridge) {
                bridge::ensure(bridge)?;
            }
            state.save_networks(&folder)?;
            Ok((folder, state))
        })
        .await?;

        let running = Running::new(state);
        running.apply_what_was().await?;
        let inner = Arc::new(Inner { folder, running: Mutex::new(running) });
        vital(guard(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    async fn running(&self) -> MutexGuard<'_, Running> {
        self.inner.running.lock().await
    }

    /// Keeps what the networks are.
    async fn save_networks(&self, running: &Running) -> Result<(), NetworkError> {
        let (state, folder) = (running.state.clone(), self.inner.folder.clone());
        blocking(move || state.save_networks(&folder)).await
    }

    /// Keeps who is on them.
    async fn save(&self, running: &Running) -> Result<(), NetworkError> {
        let (state, folder) = (running.state.clone(), self.inner.folder.clone());
        blocking(move || state.save_attachments(&folder)).await
    }

    /// Gives a container an interface on a network. Called again, it finds what is there and completes it; in a new
    /// namespace the container has the same address as before.
    pub async fn attach(
        &self,
        container: &str,
        netns: &Path,
        request: &EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        let mut running = self.running().await;
        let network = running.find(&request.network)?.clone();
        let Some(bridge) = network.bridge().cloned() else {
            return Err(NetworkError::NotForContainers { network: network.name });
        };
        let known = running.position(container, &network.id);
        let endpoint = match known {
            Some(at) => running.state.attachments[at].endpoint.clone(),
            None => running.new_endpoint(container, &network, &bridge, request)?,
        };
        let is_default_route = !running.state.attachments.iter().any(|other| {
            other.container == container
                && other.endpoint.gateway.is_some()
                && other.endpoint.network_id != network.id
        });
        let plugged = {
            let (netns, endpoint) = (netns.to_owned(), endpoint.clone());
            blocking(move || bridge::plug(&netns, &bridge, &endpoint, is_default_route)).await
        };
        if let Err(error) = plugged {
            if known.is_none() {
                running.give_back(&endpoint);
            }
            return Err(error);
        }
        if known.is_none() {
            let container = container.to_owned();
            running.state.attachments.push(Attachment {
                container,
                endpoint: endpoint.clone(),
                ports: Vec::new(),
            });
            self.save(&running).await?;
        }
        running.renew_names(&network.id, None).await;
        Ok(endpoint)
    }

    /// Makes ports of a container reachable on the host, in place of those published for it before.
    pub async fn publish(
        &self,
        container: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let mut running = self.running().await;
        let at =
            running.position(container, &endpoint.network_id).ok_or_else(|| NetworkError::NotAttached {
                container: container.to_owned(),
                network: endpoint.network_name.clone(),
            })?;
        let (before, gone) = running.withdraw(container).await;
        // They may have been published by another of its networks.
        for other in running.state.attachments.iter_mut().filter(|one| one.container == container) {
            other.ports.clear();
        }
        if ports.is_empty() && before.is_empty() {
            return Ok(Vec::new());
        }
        let name = format!("{} ({})", endpoint.container_name, endpoint.endpoint_id);
        let mut held = Vec::new();
        let mut failure = None;
        for request in ports {
            match ports::hold(&name, request, &mut running.ephemeral) {
                Ok(both) => held.extend(both),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failure {
            drop(held);
            running.rules.redirect(gone, Vec::new()).await?;
            return Err(error);
        }
        let published: Vec<PublishedPort> = held.iter().map(|held| held.port).collect();
        let publications = held.into_iter().map(|held| Publication::start(held, endpoint.address)).collect();
        running.publications.insert(container.to_owned(), publications);
        running.state.attachments[at].ports.clone_from(&published);
        let new = published.iter().filter_map(|port| redirection(*port, endpoint.address)).collect();
        if let Err(error) = running.rules.redirect(gone, new).await {
            running.withdraw(container).await;
            running.state.attachments[at].ports.clear();
            return Err(error);
        }
        forget_datagrams(before.into_iter().chain(published.iter().copied())).await;
        self.save(&running).await?;
        Ok(published)
    }

    /// Gives a container another name: who is on its networks finds it by that one from now on.
    pub async fn rename(&self, container: &str, name: &str) -> Result<(), NetworkError> {
        let mut running = self.running().await;
        let mut networks = Vec::new();
        for attachment in running.state.attachments.iter_mut().filter(|one| one.container == container) {
            name.clone_into(&mut attachment.endpoint.container_name);
            networks.push(attachment.endpoint.network_id.clone());
        }
        if networks.is_empty() {
            return Ok(());
        }
        let saved = self.save(&running).await;
        for network in networks {
            running.renew_names(&network, None).await;
        }
        saved
    }

    /// Takes a container off all its networks and closes its ports. That it is gone already is fine.
    pub async fn release(&self, container: &str) -> Result<(), NetworkError> {
        self.take_off(container, None).await
    }

    /// Takes a running container off one network. Was this its way out, the next of its networks becomes that.
    pub async fn detach(
        &self,
        container: &str,
        netns: Option<&Path>,
        network: &str,
    ) -> Result<(), NetworkError> {
        let id = self.running().await.find(network)?.id.clone();
        self.take_off(container, Some(id)).await?;
        let running = self.running().await;
        let remaining =
            running.state.attachments.iter().find(|attachment| {
                attachment.container == container && attachment.endpoint.gateway.is_some()
            });
        let remaining = remaining.map(|attachment| attachment.endpoint.clone());
        let (Some(endpoint), Some(netns)) = (remaining, netns.map(Path::to_owned)) else { return Ok(()) };
        blocking(move || bridge::set_way_out(&netns, &endpoint)).await
    }

    async fn take_off(&self, container: &str, network: Option<String>) -> Result<(), NetworkError> {
        let mut running = self.running().await;
        let (leaving, staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut running.state.attachments).into_iter().partition(|attachment| {
                attachment.container == container
                    && network.as_ref().is_none_or(|id| *id == attachment.endpoint.network_id)
            });
        running.state.attachments = staying;
        if leaving.is_empty() {
            return Ok(());
        }
        let has_ports = leaving.iter().any(|attachment| !attachment.ports.is_empty());
        let (ports, gone) = if has_ports || network.is_none() {
            running.withdraw(container).await
        } else {
            <(Vec<_>, Vec<_>)>::default()
        };
        for attachment in &leaving {
            running.give_back(&attachment.endpoint);
            running.state.last_used.insert(attachment.endpoint.network_id.clone(), Timestamp::now());
        }
        let filtered = running.rules.redirect(gone, Vec::new()).await;
        forget_datagrams(ports.into_iter()).await;
        let saved = self.save(&running).await;
        let interfaces: Vec<String> =
            leaving.iter().map(|attachment| attachment.endpoint.host_interface.clone()).collect();
        let removal = blocking(move || interfaces.iter().try_for_each(|interface| bridge::remove(interface)));
        let removed = if network.is_some() {
            removal.await
        } else {
            // Nobody uses it any more, and the kernel takes its time. What is left over is swept away later.
            tokio::spawn(async {
                if let Err(error) = removal.await {
                    warn!(error = engine_model::chain(&error), "A container's interface is left over");
                }
            });
            Ok(())
        };
        for attachment in &leaving {
            running.renew_names(&attachment.endpoint.network_id, Some(container)).await;
        }
        filtered.and(saved).and(removed)
    }

    /// After the daemon was away: containers in `live` keep their place and get their ports back, all others lose theirs.
    ///
    /// A port that somebody else has taken meanwhile is warned of, and tried again until it is free.
    pub async fn restore(&self, live: &[(String, Endpoint, Vec<PublishedPort>)]) -> Result<(), NetworkError> {
        let mut running = self.running().await;
        if rebuild::rebuild(&mut running.state, live.iter().map(|(_, endpoint, _)| endpoint)) {
            running.bring_in_new().await?;
            self.save_networks(&running).await?;
        }
        running.keep_only(live);
        for network in running.state.networks.clone() {
            let Some(bridge) = network.bridge().cloned() else { continue };
            let wanted: Vec<String> = running
                .state
                .attachments
                .iter()
                .filter(|attachment| attachment.endpoint.network_id == network.id)
                .map(|attachment| attachment.endpoint.host_interface.clone())
                .collect();
            let missing = blocking(move || bridge::sweep(&bridge, &wanted)).await?;
            for interface in missing {
                warn!(%interface, network = %network.name, "A container's interface is gone");
            }
        }
        let attachments = running.state.attachments.clone();
        for Attachment { container, endpoint, ports } in
            attachments.iter().filter(|one| !one.ports.is_empty())
        {
            running.withdraw(container).await;
            let mut publications = Vec::new();
            for port in ports {
                match ports::hold_again(&endpoint.container_name, *port) {
                    Ok(held) => publications.push(Publication::start(held, endpoint.address)),
                    Err(error) => {
                        warn!(container = %container, error = engine_model::chain(&error),
                            "A published port could not be opened again; it will be tried until it is free");
                        let (container, endpoint) = (container.clone(), endpoint.clone());
                        running.waiting.push(Waiting { container, endpoint, port: *port });
                    }
                }
            }
            running.publications.insert(container.clone(), publications);
        }
        running.apply().await?;
        self.save(&running).await?;
        for network in running.state.networks.clone() {
            running.renew_names(&network.id, None).await;
        }
        if !running.waiting.is_empty() {
            vital(try_again(Arc::downgrade(&self.inner)));
        }
        Ok(())
    }
}

async fn forget_datagrams(ports: impl Iterator<Item = PublishedPort>) {
    let ports: Vec<u16> =
        ports.filter(|port| port.protocol == Protocol::Udp).map(|port| port.host_port).collect();
    if ports.is_empty() {
        return;
    }
    let forgotten = blocking(move || {
        conntrack::forget(&ports).map_err(bridge::failed("forget what connection tracking knows of a port"))
    });
    if let Err(error) = forgotten.await {
        debug!(
            error = engine_model::chain(&error),
            "Senders of datagrams may reach a former container for a while"
        );
    }
}

/// Looks after the rules: tools that load the host's firewall often remove everything else.
async fn guard(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let Some(inner) = inner.upgrade() else { return };
        let running = inner.running.lock().await;
        if let Err(error) = running.rules.heal().await {
            warn!(error = engine_model::chain(&error), "The engine's packet filter rules are gone");
        }
    }
}

/// Opens ports that somebody else holds as soon as they are free.
async fn try_again(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(BETWEEN_TRIES).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut running = inner.running.lock().await;
        let mut new = Vec::new();
        for Waiting { container, endpoint, port } in std::mem::take(&mut running.waiting) {
            match ports::hold_again(&endpoint.container_name, port) {
                Ok(held) => {
                    info!(%container, port = port.host_port, "A published port could be opened again");
                    new.extend(redirection(port, endpoint.address));
                    let publication = Publication::start(held, endpoint.address);
                    running.publications.entry(container).or_default().push(publication);
                }
                Err(_) => running.waiting.push(Waiting { container, endpoint, port }),
            }
        }
        if let Err(error) = running.rules.redirect(Vec::new(), new).await {
            warn!(error = engine_model::chain(&error), "A published port is reachable by the proxy only");
        }
        if running.waiting.is_empty() {
            return;
        }
    }
}
