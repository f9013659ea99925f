//! The networks themselves: finding, making and removing them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use engine_model::id::random_id;
use engine_model::{AddressPool, Endpoint, Kind, PublishedPort};
use jiff::Timestamp;

use super::addresses::Subnet;
use super::pools::{self, WishedPool};
use super::{
    Attachment, BridgeRecord, DEFAULT_MTU, DEFAULT_NETWORK, Network, NetworkError, NetworkKind,
    NetworkRecord, PoolRecord, Running, blocking, bridge, ipv6, running::as_filtered,
};

/// Every bridge is an interface of the host and some rules; nobody needs more.
const MOST_NETWORKS: usize = 1000;
const LONGEST_NAME: usize = 255;
/// Names of interfaces are cut there by the kernel.
const LONGEST_INTERFACE: usize = 15;

/// The options of a network that are followed.
pub const OPTIONS: [&str; 5] = [
    "com.docker.network.bridge.name",
    "com.docker.network.driver.mtu",
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.host_binding_ipv4",
];

/// Options of a network that are not followed, with the value that says what is so anyway.
pub const SO_ANYWAY: [(&str, &str); 4] = [
    ("com.docker.network.bridge.default_bridge", "false"),
    ("com.docker.network.bridge.gateway_mode_ipv4", "nat"),
    ("com.docker.network.bridge.inhibit_ipv4", "false"),
    ("com.docker.network.container_iface_prefix", "eth"),
];

/// A network that is wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewNetwork {
    pub name: String,
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Containers have IPv6 there as well.
    pub ipv6: bool,
    /// Its subnets; a free one is chosen for each family that has none.
    pub pools: Vec<WishedPool>,
}

fn refused(kind: Kind, message: impl Into<String>) -> NetworkError {
    NetworkError::Refused { kind, message: message.into() }
}

fn invalid(message: impl Into<String>) -> NetworkError {
    refused(Kind::Invalid, message)
}

impl Running {
    /// The network of this name, id or unique beginning of an id.
    pub(super) fn find(&self, name: &str) -> Result<&NetworkRecord, NetworkError> {
        let name = if matches!(name, "" | "default") { DEFAULT_NETWORK } else { name };
        let networks = &self.state.networks;
        if let Some(network) = networks.iter().find(|network| network.name == name || network.id == name) {
            return Ok(network);
        }
        let matches: Vec<_> = networks.iter().filter(|network| network.id.starts_with(name)).collect();
        match matches[..] {
            [network] => Ok(network),
            [] => Err(NetworkError::NoSuchNetwork { name: name.chars().take(100).collect() }),
            _ => Err(NetworkError::Ambiguous { name: name.to_owned(), matches: matches.len() }),
        }
    }
}

impl Network {
    /// All networks, the oldest first.
    pub fn networks(&self) -> Vec<NetworkRecord> {
        self.running().state.networks.clone()
    }

    /// The network of this name, id or unique beginning of an id.
    pub fn find(&self, name: &str) -> Result<NetworkRecord, NetworkError> {
        self.running().find(name).cloned()
    }

    /// Containers that are on a network now.
    pub fn attachments(&self, network_id: &str) -> Vec<Attachment> {
        let running = self.running();
        let attachments = running.state.attachments.iter();
        attachments.filter(|attachment| attachment.endpoint.network_id == network_id).cloned().collect()
    }

    /// Where a container is, and the ports published for it there.
    pub fn places(&self, container: &str) -> Vec<(Endpoint, Vec<PublishedPort>)> {
        let running = self.running();
        let places = running.state.attachments.iter().filter(|attachment| attachment.container == container);
        places.map(|attachment| (attachment.endpoint.clone(), attachment.ports.clone())).collect()
    }

    /// What containers call `host-gateway`.
    pub fn host_gateways(&self) -> Vec<IpAddr> {
        if !self.inner.host_gateways.is_empty() {
            return self.inner.host_gateways.clone();
        }
        let running = self.running();
        let pools = running.find(DEFAULT_NETWORK).map(|network| network.pools.as_slice()).unwrap_or_default();
        pools.iter().map(|pool| pool.gateway).collect()
    }

