//! After the daemon was away, and what is looked after as long as it runs.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use engine_model::task::vital;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::filter::Removals;
use super::membership::close;
use super::ports::{self, Publication};
use super::running::{Running, Waiting, pools};
use super::{
    Endpoint, Found, Inner, Network, NetworkError, NetworkRecord, PublishedPort, blocking, bridge, locked,
    rebuild,
};

/// How often a port that somebody else took while the daemon was away is tried again.
const BETWEEN_TRIES: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// How often the packet filter is looked after, whatever the kernel tells of it.
const BETWEEN_LOOKS: Duration = Duration::from_secs(30);

/// Resolvers that are brought back at once.
const SIDE_BY_SIDE: usize = 16;

/// Who loads a firewall anew first takes all away and then goes on for a while.
const SETTLING: Duration = Duration::from_millis(200);

impl Network {
    /// After the daemon was away: containers in `live` keep their place and get their ports back, all others lose theirs.
    ///
    /// A port that somebody else has taken meanwhile is warned of, and tried again until it is free.
    pub async fn restore(&self, live: &[Found]) -> Result<(), NetworkError> {
        let _turns = self.all_turns().await;
        let is_changed = {
            let mut running = self.running();
            rebuild::rebuild(&mut running.state, live.iter().map(|found| &found.endpoint))
        };
        if is_changed {
            self.bring_in_new().await?;
            self.save_networks().await?;
        }
        self.running().keep_only(live);
        for network in self.networks() {
            self.sweep(network).await?;
        }
        let with_ports = self.running().state.attachments.clone();
        for attachment in with_ports.into_iter().filter(|one| !one.ports.is_empty()) {
            let (container, endpoint) = (attachment.container, attachment.endpoint);
            let before = self.running().withdraw(&container);
            close(before).await;
            let (mut publications, mut waiting) = (Vec::new(), Vec::new());
            for port in attachment.ports {
                match ports::hold_again(&endpoint.container_name, port) {
                    Ok(held) => publications.push(Publication::start(held, &endpoint)),
                    Err(error) => {
                        warn!(container = %container, error = engine_model::chain(&error),
                            "A published port could not be opened again; it will be tried until it is free");
                        let (container, endpoint) = (container.clone(), endpoint.clone());
                        waiting.push(Waiting { container, endpoint, port });
                    }
                }
            }
            let mut running = self.running();
            running.publications.insert(container, publications);
            running.waiting.extend(waiting);
        }
        let network = self.clone();
        self.inner.rules.replace(move || network.running().wanted(true)).await?;
        self.save().await?;
        self.answer_all_again(live).await;
        if !self.running().waiting.is_empty() {
            vital(try_again(Arc::downgrade(&self.inner)));
        }
        Ok(())
    }

    /// Answers containers again that ask for names, several side by side: each costs a thread in its network namespace.
    async fn answer_all_again(&self, live: &[Found]) {
        let mut asking = JoinSet::new();
        // One that is on several networks is found once for each; it has one resolver.
        let mut known = HashSet::new();
        for found in live {
            if !known.insert(&found.container) {
                continue;
            }
            let naming = found.naming.clone().or_else(|| self.running().naming_of(&found.container));
            let (Some(namespace), Some(naming)) = (found.namespace.clone(), naming) else { continue };
            if asking.len() >= SIDE_BY_SIDE {
                asking.join_next().await;
            }
            let (network, container) = (self.clone(), found.container.clone());
            asking.spawn(async move { network.answer_again(&container, &namespace, &naming).await });
        }
        asking.join_all().await;
    }

    async fn all_turns(&self) -> Vec<OwnedMutexGuard<()>> {
        let mut ids: Vec<String> = self.networks().into_iter().map(|network| network.id).collect();
        ids.sort();
        let mut turns = Vec::new();
        for id in ids {
            let turn = self.running().turn(&id);
            turns.push(turn.lock_owned().await);
        }
        turns
    }

