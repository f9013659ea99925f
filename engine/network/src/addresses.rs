//! Subnets, and which of their addresses are taken.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A subnet with room for a gateway and a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNet);

/// A text that is not an address with a prefix length that leaves room: 8 to 30, or 8 to 126 for IPv6.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct NotASubnet(pub String);

/// The number that an address is.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Subnet {
    /// The subnet an address lies in.
    pub(super) fn of(address: impl Into<IpAddr>, prefix: u8) -> Option<Self> {
        let net = IpNet::new(address.into(), prefix).ok()?;
        (8..=net.max_prefix_len() - 2).contains(&prefix).then(|| Self(net.trunc()))
    }

    /// An address of a host and its subnet, `172.17.0.1/16`.
    pub(super) fn with_address(text: &str) -> Result<(IpAddr, Self), NotASubnet> {
        let refuse = || NotASubnet(text.chars().take(50).collect());
        let net: IpNet = text.trim().parse().map_err(|_| refuse())?;
        Ok((net.addr(), Self::of(net.addr(), net.prefix_len()).ok_or_else(refuse)?))
    }

    pub fn prefix(self) -> u8 {
        self.0.prefix_len()
    }

    pub fn first(self) -> IpAddr {
        self.0.network()
    }

    pub fn is_ipv4(self) -> bool {
        self.first().is_ipv4()
    }

    pub fn is_ipv6(self) -> bool {
        !self.is_ipv4()
    }

    /// The bytes of its mask.
    pub(super) fn mask(self) -> Vec<u8> {
        octets(self.0.netmask())
    }

    /// The address that all of its hosts listen to; IPv6 has none.
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        match self.0 {
            IpNet::V4(net) => Some(net.broadcast()),
            IpNet::V6(_) => None,
        }
    }

    pub fn contains(self, address: impl Into<IpAddr>) -> bool {
        self.0.contains(&address.into())
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// The address this far behind the first.
    pub(super) fn nth(self, offset: u128) -> IpAddr {
        match self.first() {
            IpAddr::V4(first) => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Ipv4Addr::from_bits(first.to_bits().wrapping_add(offset)).into()
            }
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(offset)).into(),
        }
    }

    /// Whether a host can have this address of it.
    pub(super) fn is_for_hosts(self, address: IpAddr) -> bool {
        self.contains(address)
            && address != self.first()
            && self.broadcast().is_none_or(|broadcast| address != broadcast)
    }

    /// How many addresses it has.
    fn size(self) -> u128 {
        let bits = self.0.max_prefix_len() - self.prefix();
        1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX)
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Bits behind the prefix are cut off.
impl FromStr for Subnet {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Self, NotASubnet> {
        Self::with_address(text).map(|(_, subnet)| subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = NotASubnet;

    fn try_from(text: String) -> Result<Self, NotASubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// Why no address was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAddress {
    Exhausted,
    Taken(IpAddr),
    Outside(IpAddr),
}

/// The addresses of a subnet. The lowest free one is given first.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    subnet: Subnet,
    /// By how far they are behind the first.
    taken: HashSet<u128>,
    /// Where addresses for whoever has no wish come from.
    range: Subnet,
    /// Every address of the range before this one is taken.
    lowest: u128,
}

impl Pool {
    /// The subnet's own address and the one for everybody are never given.
    pub(super) fn new(subnet: Subnet, range: Option<Subnet>) -> Self {
        let range = range.unwrap_or(subnet);
        let lowest = number(range.first()).saturating_sub(number(subnet.first()));
        Self { subnet, taken: HashSet::new(), range, lowest }
    }

    pub(super) fn subnet(&self) -> Subnet {
        self.subnet
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        self.subnet.contains(address).then(|| number(address) - number(self.subnet.first()))
    }

    fn is_free(&self, offset: u128) -> bool {
        self.subnet.is_for_hosts(self.subnet.nth(offset)) && !self.taken.contains(&offset)
    }

    /// Takes this very address.
    pub(super) fn take(&mut self, address: IpAddr) -> Result<(), NoAddress> {
        let offset = self.offset(address).ok_or(NoAddress::Outside(address))?;
        if !self.is_free(offset) {
            return Err(NoAddress::Taken(address));
        }
        self.taken.insert(offset);
        Ok(())
    }

    /// Takes the lowest free address.
    pub(super) fn take_any(&mut self) -> Result<IpAddr, NoAddress> {
        let first = self.offset(self.range.first()).ok_or(NoAddress::Exhausted)?;
        let end = first.saturating_add(self.range.size());
        let offset = (self.lowest..end).find(|offset| self.is_free(*offset)).ok_or(NoAddress::Exhausted)?;
        self.lowest = offset + 1;
        self.taken.insert(offset);
        Ok(self.subnet.nth(offset))
    }

