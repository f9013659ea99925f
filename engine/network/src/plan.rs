//! What a network that is wished for will be, or why it cannot be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine_model::id::random_id;
use engine_model::{AddressPool, Kind};
use jiff::Timestamp;

use super::addresses::Subnet;
use super::pools::{self, WishedPool};
use super::record::{VlanKind, VlanRecord};
use super::{
    BridgeRecord, DEFAULT_MTU, DEFAULT_NETWORK, NetworkError, NetworkKind, NetworkRecord, PoolRecord, bridge,
};

/// Every bridge is an interface of the host and some rules; nobody needs more.
const MOST_NETWORKS: usize = 1000;
const LONGEST_NAME: usize = 255;
/// Names of interfaces are cut there by the kernel.
const LONGEST_INTERFACE: usize = 15;

/// The options of a bridge that are followed.
const OF_BRIDGES: [&str; 5] = [
    "com.docker.network.bridge.name",
    MTU,
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.host_binding_ipv4",
];
/// RFC 8200, section 5.
pub(super) const LEAST_MTU_OF_IPV6: u32 = 1280;
const MTU: &str = "com.docker.network.driver.mtu";
const OF_MACVLAN: [&str; 3] = ["parent", "macvlan_mode", MTU];
const OF_IPVLAN: [&str; 4] = ["parent", "ipvlan_mode", "ipvlan_flag", MTU];

/// Options of a network that are not followed, with the value that says what is so anyway.
const SO_ANYWAY: [(&str, &str); 4] = [
    ("com.docker.network.bridge.default_bridge", "false"),
    ("com.docker.network.bridge.gateway_mode_ipv4", "nat"),
    ("com.docker.network.bridge.inhibit_ipv4", "false"),
    ("com.docker.network.container_iface_prefix", "eth"),
];

/// Whether an option of a network is followed, or says what is so anyway.
pub fn is_followed(driver: &str, name: &str, value: &str) -> bool {
    let followed = match driver {
        "macvlan" => &OF_MACVLAN[..],
        "ipvlan" => &OF_IPVLAN,
        _ => &OF_BRIDGES,
    };
    followed.contains(&name) || SO_ANYWAY.contains(&(name, value))
}

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

pub(super) fn refused(kind: Kind, message: impl Into<String>) -> NetworkError {
    NetworkError::Refused { kind, message: message.into() }
}

pub(super) fn invalid(message: impl Into<String>) -> NetworkError {
    refused(Kind::Invalid, message)
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Refuses what cannot be, before anything is made.
pub(super) fn check(known: &[&NetworkRecord], wish: &NewNetwork) -> Result<(), NetworkError> {
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
        "" | "bridge" | "default" | "macvlan" | "ipvlan" => Ok(()),
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
pub(super) fn plan(
    known: &[&NetworkRecord],
    wish: NewNetwork,
    pools: &[AddressPool],
    in_use: &[Subnet],
) -> Result<NetworkRecord, NetworkError> {
    let id = random_id();
    let kind = match wish.driver.as_str() {
        "macvlan" => NetworkKind::Macvlan(vlan(known, &wish, &id, "macvlan_mode", "bridge", &MACVLAN_MODES)?),
        "ipvlan" => NetworkKind::Ipvlan(vlan(known, &wish, &id, "ipvlan_mode", "l2", &IPVLAN_MODES)?),
        _ => NetworkKind::Bridge(bridge(known, &wish, &id)?),
    };
    let several = !matches!(kind, NetworkKind::Bridge(_));
    let pools = subnets(known, &wish, several, pools, in_use)?;
    Ok(NetworkRecord {
        id,
        name: wish.name,
        created: Timestamp::now(),
        internal: wish.internal,
        attachable: wish.attachable,
        labels: wish.labels,
        options: wish.options,
        pools,
        kind,
    })
}

fn mtu(wish: &NewNetwork) -> Result<Option<u32>, NetworkError> {
    let Some(text) = wish.options.get(MTU) else { return Ok(None) };
    let mtu = text.parse().ok().filter(|mtu| (68..=65_535).contains(mtu));
    if wish.ipv6 && mtu.is_some_and(|mtu| mtu < LEAST_MTU_OF_IPV6) {
        return Err(invalid(format!("invalid MTU: IPv6 takes {LEAST_MTU_OF_IPV6} or more")));
    }
    mtu.map(Some).ok_or_else(|| invalid("invalid MTU"))
}

fn bridge(known: &[&NetworkRecord], wish: &NewNetwork, id: &str) -> Result<BridgeRecord, NetworkError> {
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
        None => bridge::usual_name(id),
    };
    if bridges(known).any(|bridge| bridge.interface == interface) {
        return Err(refused(Kind::Forbidden, format!("bridge name {interface} is used by another network")));
    }
    let host_binding: Option<Ipv4Addr> = option("bridge.host_binding_ipv4")
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse().map_err(|_| {
                invalid("invalid value for com.docker.network.bridge.host_binding_ipv4: an IPv4 address is expected")
            })
        })
        .transpose()?;
    Ok(BridgeRecord {
        interface,
        mtu: mtu(wish)?.unwrap_or_else(|| default_mtu(known)),
        masquerade: switch("bridge.enable_ip_masquerade")?,
        among_themselves: switch("bridge.enable_icc")?,
        host_binding: host_binding.filter(|address| !address.is_unspecified()),
    })
}

