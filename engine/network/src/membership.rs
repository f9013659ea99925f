//! Containers that come to networks, publish ports there and leave.

use std::net::IpAddr;
use std::path::Path;

use tracing::{debug, warn};

use super::error::failed;
use super::filter::Redirection;
use super::inside::{self, Wishes};
use super::ports::{self, Publication};
use super::{
    Attachment, Endpoint, EndpointRequest, Network, NetworkError, NetworkKind, PortRequest, Protocol,
    PublishedPort, announce, blocking, bridge, conntrack, vlan,
};

impl Network {
    /// Gives a container an interface on a network. Called again, it finds what is there and completes it; in a new
    /// namespace the container has the same address as before.
    pub async fn attach(
        &self,
        container: &str,
        netns: &Path,
        request: &EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        let id = self.running().find(&request.network)?.id.clone();
        let (network, _turn) = self.turn(&id, &request.network).await?;
        if matches!(network.kind, NetworkKind::Host | NetworkKind::Null) {
            return Err(NetworkError::NotForContainers { network: network.name });
        }
        let (endpoint, is_new) = {
            let mut running = self.running();
            if let Some(at) = running.position(container, &network.id) {
                (running.state.attachments[at].endpoint.clone(), false)
            } else {
                let endpoint = running.new_endpoint(container, &network, request)?;
                let (container, ports, naming) = (container.to_owned(), Vec::new(), request.naming.clone());
                running.arriving.push(Attachment { container, endpoint: endpoint.clone(), ports, naming });
                (endpoint, true)
            }
        };
        let ways_out = self.running().ways_out(container, &endpoint);
        let plugged = {
            let (netns, endpoint, request) = (netns.to_owned(), endpoint.clone(), request.clone());
            let kind = network.kind.clone();
            blocking(move || {
                let wishes = Wishes {
                    ways_out: &ways_out,
                    link_local: &request.link_local,
                    settings: &request.settings,
                };
                match &kind {
                    NetworkKind::Bridge(bridge) => bridge::plug(&netns, bridge, &endpoint, &wishes),
                    NetworkKind::Macvlan(vlan) | NetworkKind::Ipvlan(vlan) => {
                        vlan::plug(&netns, vlan, &endpoint, &wishes)
                    }
                    NetworkKind::Host | NetworkKind::Null => Ok(()),
                }
            })
            .await
        };
        let settled = match (plugged, &request.naming) {
            (Ok(()), Some(naming)) => self.name(container, netns, &network, &endpoint, naming).await,
            (plugged, _) => plugged,
        };
        if is_new {
            if settled.is_err() {
                let (endpoint, netns) = (endpoint.clone(), netns.to_owned());
                let _ = blocking(move || unplug(&endpoint, Some(&netns))).await;
            }
            let mut running = self.running();
            match (running.arrived(&endpoint), &settled) {
                (Some(arrived), Ok(())) => running.admit(&network, arrived),
                _ => running.give_back(&endpoint),
            }
        }
        settled?;
        announce::in_background(netns, &endpoint);
        if is_new {
            self.save().await?;
        }
        Ok(endpoint)
    }

    /// Makes ports of a container reachable on the host, in place of those published for it before.
    pub async fn publish(
        &self,
        container: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let (network, _turn) = self.turn(&endpoint.network_id, &endpoint.network_name).await?;
        let before = {
            let mut running = self.running();
            if running.position(container, &network.id).is_none() {
                return Err(NetworkError::NotAttached {
                    container: container.to_owned(),
                    network: endpoint.network_name.clone(),
                });
            }
            // They may have been published by another of its networks.
            for other in running.state.attachments.iter_mut().filter(|one| one.container == container) {
                other.ports.clear();
            }
            running.withdraw(container)
        };
        if ports.is_empty() && before.is_empty() {
            return Ok(Vec::new());
        }
        if !ports.is_empty() && network.vlan().is_some() {
            return Err(NetworkError::NotForPorts { network: network.name });
        }
        let (before, gone) = close(before).await;
        let name = format!("{} ({})", endpoint.container_name, endpoint.endpoint_id);
        let binding = network.bridge().and_then(|bridge| bridge.host_binding).map(IpAddr::from);
        let ports = ports.iter().map(|port| PortRequest { host_ip: port.host_ip.or(binding), ..*port });
        let held = ports
            .map(|request| ports::hold(&name, &request, &self.inner.ephemeral))
            .collect::<Result<Vec<_>, _>>();
        let held = match held {
            Ok(held) => held.into_iter().flatten(),
            Err(error) => {
                self.inner.rules.redirect(gone, Vec::new()).await?;
                return Err(error);
            }
        };
        let publications: Vec<Publication> = held.map(|held| Publication::start(held, endpoint)).collect();
        let published: Vec<PublishedPort> = publications.iter().map(|one| one.port).collect();
        let new = publications.iter().filter_map(Publication::redirection).collect();
        let set = |publications: Vec<Publication>, ports: &[PublishedPort]| {
            let mut running = self.running();
            if let Some(at) = running.position(container, &network.id) {
                running.state.attachments[at].ports = ports.to_vec();
            }
            running.publications.insert(container.to_owned(), publications)
        };
        set(publications, &published);
        if let Err(error) = self.lead(container, gone, new).await {
            close(set(Vec::new(), &[]).unwrap_or_default()).await;
            return Err(error);
        }
        forget_datagrams(before.into_iter().chain(published.iter().copied())).await;
        self.save().await?;
        Ok(published)
    }

