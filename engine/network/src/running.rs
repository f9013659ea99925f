//! What the networks are at the moment, and the changes to it that only touch memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use engine_model::id::random_id;
use tracing::{debug, warn};

use super::addresses::{NoAddress, Pool};
use super::ports::{Ephemeral, Publication};
use super::record::State;
use super::rules::Rules;
use super::{
    Attachment, BridgeRecord, Endpoint, EndpointRequest, NetworkError, NetworkRecord, PublishedPort,
    blocking, bridge, filter,
};

/// What is kept, and what runs because of it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) state: State,
    /// By the network's id.
    pub(super) pools: HashMap<String, Pool>,
    /// By the container's id.
    pub(super) publications: HashMap<String, Vec<Publication>>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) ephemeral: Ephemeral,
    pub(super) rules: Rules,
}

/// A published port that somebody else holds.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) container: String,
    pub(super) endpoint: Endpoint,
    pub(super) port: PublishedPort,
}

impl Running {
    /// What was kept comes to life. Who has no place on its network any more loses it.
    pub(super) fn new(state: State) -> Self {
        let pools =
            state.networks.iter().filter_map(|network| Some((network.id.clone(), pool(network)?))).collect();
        let mut running = Self {
            state,
            pools,
            publications: HashMap::new(),
            waiting: Vec::new(),
            ephemeral: Ephemeral::default(),
            rules: Rules::default(),
        };
        let Self { state, pools, .. } = &mut running;
        state.attachments.retain(|attachment| {
            let endpoint = &attachment.endpoint;
            let kept = pools.get_mut(&endpoint.network_id).is_some_and(|pool| pool.take(endpoint.address).is_ok());
            if !kept {
                warn!(container = %attachment.container, address = %endpoint.address, network = %endpoint.network_name,
                    "A container's address is not of its network any more");
            }
            kept
        });
        running
    }

    /// Lets ports lead to their containers although nobody listens on them yet.
    pub(super) async fn apply_what_was(&self) -> Result<(), NetworkError> {
        let attachments = self.state.attachments.iter();
        let redirections = attachments
            .flat_map(|one| one.ports.iter().filter_map(|port| redirection(*port, one.endpoint.address)))
            .collect();
        self.rules.replace(self.bridges(), redirections).await
    }

    pub(super) fn position(&self, container: &str, network_id: &str) -> Option<usize> {
        self.state.attachments.iter().position(|attachment| {
            attachment.container == container && attachment.endpoint.network_id == network_id
        })
    }

    pub(super) fn new_endpoint(
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
        let endpoint_id = random_id();
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

    pub(super) fn give_back(&mut self, endpoint: &Endpoint) {
        if let Some(pool) = self.pools.get_mut(&endpoint.network_id) {
            pool.give_back(endpoint.address);
        }
    }

    /// Closes a container's ports; the caller takes the redirections to them out of the packet filter.
    pub(super) async fn withdraw(
        &mut self,
        container: &str,
    ) -> (Vec<PublishedPort>, Vec<filter::Redirection>) {
        self.waiting.retain(|waiting| waiting.container != container);
        let (mut ports, mut redirections) = (Vec::new(), Vec::new());
        for publication in self.publications.remove(container).unwrap_or_default() {
            ports.push(publication.port);
            redirections.extend(redirection(publication.port, *publication.target.ip()));
            publication.stop().await;
        }
        (ports, redirections)
    }

    /// Writes the packet filter's table anew.
    pub(super) async fn apply(&self) -> Result<(), NetworkError> {
        let redirections = self
            .publications
            .values()
            .flatten()
            .filter_map(|one| redirection(one.port, *one.target.ip()))
            .collect();
        self.rules.replace(self.bridges(), redirections).await
    }

    fn bridges(&self) -> Vec<filter::Bridge> {
        self.state.networks.iter().filter_map(as_filtered).collect()
    }

    /// Makes the bridges and address pools of networks that have none yet.
    pub(super) async fn bring_in_new(&mut self) -> Result<(), NetworkError> {
        self.pools.retain(|id, _| self.state.networks.iter().any(|network| network.id == *id));
        for network in &self.state.networks {
            let (Some(record), false) = (network.bridge(), self.pools.contains_key(&network.id)) else {
                continue;
            };
            let record = record.clone();
            blocking(move || bridge::ensure(&record)).await?;
            self.pools.extend(pool(network).map(|pool| (network.id.clone(), pool)));
        }
        Ok(())
    }

    /// Makes the attachments those of `live`.
    pub(super) fn keep_only(&mut self, live: &[(String, Endpoint, Vec<PublishedPort>)]) {
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
            if let Some(at) = self.position(container, &endpoint.network_id) {
                self.state.attachments[at].ports.clone_from(ports);
                continue;
            }
            let pool = self.pools.get_mut(&endpoint.network_id);
            if pool.is_some_and(|pool| pool.take(endpoint.address).is_ok()) {
                self.state.attachments.push(Attachment {
                    container: container.clone(),
                    endpoint: endpoint.clone(),
                    ports: ports.clone(),
                });
            } else {
                warn!(%container, address = %endpoint.address, network = %endpoint.network_name,
                    "A container's place on its network is not free any more");
            }
        }
    }
}

/// A network's addresses, with the gateway's taken.
pub(super) fn pool(network: &NetworkRecord) -> Option<Pool> {
    let bridge = network.bridge()?;
    let mut pool = Pool::new(bridge.subnet, bridge.range);
    for address in bridge.auxiliary.values().copied().chain([bridge.gateway]) {
        let _ = pool.take(address);
    }
    Some(pool)
}

/// A network as the packet filter sees it.
pub(super) fn as_filtered(network: &NetworkRecord) -> Option<filter::Bridge> {
    let bridge = network.bridge()?;
    Some(filter::Bridge {
        interface: bridge.interface.clone(),
        subnet: bridge.subnet,
        internal: network.internal,
        masquerade: bridge.masquerade,
        among_themselves: bridge.among_themselves,
    })
}

/// How the packet filter leads to a published port; what it does not is left to the proxy.
pub(super) fn redirection(port: PublishedPort, container: Ipv4Addr) -> Option<filter::Redirection> {
    let IpAddr::V4(address) = port.host_ip else { return None };
    let source = filter::Source {
        protocol: port.protocol,
        address: (!address.is_unspecified()).then_some(address),
        port: port.host_port,
    };
    let target = SocketAddrV4::new(container, port.container_port);
    (!address.is_loopback()).then_some(filter::Redirection { source, target })
}