    pub(super) fn give_back(&mut self, address: IpAddr) {
        let first = self.offset(self.range.first()).unwrap_or_default();
        if let Some(offset) = self.offset(address)
            && self.taken.remove(&offset)
        {
            self.lowest = self.lowest.min(offset.max(first));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn last_byte(address: IpAddr) -> u8 {
        *octets(address).last().unwrap()
    }

    #[test]
    fn a_subnet_knows_its_bounds() {
        let (address, subnet) = Subnet::with_address("172.17.5.1/16").unwrap();
        assert_eq!(address, ip("172.17.5.1"));
        assert_eq!(subnet.to_string(), "172.17.0.0/16");
        assert_eq!(subnet.broadcast(), Some(Ipv4Addr::new(172, 17, 255, 255)));
        assert_eq!(subnet.mask(), [255, 255, 0, 0]);
        assert!(subnet.contains(Ipv4Addr::new(172, 17, 255, 1)));
        assert!(!subnet.contains(Ipv4Addr::new(172, 18, 0, 1)));
        assert!(subnet.overlaps("172.17.9.0/24".parse().unwrap()));
        assert!(!subnet.overlaps("172.16.0.0/16".parse().unwrap()));
        let (address, subnet) = Subnet::with_address("fd00:1::9/64").unwrap();
        assert_eq!((address, subnet.to_string().as_str()), (ip("fd00:1::9"), "fd00:1::/64"));
        assert_eq!((subnet.broadcast(), &subnet.mask()[7..9]), (None, &[255, 0][..]));
        assert!(subnet.overlaps("fd00:1::8000:0/112".parse().unwrap()));
        assert!(!subnet.overlaps("fd00:2::/64".parse().unwrap()));
        assert!(!subnet.overlaps("10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in [
            "::1/127",
            "",
            "172.17.0.1",
            "172.17.0.1/",
            "172.17.0.1/33",
            "172.17.0.1/31",
            "1.2.3.4/7",
            "x/16",
            "::1/7",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_lowest_free_address_comes_first() {
        let mut pool = Pool::new(subnet("10.0.0.0/29"), None);
        pool.take(ip("10.0.0.1")).unwrap();
        let given: Vec<_> = std::iter::from_fn(|| pool.take_any().ok()).map(last_byte).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(pool.take_any(), Err(NoAddress::Exhausted));
        pool.give_back(ip("10.0.0.4"));
        pool.give_back(ip("10.0.0.7"));
        pool.give_back(ip("10.0.0.0"));
        assert_eq!(pool.take_any(), Ok(ip("10.0.0.4")));
        assert_eq!(pool.take_any(), Err(NoAddress::Exhausted));
    }

    #[test]
    fn a_wish_is_granted_once() {
        let mut pool = Pool::new(subnet("10.0.0.0/16"), None);
        let wish = ip("10.0.200.7");
        assert_eq!(pool.take(wish), Ok(()));
        assert_eq!(pool.take(wish), Err(NoAddress::Taken(wish)));
        let broadcast = ip("10.0.255.255");
        assert_eq!(pool.take(broadcast), Err(NoAddress::Taken(broadcast)));
        let outside = ip("10.1.0.1");
        assert_eq!(pool.take(outside), Err(NoAddress::Outside(outside)));
    }

    #[test]
    fn a_large_pool_is_used_to_its_end() {
        let mut pool = Pool::new(subnet("10.0.0.0/20"), None);
        let mut last = ip("0.0.0.0");
        for _ in 0..4094 {
            last = pool.take_any().unwrap();
        }
        assert_eq!(last, ip("10.0.15.254"));
        assert_eq!(pool.take_any(), Err(NoAddress::Exhausted));
    }

    #[test]
    fn a_range_bounds_what_is_given_without_a_wish() {
        let mut pool = Pool::new(subnet("10.0.0.0/16"), Some(subnet("10.0.5.0/30")));
        let given: Vec<_> = std::iter::from_fn(|| pool.take_any().ok()).map(last_byte).collect();
        assert_eq!(given, [0, 1, 2, 3]);
        assert_eq!(pool.take(ip("10.0.9.1")), Ok(()));
    }

    #[test]
    fn ipv6_has_no_end_and_is_given_from_its_beginning() {
        let mut pool = Pool::new(subnet("fd00::/64"), None);
        pool.take(ip("fd00::1")).unwrap();
        pool.take(ip("fd00::ffff:ffff:ffff:ffff")).unwrap();
        assert_eq!(pool.take(ip("fd00::")), Err(NoAddress::Taken(ip("fd00::"))));
        assert_eq!(pool.take_any(), Ok(ip("fd00::2")));
        assert_eq!(pool.take_any(), Ok(ip("fd00::3")));
        pool.give_back(ip("fd00::2"));
        assert_eq!(pool.take_any(), Ok(ip("fd00::2")));
        assert_eq!(pool.take_any(), Ok(ip("fd00::4")));
        assert_eq!(pool.take(ip("10.0.0.1")), Err(NoAddress::Outside(ip("10.0.0.1"))));
        let mut pool = Pool::new(subnet("fd00::/64"), Some(subnet("fd00::8000:0/126")));
        let given: Vec<_> = std::iter::from_fn(|| pool.take_any().ok()).map(last_byte).collect();
        assert_eq!(given, [0, 1, 2, 3]);
    }
}