    /// Makes the bridges and address pools of networks that have none yet.
    async fn bring_in_new(&self) -> Result<(), NetworkError> {
        let new: Vec<NetworkRecord> = {
            let mut running = self.running();
            let running = &mut *running;
            running.pools.retain(|id, _| running.state.networks.iter().any(|network| network.id == *id));
            let networks = running.state.networks.iter();
            networks.filter(|network| !running.pools.contains_key(&network.id)).cloned().collect()
        };
        for network in new {
            let Some(record) = network.bridge().cloned() else { continue };
            let subnets = network.pools.clone();
            blocking(move || bridge::ensure(&record, &subnets)).await?;
            self.running().pools.insert(network.id.clone(), pools(&network));
        }
        Ok(())
    }

    /// Puts the cables of a network in order.
    async fn sweep(&self, network: NetworkRecord) -> Result<(), NetworkError> {
        let Some(bridge) = network.bridge().cloned() else { return Ok(()) };
        let wanted: Vec<String> = {
            let running = self.running();
            let attachments = running.state.attachments.iter();
            attachments
                .filter(|attachment| attachment.endpoint.network_id == network.id)
                .map(|attachment| attachment.endpoint.host_interface.clone())
                .collect()
        };
        for interface in blocking(move || bridge::sweep(&bridge, &wanted)).await? {
            warn!(%interface, network = %network.name, "A container's interface is gone");
        }
        Ok(())
    }

    /// Tries to open a port again; not while somebody works on its network.
    async fn open_again(&self, container: &str, endpoint: &Endpoint, port: PublishedPort) {
        let turn = self.running().turn(&endpoint.network_id);
        let Ok(_turn) = turn.try_lock_owned() else { return };
        let waiting = |running: &Running| {
            running.waiting.iter().position(|one| one.container == container && one.port == port)
        };
        if waiting(&self.running()).is_none() {
            return;
        }
        let Ok(held) = ports::hold_again(&endpoint.container_name, port) else { return };
        let redirection = {
            let mut running = self.running();
            // Another network of the container may have been left meanwhile, and its ports with that.
            let Some(at) = waiting(&running) else { return };
            info!(%container, port = port.host_port, "A published port could be opened again");
            running.waiting.remove(at);
            let publication = Publication::start(held, endpoint);
            let redirection = publication.redirection();
            running.publications.entry(container.to_owned()).or_default().push(publication);
            redirection
        };
        let new = redirection.into_iter().collect();
        if let Err(error) = self.lead(container, Vec::new(), new).await {
            warn!(error = engine_model::chain(&error), "A published port is reachable by the proxy only");
        }
    }
}

/// Looks after the rules, at once when some are taken away: tools that load the host's firewall often remove everything else.
pub(super) async fn guard(inner: Weak<Inner>, mut removals: Option<Removals>) {
    loop {
        let removal = async {
            match &removals {
                Some(removals) => removals.next().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(BETWEEN_LOOKS, removal).await {
            Err(_elapsed) => {}
            Ok(Ok(())) => tokio::time::sleep(SETTLING).await,
            Ok(Err(error)) => {
                warn!(%error, "The kernel does not tell of changes to packet filters any more");
                removals = None;
            }
        }
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.rules.heal().await {
            warn!(error = engine_model::chain(&error), "The engine's packet filter rules are gone");
        }
    }
}

/// Opens ports that somebody else holds as soon as they are free.
async fn try_again(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(BETWEEN_TRIES).await;
        let Some(inner) = inner.upgrade() else { return };
        let waiting: Vec<(String, Endpoint, PublishedPort)> = locked(&inner.running)
            .waiting
            .iter()
            .map(|one| (one.container.clone(), one.endpoint.clone(), one.port))
            .collect();
        let network = Network { inner };
        for (container, endpoint, port) in waiting {
            network.open_again(&container, &endpoint, port).await;
        }
        if network.running().waiting.is_empty() {
            return;
        }
    }
}