const MACVLAN_MODES: [(&str, VlanKind); 4] = [
    ("bridge", VlanKind::Macvlan { mode: 4 }),
    ("private", VlanKind::Macvlan { mode: 1 }),
    ("vepa", VlanKind::Macvlan { mode: 2 }),
    ("passthru", VlanKind::Macvlan { mode: 8 }),
];
const IPVLAN_MODES: [(&str, VlanKind); 3] = [
    ("l2", VlanKind::Ipvlan { mode: 0, flag: 0 }),
    ("l3", VlanKind::Ipvlan { mode: 1, flag: 0 }),
    ("l3s", VlanKind::Ipvlan { mode: 2, flag: 0 }),
];

/// A network whose containers have interfaces beside one of the host's.
fn vlan(
    known: &[&NetworkRecord],
    wish: &NewNetwork,
    id: &str,
    option: &str,
    usual: &str,
    modes: &[(&str, VlanKind)],
) -> Result<VlanRecord, NetworkError> {
    let given = |name: &str| wish.options.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let name = given(option).unwrap_or(usual);
    let mode = modes.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode);
    let mode = mode.ok_or_else(|| {
        let (driver, name) = (&wish.driver, name.chars().take(50).collect::<String>());
        invalid(format!(
            "requested {driver} mode '{name}' is not valid, '{usual}' mode is the {driver} driver default"
        ))
    })?;
    let mode = match (mode, given("ipvlan_flag")) {
        (mode, None | Some("bridge")) => mode,
        (VlanKind::Ipvlan { mode, .. }, Some("private")) => VlanKind::Ipvlan { mode, flag: 1 },
        (VlanKind::Ipvlan { mode, .. }, Some("vepa")) => VlanKind::Ipvlan { mode, flag: 2 },
        (_, Some(flag)) => {
            return Err(invalid(format!(
                "requested ipvlan flag '{flag:.50}' is not valid, 'bridge' is the ipvlan driver default"
            )));
        }
    };
    let parent = match given("parent") {
        Some("lo") => {
            return Err(invalid(format!("loopback interface is not a valid {} parent link", wish.driver)));
        }
        Some(name) if name.len() <= LONGEST_INTERFACE && is_name(name) => name.to_owned(),
        Some(_) => return Err(invalid("invalid parent interface name")),
        None => format!("dm-{}", id.get(..12).unwrap_or(id)),
    };
    let others = known.iter().filter_map(|other| Some((other, other.vlan()?)));
    for (other, vlan) in others.filter(|(_, vlan)| vlan.parent == parent) {
        // One that takes the interface for itself shares it with nobody.
        if vlan.kind.is_exclusive() || mode.is_exclusive() {
            let message = format!("network {} is already using parent interface {parent}", other.name);
            return Err(refused(Kind::Forbidden, message));
        }
    }
    Ok(VlanRecord { parent, kind: mode, made_parent: false, mtu: mtu(wish)? })
}

/// The subnets of a network: at least one of each family that it has, and no more unless it can have `several`.
fn subnets(
    known: &[&NetworkRecord],
    wish: &NewNetwork,
    several: bool,
    pools: &[AddressPool],
    in_use: &[Subnet],
) -> Result<Vec<PoolRecord>, NetworkError> {
    let wished =
        wish.pools.iter().map(|wish| pools::wished(known, wish)).collect::<Result<Vec<_>, NetworkError>>()?;
    let mut found = Vec::new();
    for ipv4 in [true, false] {
        let of_family: Vec<&PoolRecord> =
            wished.iter().filter(|pool| pool.subnet.is_ipv4() == ipv4).collect();
        if of_family.len() > 1 && !several {
            return Err(refused(Kind::Forbidden, "bridge driver doesn't support multiple subnets"));
        }
        let overlaps = |pool: &&PoolRecord| {
            of_family.iter().filter(|other| other.subnet.overlaps(pool.subnet)).count() > 1
        };
        if of_family.iter().any(overlaps) {
            return Err(refused(
                Kind::Forbidden,
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
        if !ipv4 && !wish.ipv6 && !of_family.is_empty() {
            return Err(invalid("a subnet of IPv6 is for a network with IPv6 (`EnableIPv6`, `--ipv6`)"));
        }
        if of_family.is_empty() && (ipv4 || wish.ipv6) {
            let subnet = pools::free_subnet(ipv4, pools, in_use, known.iter().copied())?;
            found.push(PoolRecord::plain(subnet));
        }
        found.extend(of_family.into_iter().cloned());
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