    /// When a container was last seen to leave a network.
    pub fn last_used(&self, network_id: &str) -> Option<Timestamp> {
        self.running().state.last_used.get(network_id).copied()
    }

    /// Makes a network with a bridge of its own.
    pub async fn create(&self, wish: NewNetwork) -> Result<NetworkRecord, NetworkError> {
        check(&self.running().known(), &wish)?;
        if wish.ipv6 && !ipv6::is_enabled() {
            return Err(NetworkError::NoIpv6);
        }
        let in_use = blocking(|| bridge::subnets_in_use(&[])).await?;
        let (record, turn) = {
            let mut running = self.running();
            let known = running.known();
            check(&known, &wish)?;
            let record = plan(&known, wish, &self.inner.pools, &in_use)?;
            running.planned.push(record.clone());
            let turn = running.turn(&record.id);
            (record, turn)
        };
        // Who finds it as soon as it is known waits until all of it is there.
        let _turn = turn.lock_owned().await;
        if let Err(error) = self.make(&record).await {
            self.running().forget(&record.id);
            return Err(error);
        }
        self.save_networks().await?;
        Ok(record)
    }

    async fn make(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        let (Some(bridge), Some(filtered)) = (record.bridge().cloned(), as_filtered(record)) else {
            return Ok(());
        };
        let (interface, pools) = (bridge.interface.clone(), record.pools.clone());
        if record.has_ipv6() {
            blocking(ipv6::enable_forwarding).await?;
        }
        blocking(move || bridge::ensure(&bridge, &pools)).await?;
        let (network, begun) = (self.clone(), record.clone());
        if let Err(error) = self.inner.rules.add(filtered, move || network.running().begin(begun)).await {
            blocking(move || bridge::remove(&interface)).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Removes a network without containers, with its bridge.
    pub async fn remove(&self, name: &str) -> Result<NetworkRecord, NetworkError> {
        let record = self.find(name)?;
        if record.is_built_in() {
            let message = format!("{} is a pre-defined network and cannot be removed", record.name);
            return Err(refused(Kind::Forbidden, message));
        }
        let (record, _turn) = self.turn(&record.id, name).await?;
        if self.running().state.attachments.iter().any(|one| one.endpoint.network_id == record.id) {
            let message =
                format!("error while removing network: network {} has active endpoints", record.name);
            return Err(refused(Kind::Forbidden, message));
        }
        let Some(interface) = record.bridge().map(|bridge| bridge.interface.clone()) else {
            return Ok(record);
        };
        let bridge = interface.clone();
        blocking(move || bridge::remove(&bridge)).await?;
        // Name, bridge and subnet are free only now that nothing of it is left.
        let (network, id) = (self.clone(), record.id.clone());
        let filtered = self.inner.rules.remove(interface, move || network.running().forget(&id)).await;
        self.save_networks().await?;
        filtered.map(|()| record)
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Refuses what cannot be, before anything is made.
fn check(known: &[&NetworkRecord], wish: &NewNetwork) -> Result<(), NetworkError> {
    let name: String = wish.name.chars().take(100).collect();
    if !is_name(&wish.name) {
        return Err(invalid(format!(
            "invalid network name: {name:?} (letters, digits, `_`, `.` and `-` are allowed)"
        )));
    }
    if matches!(wish.name.as_str(), "bridge" | "host" | "none" | "default") {
        let message = format!("operation is not permitted on predefined {name} network ");
        return Err(refused(Kind::Forbidden, message));
    }
    if known.iter().any(|network| network.name == wish.name) {
        return Err(refused(Kind::Conflict, format!("network with name {name} already exists")));
    }
    if known.len() >= MOST_NETWORKS {
        return Err(refused(Kind::Forbidden, format!("there are {MOST_NETWORKS} networks already")));
    }
    match wish.driver.as_str() {
        "" | "bridge" | "default" => Ok(()),
        "host" | "null" => {
            let message = format!("only one instance of \"{}\" network is allowed", wish.driver);
            Err(refused(Kind::Forbidden, message))
        }
        driver => {
            let driver: String = driver.chars().take(100).collect();
            Err(refused(
                Kind::NotFound,
                format!("could not find plugin {driver} in v1 plugin registry: plugin not found"),
            ))
        }
    }
}

/// What the network will be.
fn plan(
    known: &[&NetworkRecord],
    wish: NewNetwork,
    pools: &[AddressPool],
    in_use: &[Subnet],
) -> Result<NetworkRecord, NetworkError> {
    let id = random_id();
    let option = |name: &str| wish.options.get(&format!("com.docker.network.{name}")).map(String::as_str);
    let switch = |name: &str| match option(name) {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => {
            Err(invalid(format!("invalid value for com.docker.network.{name}: true or false is expected")))
        }
    };
    let interface = match option("bridge.name").filter(|name| !name.is_empty()) {
        Some(name) if name.len() <= LONGEST_INTERFACE && is_name(name) => name.to_owned(),
        Some(_) => return Err(invalid("invalid bridge name: at most 15 letters, digits, `_`, `.` and `-`")),
        None => bridge::usual_name(&id),
    };
    if bridges(known).any(|bridge| bridge.interface == interface) {
        return Err(refused(Kind::Forbidden, format!("bridge name {interface} is used by another network")));
    }
    let mtu = match option("driver.mtu") {
        None => default_mtu(known),
        Some(text) => text
            .parse()
            .ok()
            .filter(|mtu| (68..=65_535).contains(mtu))
            .ok_or_else(|| invalid("invalid MTU"))?,
    };
    let host_binding: Option<Ipv4Addr> = option("bridge.host_binding_ipv4")
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse().map_err(|_| {
                invalid("invalid value for com.docker.network.bridge.host_binding_ipv4: an IPv4 address is expected")
            })
        })
        .transpose()?;
    let kind = NetworkKind::Bridge(BridgeRecord {
        interface,
        mtu,
        masquerade: switch("bridge.enable_ip_masquerade")?,
        among_themselves: switch("bridge.enable_icc")?,
        host_binding: host_binding.filter(|address| !address.is_unspecified()),
    });
    let pools = subnets(known, &wish, pools, in_use)?;
    Ok(NetworkRecord {
        id,
        name: wish.name,
        created: Timestamp::now(),
        internal: wish.internal,
        attachable: wish.attachable,
        pools,
        labels: wish.labels,
        options: wish.options,
        kind,
    })
}

/// The subnets of a bridge: one of each family that it has.
fn subnets(
    known: &[&NetworkRecord],
    wish: &NewNetwork,
    pools: &[AddressPool],
    in_use: &[Subnet],
) -> Result<Vec<PoolRecord>, NetworkError> {
    let wished =
        wish.pools.iter().map(|wish| pools::wished(known, wish)).collect::<Result<Vec<_>, NetworkError>>()?;
    let mut found = Vec::new();
    for ipv4 in [true, false] {
        let mut of_family = wished.iter().filter(|pool| pool.subnet.is_ipv4() == ipv4);
        let (first, second) = (of_family.next(), of_family.next());
        if second.is_some() {
            return Err(refused(Kind::Forbidden, "bridge driver doesn't support multiple subnets"));
        }
        match first {
            Some(_) if !ipv4 && !wish.ipv6 => {
                return Err(invalid("a subnet of IPv6 is for a network with IPv6 (`EnableIPv6`, `--ipv6`)"));
            }
            Some(pool) => found.push(pool.clone()),
            None if ipv4 || wish.ipv6 => {
                let subnet = pools::free_subnet(ipv4, pools, in_use, known.iter().copied())?;
                found.push(PoolRecord::plain(subnet));
            }
            None => {}
        }
    }
    Ok(found)
}

fn bridges<'a>(known: &[&'a NetworkRecord]) -> impl Iterator<Item = &'a BridgeRecord> {
    known.iter().filter_map(|network| network.bridge())
}

fn default_mtu(known: &[&NetworkRecord]) -> u32 {
    let default = known.iter().find(|network| network.name == DEFAULT_NETWORK);
    default.and_then(|network| network.bridge()).map_or(DEFAULT_MTU, |bridge| bridge.mtu)
}