    /// Has the packet filter lead to ports of a container, unless they have been withdrawn by the time it does: who leaves
    /// another network has another turn.
    pub(super) async fn lead(
        &self,
        container: &str,
        gone: Vec<Redirection>,
        new: Vec<Redirection>,
    ) -> Result<(), NetworkError> {
        self.inner.rules.redirect(gone, new.clone()).await?;
        let withdrawn: Vec<Redirection> = {
            let running = self.running();
            let there = running.publications.get(container).into_iter().flatten();
            let there: Vec<Redirection> = there.filter_map(Publication::redirection).collect();
            new.into_iter().filter(|one| !there.contains(one)).collect()
        };
        self.inner.rules.redirect(withdrawn, Vec::new()).await
    }

    /// Gives a container another name: who is on its networks finds it by that one from now on.
    pub async fn rename(&self, container: &str, name: &str) -> Result<(), NetworkError> {
        let networks = {
            let mut running = self.running();
            running.rename(container, name);
            running.networks_of(container)
        };
        if networks.is_empty() { Ok(()) } else { self.save().await }
    }

    /// Takes a container off all its networks and closes its ports. That it is gone already is fine.
    pub async fn release(&self, container: &str) -> Result<(), NetworkError> {
        let mut result = Ok(());
        let networks = self.running().networks_of(container);
        for network in networks {
            result = result.and(self.take_off(container, &network, None, true).await);
        }
        self.stop_answering(container);
        result
    }

    /// Takes a running container off one network. Was this its way out, another of its networks becomes that.
    pub async fn detach(
        &self,
        container: &str,
        netns: Option<&Path>,
        network: &str,
    ) -> Result<(), NetworkError> {
        let id = self.running().find(network)?.id.clone();
        self.take_off(container, &id, netns, false).await?;
        let Some(netns) = netns.map(Path::to_owned) else { return Ok(()) };
        let remaining: Vec<Endpoint> = {
            let running = self.running();
            let remaining = running.state.attachments.iter().filter(|one| one.container == container);
            remaining.map(|one| one.endpoint.clone()).collect()
        };
        for endpoint in remaining {
            let (_, _turn) = self.turn(&endpoint.network_id, &endpoint.network_name).await?;
            let ways_out = self.running().ways_out(container, &endpoint);
            if !ways_out.is_empty() {
                let (netns, interface) = (netns.clone(), endpoint.interface);
                blocking(move || inside::set_ways_out(&netns, &interface, &ways_out)).await?;
            }
        }
        Ok(())
    }

    /// Takes a container off a network that it is on; `entirely` when it leaves its others as well.
    async fn take_off(
        &self,
        container: &str,
        network_id: &str,
        netns: Option<&Path>,
        entirely: bool,
    ) -> Result<(), NetworkError> {
        // One that was removed meanwhile had nobody on it.
        let Ok((_, _turn)) = self.turn(network_id, network_id).await else { return Ok(()) };
        let (leaving, publications) = {
            let mut running = self.running();
            let Some(leaving) = running.leave(container, network_id) else { return Ok(()) };
            let has_ports = entirely || !leaving.ports.is_empty();
            let publications = if has_ports { running.withdraw(container) } else { Vec::new() };
            (leaving, publications)
        };
        let (ports, gone) = close(publications).await;
        let filtered = self.inner.rules.redirect(gone, Vec::new()).await;
        forget_datagrams(ports.into_iter()).await;
        let saved = self.save().await;
        let (endpoint, netns) = (leaving.endpoint.clone(), netns.map(Path::to_owned));
        let removal = blocking(move || unplug(&endpoint, netns.as_deref()));
        let removed = if entirely {
            // Nobody uses it any more, and the kernel takes its time. What is left over is swept away later.
            tokio::spawn(async {
                if let Err(error) = removal.await {
                    warn!(error = engine_model::chain(&error), "A container's interface is left over");
                }
            });
            Ok(())
        } else {
            removal.await
        };
        if let Some(naming) = leaving.naming.filter(|_| !entirely) {
            self.unname(&leaving.endpoint, &naming).await;
        }
        filtered.and(saved).and(removed)
    }
}

/// Takes a container's interface away. What has no other end on the host goes with the container's namespace in any case.
fn unplug(endpoint: &Endpoint, netns: Option<&Path>) -> Result<(), NetworkError> {
    match netns {
        _ if !endpoint.host_interface.is_empty() => bridge::remove(&endpoint.host_interface),
        Some(netns) => vlan::unplug(netns, &endpoint.interface),
        None => Ok(()),
    }
}

/// Closes published ports; gives back what they were and how the packet filter leads there.
pub(super) async fn close(publications: Vec<Publication>) -> (Vec<PublishedPort>, Vec<Redirection>) {
    let (mut ports, mut redirections) = (Vec::new(), Vec::new());
    for publication in publications {
        ports.push(publication.port);
        redirections.extend(publication.redirection());
        publication.stop().await;
    }
    (ports, redirections)
}

async fn forget_datagrams(ports: impl Iterator<Item = PublishedPort>) {
    let ports: Vec<u16> =
        ports.filter(|port| port.protocol == Protocol::Udp).map(|port| port.host_port).collect();
    if ports.is_empty() {
        return;
    }
    let forgotten = blocking(move || {
        conntrack::forget(&ports).map_err(failed("forget what connection tracking knows of a port"))
    });
    if let Err(error) = forgotten.await {
        debug!(
            error = engine_model::chain(&error),
            "Senders of datagrams may reach a former container for a while"
        );
    }
}
