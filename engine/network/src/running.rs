//! What the networks are at the moment, and the changes to it that only touch memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use engine_model::id::random_id;
use jiff::Timestamp;
use tracing::{debug, warn};

use super::addresses::{NoAddress, Pool, Subnet};
use super::names::Names;
use super::ports::Publication;
use super::record::State;
use super::{
    Attachment, Endpoint, EndpointRequest, Found, Ipv6Place, Naming, NetworkError, NetworkKind,
    NetworkRecord, PoolRecord, PublishedPort, bridge, filter,
};

/// What is kept, and what runs because of it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) state: State,
    /// By the network's id.
    pub(super) pools: HashMap<String, Vec<Pool>>,
    /// By the container's id.
    pub(super) publications: HashMap<String, Vec<Publication>>,
    pub(super) waiting: Vec<Waiting>,
    /// Networks that are being made: their names, bridges and subnets are taken.
    pub(super) planned: Vec<NetworkRecord>,
    /// Containers that are being attached: their addresses and interfaces are taken.
    pub(super) arriving: Vec<Attachment>,
    /// Who is called what on them.
    names: Arc<Names>,
    /// Whose turn it is at each network, by its id.
    turns: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
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
    pub(super) fn new(state: State, names: Arc<Names>) -> Self {
        let pools = state.networks.iter().map(|network| (network.id.clone(), pools(network))).collect();
        let mut running = Self {
            state,
            pools,
            publications: HashMap::new(),
            waiting: Vec::new(),
            planned: Vec::new(),
            arriving: Vec::new(),
            names,
            turns: HashMap::new(),
        };
        let Self { state, pools, .. } = &mut running;
        state.attachments.retain_mut(|attachment| {
            let endpoint = &mut attachment.endpoint;
            let kept = pools.get_mut(&endpoint.network_id).is_some_and(|pools| take_what_is_left(pools, endpoint));
            if !kept {
                warn!(container = %attachment.container, address = %endpoint.address, network = %endpoint.network_name,
                    "A container's address is not of its network any more");
            }
            kept
        });
        running.spread_names();
        running
    }

    /// Puts down anew who is called what.
    fn spread_names(&self) {
        self.names.replace(&self.state.networks, &self.state.attachments);
    }

    /// A container is on a network from now on.
    pub(super) fn admit(&mut self, network: &NetworkRecord, attachment: Attachment) {
        self.names.join(network, &attachment);
        self.state.attachments.push(attachment);
    }

    /// Calls a container otherwise on all its networks.
    pub(super) fn rename(&mut self, container: &str, name: &str) {
        let Self { state, arriving, names, .. } = self;
        for place in state.attachments.iter_mut().chain(arriving).filter(|one| one.container == container) {
            name.clone_into(&mut place.endpoint.container_name);
        }
        for place in state.attachments.iter().filter(|one| one.container == container) {
            let network = state.networks.iter().find(|network| network.id == place.endpoint.network_id);
            if let Some(network) = network {
                names.join(network, place);
            }
        }
    }

    /// The lock of those who work on a network.
    pub(super) fn turn(&mut self, network_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.turns.entry(network_id.to_owned()).or_default())
    }

    /// Nobody takes turns at what is gone.
    pub(super) fn forget_turn(&mut self, network_id: &str) {
        self.turns.remove(network_id);
    }

    /// All networks, those that are being made as well.
    pub(super) fn known(&self) -> Vec<&NetworkRecord> {
        self.state.networks.iter().chain(&self.planned).collect()
    }

    /// A network that was planned is there.
    pub(super) fn begin(&mut self, network: NetworkRecord) {
        self.planned.retain(|planned| planned.id != network.id);
        self.pools.insert(network.id.clone(), pools(&network));
        self.state.networks.push(network);
    }

    /// A network is gone, or was not to be made.
    pub(super) fn forget(&mut self, network_id: &str) {
        self.planned.retain(|planned| planned.id != network_id);
        self.state.networks.retain(|network| network.id != network_id);
        self.pools.remove(network_id);
        self.state.last_used.remove(network_id);
        self.forget_turn(network_id);
    }

    /// The ids of the networks that a container is on or is coming to.
    pub(super) fn networks_of(&self, container: &str) -> Vec<String> {
        let places = self.state.attachments.iter().chain(&self.arriving);
        places
            .filter(|place| place.container == container)
            .map(|place| place.endpoint.network_id.clone())
            .collect()
    }

    /// What the packet filter is to hold; before anybody listens, by the ports that were published.
    pub(super) fn wanted(&self, is_listening: bool) -> (Vec<filter::Bridge>, Vec<filter::Redirection>) {
        let bridges = self.state.networks.iter().filter_map(as_filtered).collect();
        let redirections = if is_listening {
            self.publications.values().flatten().filter_map(Publication::redirection).collect()
        } else {
            let attachments = self.state.attachments.iter();
            attachments
                .flat_map(|one| {
                    one.ports
                        .iter()
                        .filter_map(|port| filter::Redirection::of(*port, one.endpoint.behind(port.host_ip)))
                })
                .collect()
        };
        (bridges, redirections)
    }

    /// The gateways of a network by which a container gets out. For each family it is the network of the highest priority; of equals
    /// the one that the container came to first.
    pub(super) fn ways_out(&self, container: &str, endpoint: &Endpoint) -> Vec<IpAddr> {
        let places: Vec<&Endpoint> = self
            .state
            .attachments
            .iter()
            .chain(&self.arriving)
            .filter(|other| other.container == container)
            .map(|other| &other.endpoint)
            .collect();
        let is_way = |gateway: &IpAddr| {
            let leads = |other: &Endpoint| other.gateways().any(|one| one.is_ipv4() == gateway.is_ipv4());
            let own = places.iter().position(|one| one.network_id == endpoint.network_id);
            !places.iter().enumerate().any(|(at, other)| {
                let comes_first = Some(at) < own && other.gw_priority == endpoint.gw_priority;
                leads(other) && (comes_first || other.gw_priority > endpoint.gw_priority)
            })
        };
        endpoint.gateways().filter(is_way).collect()
    }

    pub(super) fn naming_of(&self, container: &str) -> Option<Naming> {
        let mut places = self.state.attachments.iter().filter(|place| place.container == container);
        places.find_map(|place| place.naming.clone())
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
        request: &EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        let wished_hardware_address = request
            .mac_address
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(bridge::parse_hardware_address)
            .transpose()?;
        if let Some(address) = request.ipv6_address
            && !network.has_ipv6()
        {
            return Err(NetworkError::NoIpv6There { network: network.name.clone(), address });
        }
        let pools = self.pools.entry(network.id.clone()).or_default();
        let (address, subnet) = take(pools, network, true, request.address.map(IpAddr::from))?;
        let IpAddr::V4(address) = address else {
            return Err(NetworkError::AddressOutside { address });
        };
        let ipv6 = if network.has_ipv6() {
            take(pools, network, false, request.ipv6_address.map(IpAddr::from))
                .map(Some)
                .inspect_err(|_| give_back(pools, address.into()))?
        } else {
            None
        };
        let gateway = |subnet: Subnet| {
            let pool = network.pools.iter().find(|pool| pool.subnet == subnet);
            pool.filter(|_| !network.internal).map(|pool| pool.gateway)
        };
        let ipv6 = ipv6.and_then(|(address, subnet)| match address {
            IpAddr::V6(address) => Some(Ipv6Place {
                address,
                prefix: subnet.prefix(),
                gateway: gateway(subnet).and_then(as_ipv6),
            }),
            IpAddr::V4(_) => None,
        });
        let used: Vec<&str> = self
            .state
            .attachments
            .iter()
            .chain(&self.arriving)
            .filter(|attachment| attachment.container == container)
            .map(|attachment| attachment.endpoint.interface.as_str())
            .collect();
        if let Some(wish) = request.interface.as_ref().filter(|wish| used.contains(&wish.as_str())) {
            let error = NetworkError::InterfaceTaken { name: wish.clone() };
            for address in std::iter::once(address.into()).chain(ipv6.map(|place| place.address.into())) {
                give_back(pools, address);
            }
            return Err(error);
        }
        let next = || {
            let mut names = (0..=used.len()).map(|number| format!("eth{number}"));
            names.find(|name| !used.contains(&name.as_str()))
        };
        let interface = request.interface.clone().or_else(next);
        let hardware_address =
            wished_hardware_address.unwrap_or_else(|| bridge::derive_hardware_address(address));
        let endpoint_id = random_id();
        Ok(Endpoint {
            host_interface: network
                .bridge()
                .map(|_| bridge::host_interface(&endpoint_id))
                .unwrap_or_default(),
            endpoint_id,
            network_id: network.id.clone(),
            network_name: network.name.clone(),
            container_name: request.container_name.clone(),
            interface: interface.unwrap_or_else(|| "eth0".to_owned()),
            address,
            prefix: subnet.prefix(),
            gateway: gateway(subnet).and_then(as_ipv4),
            ipv6,
            mac_address: match network.kind {
                // It is that of the host's interface.
                NetworkKind::Ipvlan(_) => String::new(),
                _ => bridge::format_hardware_address(hardware_address),
            },
            mtu: network.bridge().map_or(0, |bridge| bridge.mtu),
            aliases: request.aliases.clone(),
            links: request.links.clone(),
            gw_priority: request.gw_priority,
        })
    }

    pub(super) fn give_back(&mut self, endpoint: &Endpoint) {
        if let Some(pools) = self.pools.get_mut(&endpoint.network_id) {
            for address in endpoint.addresses() {
                give_back(pools, address);
            }
        }
    }

    /// Takes a container's published ports, for the caller to close.
    pub(super) fn withdraw(&mut self, container: &str) -> Vec<Publication> {
        self.waiting.retain(|waiting| waiting.container != container);
        self.publications.remove(container).unwrap_or_default()
    }

    /// Takes a container off a network, if it is on it.
    pub(super) fn leave(&mut self, container: &str, network_id: &str) -> Option<Attachment> {
        let at = self.position(container, network_id)?;
        let leaving = self.state.attachments.remove(at);
        self.give_back(&leaving.endpoint);
        self.names.leave(network_id, container);
        self.state.last_used.insert(network_id.to_owned(), Timestamp::now());
        Some(leaving)
    }

    /// Ends the arrival of a container on a network.
    pub(super) fn arrived(&mut self, endpoint: &Endpoint) -> Option<Attachment> {
        let at = self.arriving.iter().position(|one| one.endpoint.endpoint_id == endpoint.endpoint_id)?;
        Some(self.arriving.remove(at))
    }

    /// Makes the attachments those of `live`.
    pub(super) fn keep_only(&mut self, live: &[Found]) {
        let is_live = |attachment: &Attachment| {
            live.iter().any(|found| {
                found.container == attachment.container
                    && found.endpoint.endpoint_id == attachment.endpoint.endpoint_id
            })
        };
        let (kept, stale): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.state.attachments).into_iter().partition(is_live);
        self.state.attachments = kept;
        for attachment in stale {
            debug!(container = %attachment.container, "An endpoint without a container is removed");
            self.give_back(&attachment.endpoint);
        }
        for Found { container, endpoint, ports, naming, .. } in live {
            if let Some(at) = self.position(container, &endpoint.network_id) {
                let known = &mut self.state.attachments[at];
                known.ports.clone_from(ports);
                known.naming = naming.clone().or_else(|| known.naming.take());
                continue;
            }
            let pools = self.pools.get_mut(&endpoint.network_id);
            let mut left = endpoint.clone();
            if pools.is_some_and(|pools| take_what_is_left(pools, &mut left)) {
                self.state.attachments.push(Attachment {
                    container: container.clone(),
                    endpoint: left,
                    ports: ports.clone(),
                    naming: naming.clone(),
                });
            } else {
                warn!(%container, address = %endpoint.address, network = %endpoint.network_name,
                    "A container's place on its network is not free any more");
            }
        }
        self.spread_names();
    }
}

