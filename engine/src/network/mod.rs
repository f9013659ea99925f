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
//! The packet filter's table is written anew from what is wanted, after every change. What is wanted is kept in one file.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard};
use tracing::{debug, info, warn};

mod addresses;
mod bridge;
mod conntrack;
mod error;
pub mod files;
mod filter;
mod links;
mod namespace;
mod neighbours;
mod netlink;
mod networks;
mod ports;
mod proxy;
mod state;
#[cfg(test)]
mod tests;
mod types;

use addresses::{NoAddress, Pool, Subnet};
use ports::{Ephemeral, Publication};
use state::State;

pub use error::NetworkError;
pub use networks::NewNetwork;
pub use state::{Attachment, BridgeRecord, NetworkKind, NetworkRecord};
pub use types::{
    Endpoint, EndpointRequest, NetworkConfig, PortRequest, Protocol, PublishedPort, UnknownProtocol,
};

/// The default network and its bridge.
const DEFAULT_NETWORK: &str = "bridge";
const DEFAULT_BRIDGE: &str = "docker0";
const DEFAULT_MTU: u32 = 1500;
/// How often a port that somebody else took while the daemon was away is tried again.
const BETWEEN_TRIES: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

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

/// What is kept, and what runs because of it.
#[derive(Debug)]
struct Running {
    state: State,
    /// By the network's id.
    pools: HashMap<String, Pool>,
    /// By the container's id.
    publications: HashMap<String, Vec<Publication>>,
    waiting: Vec<Waiting>,
    ephemeral: Ephemeral,
}

/// A published port that somebody else holds.
#[derive(Debug)]
struct Waiting {
    container: String,
    endpoint: Endpoint,
    port: PublishedPort,
}

/// Work with the kernel, away from the threads that serve requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|source| Err(NetworkError::Interrupted { source }))
}

/// Sixty-four hexadecimal digits, as every identifier of the engine has.
fn new_identifier() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

impl Network {
    /// Makes the default bridge and the packet filter's table, or makes them right. Containers of before stay connected.
    pub async fn open(config: &NetworkConfig, state_dir: &Path) -> Result<Self, NetworkError> {
        let mtu = config.mtu.unwrap_or(DEFAULT_MTU);
        if !(68..=65_535).contains(&mtu) {
            return Err(NetworkError::Mtu { value: mtu });
        }
        let wish = config.bip.as_deref().map(bridge_address).transpose()?;
        let folder = state_dir.to_owned();
        let (folder, state) = blocking(move || {
            let mut state = State::load(&folder)?;
            built_in(&mut state, wish, mtu)?;
            bridge::enable_forwarding()?;
            for bridge in state.networks.iter().filter_map(NetworkRecord::bridge) {
                bridge::ensure(bridge)?;
            }
            state.save(&folder)?;
            Ok((folder, state))
        })
        .await?;

        let mut running = Running {
            pools: state
                .networks
                .iter()
                .filter_map(|network| Some((network.id.clone(), pool(network)?)))
                .collect(),
            state,
            publications: HashMap::new(),
            waiting: Vec::new(),
            ephemeral: Ephemeral::default(),
        };
        let Running { state, pools, .. } = &mut running;
        state.attachments.retain(|attachment| {
            let endpoint = &attachment.endpoint;
            let kept = pools.get_mut(&endpoint.network_id).is_some_and(|pool| pool.take(endpoint.address).is_ok());
            if !kept {
                warn!(container = %attachment.container, address = %endpoint.address, network = %endpoint.network_name,
                    "A container's address is not of its network any more");
            }
            kept
        });
        let network = Self { inner: Arc::new(Inner { folder, running: Mutex::new(running) }) };
        // Ports lead to their containers from the first moment on, although nobody listens on them yet.
        let running = network.running().await;
        let redirections = running
            .state
            .attachments
            .iter()
            .flat_map(|attachment| {
                attachment.ports.iter().filter_map(|port| redirection(*port, attachment.endpoint.address))
            })
            .collect();
        running.filter(redirections).await?;
        drop(running);
        Ok(network)
    }

