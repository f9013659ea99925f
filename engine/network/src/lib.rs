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
//! On networks that users have made, containers find one another by name: `resolver` answers them at 127.0.0.11.
//!
//! The packet filter's table is written as a whole when the daemon starts, and from then on changed by what comes and goes. What
//! is wanted is kept in files.
//!
//! # Locks
//!
//! In this order; who holds one may take those below it:
//!
//! 1. The turn at a network (`Running::turn`): held for all of the work on one network, however slow its kernel's answers, its
//!    bridge or its container's namespace are. Nobody has more than one, except who restores: all of them, by their ids.
//! 2. One of these, never two: the packet filter's table (`Rules`), the file of networks, the file of attachments, the hosts files.
//!    Each for one change of it, by a thread that may block. What is written is asked for when the lock is held, so that the
//!    last to write writes the newest.
//! 3. What the networks are (`Running`): for the moments in which it is read or changed. Nothing is waited for meanwhile, and
//!    the kernel is not asked, except where a starting daemon makes lost networks anew. What is under way is noted there
//!    (`planned`, `arriving`), so that nobody else takes its name, bridge, subnet, interface or address.
//! 4. Who is called what (`Names`), for the moment of a look or a change; and the resolvers at work.
//!
//! Calls for one container come one after the other: who keeps containers sees to that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine_model::task::vital;
use engine_model::{
    AddressPool, Endpoint, EndpointRequest, Found, Ipv6Place, Naming, NetworkConfig, PortRequest, Protocol,
    PublishedPort,
};
use engine_store::Quarantine;
use tokio::sync::OwnedMutexGuard;
use tracing::warn;

mod addresses;
mod announce;
mod bridge;
mod built_in;
mod conntrack;
mod error;
mod filter;
mod inside;
mod ipv6;
mod links;
mod membership;
mod names;
mod naming;
mod networks;
mod plan;
mod pools;
mod ports;
mod proxy;
mod rebuild;
mod record;
mod resolver;
mod restore;
mod rules;
mod running;
mod state;
#[cfg(test)]
mod tests;
mod vlan;

use filter::Removals;
use names::Names;
use ports::Ephemeral;
use record::State;
use resolver::Resolver;
use rules::Rules;
use running::Running;

pub use addresses::Subnet;
pub use error::NetworkError;
pub use plan::{NewNetwork, is_followed};
pub use pools::WishedPool;
pub use record::{Attachment, BridgeRecord, NetworkKind, NetworkRecord, PoolRecord, VlanKind, VlanRecord};

/// The default network and its bridge.
const DEFAULT_NETWORK: &str = "bridge";
const DEFAULT_BRIDGE: &str = "docker0";
const DEFAULT_MTU: u32 = 1500;
/// Networks of this engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    running: Mutex<Running>,
    rules: Rules,
    ephemeral: Ephemeral,
    networks_file: Mutex<()>,
    attachments_file: Mutex<()>,
    hosts_files: Mutex<()>,
    host_gateways: Vec<IpAddr>,
    /// Where subnets are chosen from.
    pools: Vec<AddressPool>,
    names: Arc<Names>,
    /// By the container's id.
    resolvers: Mutex<HashMap<String, Resolver>>,
}

/// A panic of somebody else has changed nothing by halves: what is under the locks is changed in single steps.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Below that, the kernel takes IPv6 from an interface.
        let least = if config.ipv6 { plan::LEAST_MTU_OF_IPV6 } else { 68 };
        if !(least..=65_535).contains(&mtu) {
            return Err(NetworkError::Mtu { value: mtu });
        }
        let ipv4 = config.bip.as_deref().map(built_in::bridge_address).transpose()?;
        let ipv6 = config.fixed_cidr_v6.as_deref().map(built_in::fixed_subnet).transpose()?;
        let pools = pools::pools(&config.pools, &config.host_id);
        let choice = pools.clone();
        let (folder, quarantine, wishes) = (state_dir.to_owned(), quarantine.clone(), config.clone());
        let (folder, state) = blocking(move || {
            let mut state = State::load(&folder, &quarantine)?;
            built_in::ensure(&mut state, [ipv4, ipv6], mtu, &wishes, &choice)?;
            bridge::enable_forwarding()?;
            let bridges = || state.networks.iter().filter_map(|one| Some((one.bridge()?, one)));
            if state.networks.iter().any(NetworkRecord::has_ipv6) && ipv6::is_enabled() {
                ipv6::enable_forwarding()?;
            }
            for (bridge, network) in bridges() {
                match bridge::ensure(bridge, &network.pools) {
                    // One network that cannot be is no reason to leave all the others without an engine.
                    Err(error) if network.name != DEFAULT_NETWORK => {
                        let error = engine_model::chain(&error);
                        warn!(network = network.name, error, "The bridge of a network could not be made");
                    }
                    result => result?,
                }
            }
            for vlan in state.networks.iter().filter_map(NetworkRecord::vlan) {
                // Containers that run have theirs; the others are told when they start.
                if let Err(error) = vlan::ensure_parent(vlan) {
                    warn!(error = engine_model::chain(&error), "The interface of a network is not there");
                }
            }
            state.save_networks(&folder)?;
            Ok((folder, state))
        })
        .await?;

        let names = Arc::new(Names::default());
        let running = Running::new(state, Arc::clone(&names));
        let rules = Rules::new(!config.no_ipv6_rules);
        let wanted = running.wanted(false);
        rules.replace(move || wanted).await?;
        let inner = Arc::new(Inner {
            folder,
            running: Mutex::new(running),
            rules,
            ephemeral: Ephemeral::default(),
            networks_file: Mutex::default(),
            attachments_file: Mutex::default(),
            hosts_files: Mutex::default(),
            host_gateways: config.host_gateways.clone(),
            pools,
            names,
            resolvers: Mutex::default(),
        });
        let removals = Removals::watch()
            .inspect_err(|error| warn!(%error, "The kernel does not tell of changes to packet filters"))
            .ok();
        vital(restore::guard(Arc::downgrade(&inner), removals));
        Ok(Self { inner })
    }

    /// What the networks are at this moment.
    fn running(&self) -> MutexGuard<'_, Running> {
        locked(&self.inner.running)
    }

    /// Waits for one's turn at a network, which may be gone by then; errors say `name`.
    async fn turn(&self, id: &str, name: &str) -> Result<(NetworkRecord, OwnedMutexGuard<()>), NetworkError> {
        let turn = self.running().turn(id);
        let turn = turn.lock_owned().await;
        let mut running = self.running();
        let Some(network) = running.state.networks.iter().find(|network| network.id == id).cloned() else {
            running.forget_turn(id);
            return Err(NetworkError::NoSuchNetwork { name: name.chars().take(100).collect() });
        };
        Ok((network, turn))
    }

    /// Keeps what the networks are.
    async fn save_networks(&self) -> Result<(), NetworkError> {
        let network = self.clone();
        blocking(move || {
            let _file = locked(&network.inner.networks_file);
            let state = network.running().state.clone();
            state.save_networks(&network.inner.folder)
        })
        .await
    }

    /// Keeps who is on them.
    async fn save(&self) -> Result<(), NetworkError> {
        let network = self.clone();
        blocking(move || {
            let _file = locked(&network.inner.attachments_file);
            let state = network.running().state.clone();
            state.save_attachments(&network.inner.folder)
        })
        .await
    }
}