fn as_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn as_ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

/// A network's addresses, with those of its gateways taken.
pub(super) fn pools(network: &NetworkRecord) -> Vec<Pool> {
    let pool = |record: &PoolRecord| {
        let mut pool = Pool::new(record.subnet, record.range);
        for address in record.auxiliary.values().copied().chain([record.gateway]) {
            let _ = pool.take(address);
        }
        pool
    };
    network.pools.iter().map(pool).collect()
}

/// Takes an address of one family: the one that is wished for, or the first one that is free.
fn take(
    pools: &mut [Pool],
    network: &NetworkRecord,
    ipv4: bool,
    wish: Option<IpAddr>,
) -> Result<(IpAddr, Subnet), NetworkError> {
    let mut reason = wish.map_or(NoAddress::Exhausted, NoAddress::Outside);
    for pool in pools.iter_mut().filter(|pool| pool.subnet().is_ipv4() == ipv4) {
        let taken = match wish {
            Some(address) => pool.take(address).map(|()| address),
            None => pool.take_any(),
        };
        match taken {
            Ok(address) => return Ok((address, pool.subnet())),
            Err(NoAddress::Outside(_)) => {}
            Err(other) => reason = other,
        }
    }
    let family = if ipv4 { "IPv4" } else { "IPv6" };
    Err(match reason {
        NoAddress::Exhausted => NetworkError::Exhausted { network: network.name.clone(), family },
        NoAddress::Taken(address) => NetworkError::AddressTaken { address },
        NoAddress::Outside(address) => NetworkError::AddressOutside { address },
    })
}