    async fn running(&self) -> MutexGuard<'_, Running> {
        self.inner.running.lock().await
    }

    async fn save(&self, running: &mut Running) -> Result<(), NetworkError> {
        let mut state = running.state.clone();
        let folder = self.inner.folder.clone();
        blocking(move || state.save(&folder)).await
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
            self.save(&mut running).await?;
        }
        running.renew_names(&network.id, None).await;
        Ok(endpoint)
    }

    /// Starts the loopback of a container that is on no network.
    pub async fn isolate(&self, netns: &Path) -> Result<(), NetworkError> {
        let netns = netns.to_owned();
        blocking(move || bridge::raise_loopback(&netns)).await
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
        let before = running.withdraw(container).await;
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
            running.state.attachments[at].ports.clear();
            running.apply().await?;
            return Err(error);
        }
        let published: Vec<PublishedPort> = held.iter().map(|held| held.port).collect();
        let publications = held.into_iter().map(|held| Publication::start(held, endpoint.address)).collect();
        running.publications.insert(container.to_owned(), publications);
        running.state.attachments[at].ports.clone_from(&published);
        if let Err(error) = running.apply().await {
            running.withdraw(container).await;
            running.state.attachments[at].ports.clear();
            return Err(error);
        }
        forget_datagrams(before.into_iter().chain(published.iter().copied())).await;
        self.save(&mut running).await?;
        Ok(published)
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
        let ports =
            if has_ports || network.is_none() { running.withdraw(container).await } else { Vec::new() };
        for attachment in &leaving {
            running.give_back(&attachment.endpoint);
        }
        let interfaces: Vec<String> =
            leaving.iter().map(|attachment| attachment.endpoint.host_interface.clone()).collect();
        let removed =
            blocking(move || interfaces.iter().try_for_each(|interface| bridge::remove(interface))).await;
        if !ports.is_empty() {
            running.apply().await?;
            forget_datagrams(ports.into_iter()).await;
        }
        self.save(&mut running).await?;
        for attachment in &leaving {
            running.renew_names(&attachment.endpoint.network_id, Some(container)).await;
        }
        removed
    }

    /// After the daemon was away: containers in `live` keep their place and get their ports back, all others lose theirs.
    ///
    /// A port that somebody else has taken meanwhile is warned of, and tried again until it is free.
    pub async fn restore(&self, live: &[(String, Endpoint, Vec<PublishedPort>)]) -> Result<(), NetworkError> {
        let mut running = self.running().await;
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
                        warn!(container = %container, error = crate::api::error::chain(&error),
                            "A published port could not be opened again; it will be tried until it is free");
                        let (container, endpoint) = (container.clone(), endpoint.clone());
                        running.waiting.push(Waiting { container, endpoint, port: *port });
                    }
                }
            }
            running.publications.insert(container.clone(), publications);
        }
        running.apply().await?;
        self.save(&mut running).await?;
        for network in running.state.networks.clone() {
            running.renew_names(&network.id, None).await;
        }
        if !running.waiting.is_empty() {
            tokio::spawn(try_again(Arc::downgrade(&self.inner)));
        }
        Ok(())
    }
}

impl Running {
    fn position(&self, container: &str, network_id: &str) -> Option<usize> {
        self.state.attachments.iter().position(|attachment| {
            attachment.container == container && attachment.endpoint.network_id == network_id
        })
    }

