//! Which subnets a network gets: those that are wished for, or free ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine_model::{AddressPool, Kind};
use sha2::{Digest, Sha256};

use super::addresses::Subnet;
use super::{NetworkError, NetworkRecord, PoolRecord};

/// A subnet that is wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WishedPool {
    pub subnet: String,
    /// Addresses that are given without a wish are of this part of it.
    pub range: Option<String>,
    /// The first address when absent.
    pub gateway: Option<String>,
    pub auxiliary: BTreeMap<String, String>,
}

fn invalid(message: impl Into<String>) -> NetworkError {
    NetworkError::Refused { kind: Kind::Invalid, message: message.into() }
}

/// Where subnets are chosen from unless one says otherwise, in Docker's order.
fn usual_pools() -> Vec<AddressPool> {
    let large =
        (17..32).map(|second| AddressPool { base: (Ipv4Addr::new(172, second, 0, 0).into(), 16), size: 16 });
    let small = AddressPool { base: (Ipv4Addr::new(192, 168, 0, 0).into(), 16), size: 20 };
    large.chain([small]).collect()
}

/// Unique local addresses (RFC 4193) that no other host is likely to have, as Docker derives them from a host's id.
fn unique_pool(host_id: &str) -> AddressPool {
    let digest: [u8; 32] = Sha256::digest(host_id).into();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[3..8]);
    AddressPool { base: (Ipv6Addr::from(octets).into(), 48), size: 64 }
}

/// Where subnets are chosen from: what is configured, or for a family of which nothing is, what is usual.
pub(super) fn pools(configured: &[AddressPool], host_id: &str) -> Vec<AddressPool> {
    let mut pools = configured.to_vec();
    if !configured.iter().any(|pool| pool.base.0.is_ipv4()) {
        pools.extend(usual_pools());
    }
    if !configured.iter().any(|pool| pool.base.0.is_ipv6()) {
        pools.push(unique_pool(host_id));
    }
    pools
}

/// The lowest subnet of a pool that none of these overlaps. A pool may have more subnets than can be tried one by one.
fn free_in(pool: AddressPool, used: &[Subnet]) -> Option<Subnet> {
    let (first, prefix) = pool.base;
    let base = Subnet::of(first, prefix)?;
    let count = 1_u128 << pool.size.saturating_sub(prefix).min(127);
    let size = |prefix: u8| 1_u128 << bits(first).saturating_sub(prefix).min(127);
    let mut number = 0;
    while number < count {
        let candidate = Subnet::of(base.nth(number.checked_mul(size(pool.size))?), pool.size)?;
        let Some(other) = used.iter().find(|other| other.overlaps(candidate)) else { return Some(candidate) };
        // The first one behind it.
        let end = as_number(other.first()).checked_add(size(other.prefix()))?;
        let behind = end.saturating_sub(as_number(base.first())).div_ceil(size(pool.size));
        number = behind.max(number + 1);
    }
    None
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn as_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A subnet of IPv4, or of IPv6, that neither the host nor another network uses.
pub(super) fn free_subnet<'a>(
    ipv4: bool,
    pools: &[AddressPool],
    in_use: &[Subnet],
    networks: impl Iterator<Item = &'a NetworkRecord>,
) -> Result<Subnet, NetworkError> {
    let used: Vec<Subnet> = networks
        .flat_map(|network| network.pools.iter().map(|pool| pool.subnet))
        .chain(in_use.iter().copied())
        .collect();
    pools
        .iter()
        .filter(|pool| pool.base.0.is_ipv4() == ipv4)
        .find_map(|pool| free_in(*pool, &used))
        .ok_or_else(|| invalid("all predefined address pools have been fully subnetted"))
}

/// What a subnet will be, if it can be.
pub(super) fn wished(known: &[&NetworkRecord], wish: &WishedPool) -> Result<PoolRecord, NetworkError> {
    let refused = |what: String| invalid(format!("invalid network config:\n{what}"));
    let block = |kind: &str, text: &str| {
        text.parse::<Subnet>()
            .map_err(|_| refused(format!("invalid {kind} {text:.100}: invalid CIDR block notation")))
    };
    let subnet = block("subnet", &wish.subnet)?;
    if !wish.subnet.starts_with(&format!("{}/", subnet.first())) {
        return Err(refused(format!("invalid subnet {:.100}: it should be {subnet}", wish.subnet)));
    }
    if is_of_no_host(subnet.first()) {
        return Err(invalid(format!(
            "invalid subnet {subnet}: no interface of a host can have an address of it"
        )));
    }
    let within = |kind: &str, text: &String| -> Result<IpAddr, NetworkError> {
        let bare = text.split('/').next().unwrap_or_default();
        let address: IpAddr =
            bare.parse().map_err(|_| refused(format!("invalid {kind} {text:.100}: invalid address")))?;
        let has_room = subnet.broadcast().is_none_or(|broadcast| address != broadcast);
        if subnet.contains(address) && has_room {
            return Ok(address);
        }
        Err(refused(format!(
            "invalid {kind} {text:.100}: parent subnet {subnet} doesn't contain this address"
        )))
    };
    let range: Option<Subnet> = match &wish.range {
        None => None,
        Some(text) => {
            let range = block("ip-range", text)?;
            if !subnet.contains(range.first()) || range.prefix() < subnet.prefix() {
                let what =
                    format!("invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range");
                return Err(refused(what));
            }
            Some(range)
        }
    };
    let gateway = match &wish.gateway {
        Some(text) => within("gateway", text)?,
        None => subnet.nth(1),
    };
    let auxiliary = wish
        .auxiliary
        .iter()
        .map(|(name, text)| Ok((name.clone(), within("auxiliary address", text)?)))
        .collect::<Result<BTreeMap<_, _>, NetworkError>>()?;
    if known.iter().flat_map(|network| &network.pools).any(|pool| pool.subnet.overlaps(subnet)) {
        return Err(NetworkError::Refused {
            kind: Kind::Forbidden,
            message: "invalid pool request: Pool overlaps with other one on this address space".to_owned(),
        });
    }
    Ok(PoolRecord { subnet, gateway, range, auxiliary })
}