/// Takes all addresses of an endpoint, or none.
fn take_all(pools: &mut [Pool], endpoint: &Endpoint) -> bool {
    let mut taken = Vec::new();
    for address in endpoint.addresses() {
        if !pools.iter_mut().any(|pool| pool.take(address).is_ok()) {
            for address in taken {
                give_back(pools, address);
            }
            return false;
        }
        taken.push(address);
    }
    true
}

/// The same; of an endpoint whose network has no IPv6 any more, or another subnet of it, the other address.
fn take_what_is_left(pools: &mut [Pool], endpoint: &mut Endpoint) -> bool {
    if take_all(pools, endpoint) {
        return true;
    }
    let Some(place) = endpoint.ipv6.take() else { return false };
    let is_taken = take_all(pools, endpoint);
    if is_taken {
        warn!(address = %place.address, network = %endpoint.network_name,
            "A container's address of IPv6 is not of its network any more");
    }
    is_taken
}

fn give_back(pools: &mut [Pool], address: IpAddr) {
    for pool in pools {
        pool.give_back(address);
    }
}

/// A network as the packet filter sees it.
pub(super) fn as_filtered(network: &NetworkRecord) -> Option<filter::Bridge> {
    let bridge = network.bridge()?;
    Some(filter::Bridge {
        interface: bridge.interface.clone(),
        subnets: network.pools.iter().map(|pool| pool.subnet).collect(),
        internal: network.internal,
        masquerade: bridge.masquerade,
        among_themselves: bridge.among_themselves,
    })
}