    fn new_endpoint(
        &mut self,
        container: &str,
        network: &NetworkRecord,
        bridge: &BridgeRecord,
        request: &EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        let wished_hardware_address = request
            .mac_address
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(bridge::parse_hardware_address)
            .transpose()?;
        let exhausted = || NetworkError::Exhausted { network: network.name.clone() };
        let pool = self.pools.get_mut(&network.id).ok_or_else(exhausted)?;
        let taken = match request.address {
            Some(address) => pool.take(address).map(|()| address),
            None => pool.take_any(),
        };
        let address = taken.map_err(|reason| match reason {
            NoAddress::Exhausted => exhausted(),
            NoAddress::Taken(address) => NetworkError::AddressTaken { address },
            NoAddress::Outside(address) => NetworkError::AddressOutside { address },
        })?;
        let used: Vec<&str> = self
            .state
            .attachments
            .iter()
            .filter(|attachment| attachment.container == container)
            .map(|attachment| attachment.endpoint.interface.as_str())
            .collect();
        let interface =
            (0..=used.len()).map(|number| format!("eth{number}")).find(|name| !used.contains(&name.as_str()));
        let hardware_address =
            wished_hardware_address.unwrap_or_else(|| bridge::derive_hardware_address(address));
        let endpoint_id = new_identifier();
        Ok(Endpoint {
            host_interface: bridge::host_interface(&endpoint_id),
            endpoint_id,
            network_id: network.id.clone(),
            network_name: network.name.clone(),
            container_name: request.container_name.clone(),
            interface: interface.unwrap_or_else(|| "eth0".to_owned()),
            address,
            prefix: bridge.subnet.prefix(),
            gateway: (!network.internal).then_some(bridge.gateway),
            mac_address: bridge::format_hardware_address(hardware_address),
            mtu: bridge.mtu,
            aliases: request.aliases.clone(),
            hosts_file: request.hosts_file.clone(),
        })
    }

    fn give_back(&mut self, endpoint: &Endpoint) {
        if let Some(pool) = self.pools.get_mut(&endpoint.network_id) {
            pool.give_back(endpoint.address);
        }
    }

    /// Closes a container's ports; the caller renews the packet filter.
    async fn withdraw(&mut self, container: &str) -> Vec<PublishedPort> {
        self.waiting.retain(|waiting| waiting.container != container);
        let mut ports = Vec::new();
        for publication in self.publications.remove(container).unwrap_or_default() {
            ports.push(publication.port);
            publication.stop().await;
        }
        ports
    }

    /// Renews the packet filter.
    async fn apply(&self) -> Result<(), NetworkError> {
        let redirections = self
            .publications
            .values()
            .flatten()
            .filter_map(|publication| redirection(publication.port, *publication.target.ip()))
            .collect();
        self.filter(redirections).await
    }

    async fn filter(&self, redirections: Vec<filter::Redirection>) -> Result<(), NetworkError> {
        let bridges: Vec<filter::Bridge> = self
            .state
            .networks
            .iter()
            .filter_map(|network| Some((network, network.bridge()?)))
            .map(|(network, bridge)| filter::Bridge {
                interface: bridge.interface.clone(),
                subnet: bridge.subnet,
                internal: network.internal,
                masquerade: bridge.masquerade,
                among_themselves: bridge.among_themselves,
            })
            .collect();
        blocking(move || {
            filter::apply(&bridges, &redirections)
                .map_err(bridge::failed("set up the packet filter (nf_tables)"))
        })
        .await
    }

    /// Makes the attachments those of `live`.
    fn keep_only(&mut self, live: &[(String, Endpoint, Vec<PublishedPort>)]) {
        let is_live = |attachment: &Attachment| {
            live.iter().any(|(container, endpoint, _)| {
                *container == attachment.container && endpoint.endpoint_id == attachment.endpoint.endpoint_id
            })
        };
        let (kept, stale): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.state.attachments).into_iter().partition(is_live);
        self.state.attachments = kept;
        for attachment in stale {
            debug!(container = %attachment.container, "An endpoint without a container is removed");
            self.give_back(&attachment.endpoint);
        }
        for (container, endpoint, ports) in live {
            match self.position(container, &endpoint.network_id) {
                Some(at) => self.state.attachments[at].ports.clone_from(ports),
                None => {
                    match self.pools.get_mut(&endpoint.network_id).map(|pool| pool.take(endpoint.address)) {
                        Some(Ok(())) => self.state.attachments.push(Attachment {
                            container: container.clone(),
                            endpoint: endpoint.clone(),
                            ports: ports.clone(),
                        }),
                        _ => warn!(%container, address = %endpoint.address, network = %endpoint.network_name,
                        "A container's place on its network is not free any more"),
                    }
                }
            }
        }
    }
}

/// Reads `bip`: the bridge's own address.
fn bridge_address(text: &str) -> Result<(Ipv4Addr, Subnet), NetworkError> {
    Subnet::with_address(text)
        .ok()
        .filter(|(address, subnet)| *address != subnet.first() && *address != subnet.broadcast())
        .ok_or_else(|| NetworkError::BridgeAddress { value: text.chars().take(50).collect() })
}