/// Whether an address is of a group, of the host itself or of one link, or stands for something else.
fn is_of_no_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_loopback() || address.is_unspecified(),
        IpAddr::V6(address) => {
            address.is_multicast()
                || address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.to_ipv4_mapped().is_some()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(base: &str, prefix: u8, size: u8) -> AddressPool {
        AddressPool { base: (base.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), prefix), size }
    }

    /// All subnets of some pools, each taken as long as there is one.
    fn shown(pools: &[AddressPool]) -> Vec<String> {
        let mut used: Vec<Subnet> = Vec::new();
        while let Some(subnet) = pools.iter().find_map(|pool| free_in(*pool, &used)) {
            used.push(subnet);
        }
        used.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pools_are_used_from_their_beginning_to_their_end() {
        assert_eq!(shown(&[pool("10.9.8.7", 23, 24)]), ["10.9.8.0/24", "10.9.9.0/24"]);
        assert_eq!(shown(&[pool("10.0.0.0", 16, 16)]), ["10.0.0.0/16"]);
        assert_eq!(shown(&[pool("10.0.0.0", 22, 30)]).len(), 1 << 8);
        assert_eq!(shown(&[pool("fd00:5::7", 63, 64)]), ["fd00:5::/64", "fd00:5:0:1::/64"]);
        let usual: Vec<String> = shown(&usual_pools());
        assert_eq!(
            (usual.len(), usual[0].as_str(), usual[15].as_str()),
            (31, "172.17.0.0/16", "192.168.0.0/20")
        );
        // What is used is stepped over, not tried subnet by subnet: there are 2^64 of them.
        let used = |text: &str| text.parse::<Subnet>().into_iter().collect::<Vec<_>>();
        let next = |base: &str, prefix: u8, size: u8, taken: &str| {
            free_in(pool(base, prefix, size), &used(taken)).map(|subnet| subnet.to_string())
        };
        assert_eq!(next("fd00::", 48, 112, "fd00::/64").as_deref(), Some("fd00:0:0:1::/112"));
        assert_eq!(next("fd00::", 48, 112, "fd00::7:0/112").as_deref(), Some("fd00::/112"));
        assert_eq!(next("fd00::", 48, 64, "fd00::/48"), None);
        assert_eq!(next("fd00::", 48, 64, "fd00::/8"), None);
        assert_eq!(next("255.255.255.0", 24, 25, "255.255.255.0/25").as_deref(), Some("255.255.255.128/25"));
        assert_eq!(next("255.255.255.0", 24, 24, "255.255.255.252/30"), None);
        let pools = [pool("10.0.0.0", 30, 30)];
        let in_use: Vec<Subnet> = Subnet::of([10, 0, 0, 1], 8).into_iter().collect();
        assert!(free_subnet(true, &pools, &in_use, std::iter::empty()).is_err());
        assert!(free_subnet(true, &pools, &[], std::iter::empty()).is_ok());
        assert!(free_subnet(false, &pools, &[], std::iter::empty()).is_err());
    }

    #[test]
    fn subnets_are_of_hosts() {
        let wish = |subnet: &str| {
            wished(&[], &WishedPool { subnet: subnet.to_owned(), ..WishedPool::default() }).is_ok()
        };
        assert!(wish("10.0.0.0/24") && wish("fd00::/64") && wish("169.254.9.0/24"));
        for odd in
            ["ff05::/64", "::/64", "fe80::/64", "::ffff:0:0/96", "224.0.0.0/24", "127.0.1.0/24", "0.0.0.0/8"]
        {
            assert!(!wish(odd), "{odd}");
        }
    }

    #[test]
    fn a_family_of_which_nothing_is_configured_has_the_usual_pools() {
        let families = |configured: &[AddressPool]| {
            let pools = pools(configured, "host");
            let (ipv4, ipv6): (Vec<&AddressPool>, Vec<_>) =
                pools.iter().partition(|pool| pool.base.0.is_ipv4());
            (ipv4.len(), ipv6.len())
        };
        assert_eq!(families(&[]), (16, 1));
        assert_eq!(families(&[pool("10.0.0.0", 8, 24)]), (1, 1));
        assert_eq!(families(&[pool("fd00:1::", 48, 64), pool("fd00:2::", 48, 64)]), (16, 2));
        // The 40 bits are those that dockerd takes of SHA-256 of "host".
        let AddressPool { base: (base, 48), size: 64 } = unique_pool("host") else { panic!() };
        assert_eq!(base.to_string(), "fd63:47b0:172c::");
        assert_ne!(unique_pool("other"), unique_pool("host"));
    }
}