/// Adds the three networks that are always there, and gives the default bridge what the configuration says.
fn built_in(state: &mut State, wish: Option<(Ipv4Addr, Subnet)>, mtu: u32) -> Result<(), NetworkError> {
    let known = state.networks.iter().find(|network| network.name == DEFAULT_NETWORK).cloned();
    let before = known.as_ref().and_then(NetworkRecord::bridge).map(|bridge| (bridge.gateway, bridge.subnet));
    let (gateway, subnet) = match wish.or(before) {
        Some(address) => address,
        None => {
            let subnet = networks::free_subnet(state, &[DEFAULT_BRIDGE])?;
            (subnet.nth(1), subnet)
        }
    };
    let option = |name: &str, value: &str| (format!("com.docker.network.{name}"), value.to_owned());
    let record = |name: &str, kind: NetworkKind, options: BTreeMap<String, String>| NetworkRecord {
        id: new_identifier(),
        name: name.to_owned(),
        created: Timestamp::now(),
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options,
        kind,
    };
    let options = BTreeMap::from([
        option("bridge.default_bridge", "true"),
        option("bridge.enable_icc", "true"),
        option("bridge.enable_ip_masquerade", "true"),
        option("bridge.host_binding_ipv4", "0.0.0.0"),
        option("bridge.name", DEFAULT_BRIDGE),
        option("driver.mtu", &mtu.to_string()),
    ]);
    let kind = NetworkKind::Bridge(BridgeRecord {
        interface: DEFAULT_BRIDGE.to_owned(),
        subnet,
        gateway,
        range: None,
        mtu,
        masquerade: true,
        among_themselves: true,
        auxiliary: BTreeMap::new(),
    });
    match state.networks.iter_mut().find(|network| network.name == DEFAULT_NETWORK) {
        Some(network) => {
            network.kind = kind;
            network.options = options;
        }
        None => state.networks.push(record(DEFAULT_NETWORK, kind, options)),
    }
    for (name, kind) in [("host", NetworkKind::Host), ("none", NetworkKind::Null)] {
        if !state.networks.iter().any(|network| network.name == name) {
            state.networks.push(record(name, kind, BTreeMap::new()));
        }
    }
    Ok(())
}

/// A network's addresses, with the gateway's taken.
fn pool(network: &NetworkRecord) -> Option<Pool> {
    let bridge = network.bridge()?;
    let mut pool = Pool::new(bridge.subnet, bridge.range);
    for address in bridge.auxiliary.values().copied().chain([bridge.gateway]) {
        let _ = pool.take(address);
    }
    Some(pool)
}

/// How the packet filter leads to a published port; what it does not is left to the proxy.
fn redirection(port: PublishedPort, container: Ipv4Addr) -> Option<filter::Redirection> {
    let IpAddr::V4(address) = port.host_ip else { return None };
    (!address.is_loopback()).then(|| filter::Redirection {
        protocol: port.protocol,
        address: (!address.is_unspecified()).then_some(address),
        port: port.host_port,
        target: SocketAddrV4::new(container, port.container_port),
    })
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
            error = crate::api::error::chain(&error),
            "Senders of datagrams may reach a former container for a while"
        );
    }
}

/// Opens ports that somebody else holds as soon as they are free.
async fn try_again(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(BETWEEN_TRIES).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut running = inner.running.lock().await;
        let before = running.waiting.len();
        for Waiting { container, endpoint, port } in std::mem::take(&mut running.waiting) {
            match ports::hold_again(&endpoint.container_name, port) {
                Ok(held) => {
                    info!(%container, port = port.host_port, "A published port could be opened again");
                    let publication = Publication::start(held, endpoint.address);
                    running.publications.entry(container).or_default().push(publication);
                }
                Err(_) => running.waiting.push(Waiting { container, endpoint, port }),
            }
        }
        if running.waiting.len() < before
            && let Err(error) = running.apply().await
        {
            warn!(
                error = crate::api::error::chain(&error),
                "A published port is reachable by the proxy only"
            );
        }
        if running.waiting.is_empty() {
            return;
        }
    }
}
