//! Subnets, and which of their addresses are taken.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// An IPv4 subnet large enough for a gateway and a container, small enough for its map of taken addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(Ipv4Net);

/// A text that is not an address with a prefix length between 8 and 30.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct NotASubnet(pub String);

impl Subnet {
    /// The subnet an address lies in.
    pub(super) fn of(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let net = Ipv4Net::new(address, prefix).ok()?;
        (8..=30).contains(&prefix).then(|| Self(net.trunc()))
    }

    /// An address of a host and its subnet, `172.17.0.1/16`.
    pub(super) fn with_address(text: &str) -> Result<(Ipv4Addr, Self), NotASubnet> {
        let refuse = || NotASubnet(text.chars().take(50).collect());
        let net: Ipv4Net = text.trim().parse().map_err(|_| refuse())?;
        Ok((net.addr(), Self::of(net.addr(), net.prefix_len()).ok_or_else(refuse)?))
    }

    pub fn prefix(self) -> u8 {
        self.0.prefix_len()
    }

    pub fn first(self) -> Ipv4Addr {
        self.0.network()
    }

    pub fn mask(self) -> Ipv4Addr {
        self.0.netmask()
    }

    pub fn broadcast(self) -> Ipv4Addr {
        self.0.broadcast()
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// The address this far behind the first.
    pub(super) fn nth(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first().to_bits().wrapping_add(offset))
    }

    fn size(self) -> u32 {
        1 << (32 - self.prefix())
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
    Taken(Ipv4Addr),
    Outside(Ipv4Addr),
}

/// The addresses of a subnet: one bit each, set when taken. The lowest free one is given first.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    subnet: Subnet,
    taken: Vec<u64>,
    /// Where addresses for whoever has no wish come from.
    range: Subnet,
    /// Every word before this one is full.
    full: usize,
}

impl Pool {
    /// The subnet's own address and the one for everybody are never given.
    pub(super) fn new(subnet: Subnet, range: Option<Subnet>) -> Self {
        let words = usize::try_from(subnet.size().div_ceil(64)).unwrap_or(1);
        let mut pool = Self { subnet, taken: vec![0; words], range: range.unwrap_or(subnet), full: 0 };
        pool.set(0, true);
        pool.set(subnet.size() - 1, true);
        pool
    }

    fn set(&mut self, offset: u32, taken: bool) {
        let (word, bit) = (offset as usize / 64, 1 << (offset % 64));
        if taken {
            self.taken[word] |= bit;
        } else {
            self.taken[word] &= !bit;
            self.full = self.full.min(word);
        }
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.taken[offset as usize / 64] & (1 << (offset % 64)) != 0
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.subnet.contains(address).then(|| address.to_bits() - self.subnet.first().to_bits())
    }

    /// Takes this very address.
    pub(super) fn take(&mut self, address: Ipv4Addr) -> Result<(), NoAddress> {
        let offset = self.offset(address).ok_or(NoAddress::Outside(address))?;
        if self.is_taken(offset) {
            return Err(NoAddress::Taken(address));
        }
        self.set(offset, true);
        Ok(())
    }

    /// Takes the lowest free address.
    pub(super) fn take_any(&mut self) -> Result<Ipv4Addr, NoAddress> {
        if self.range == self.subnet {
            while self.taken.get(self.full) == Some(&u64::MAX) {
                self.full += 1;
            }
        }
        let first = self.offset(self.range.first()).ok_or(NoAddress::Exhausted)?;
        let begin = first.max(u32::try_from(self.full * 64).unwrap_or(u32::MAX));
        let end = first.saturating_add(self.range.size()).min(self.subnet.size());
        let offset = (begin..end).find(|offset| !self.is_taken(*offset)).ok_or(NoAddress::Exhausted)?;
        self.set(offset, true);
        Ok(self.subnet.nth(offset))
    }

    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address)
            && offset != 0
            && offset != self.subnet.size() - 1
        {
            self.set(offset, false);
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

    #[test]
    fn a_subnet_knows_its_bounds() {
        let (address, subnet) = Subnet::with_address("172.17.5.1/16").unwrap();
        assert_eq!(address, Ipv4Addr::new(172, 17, 5, 1));
        assert_eq!(subnet.to_string(), "172.17.0.0/16");
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(172, 17, 255, 255));
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 0, 0));
        assert!(subnet.contains(Ipv4Addr::new(172, 17, 255, 1)));
        assert!(!subnet.contains(Ipv4Addr::new(172, 18, 0, 1)));
        assert!(subnet.overlaps("172.17.9.0/24".parse().unwrap()));
        assert!(!subnet.overlaps("172.16.0.0/16".parse().unwrap()));
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in
            ["", "172.17.0.1", "172.17.0.1/", "172.17.0.1/33", "172.17.0.1/31", "1.2.3.4/7", "x/16", "::1/64"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_lowest_free_address_comes_first() {
        let mut pool = Pool::new(subnet("10.0.0.0/29"), None);
        pool.take(Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        let given: Vec<_> =
            std::iter::from_fn(|| pool.take_any().ok()).map(|address| address.octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(pool.take_any(), Err(NoAddress::Exhausted));
        pool.give_back(Ipv4Addr::new(10, 0, 0, 4));
        pool.give_back(Ipv4Addr::new(10, 0, 0, 7));
        pool.give_back(Ipv4Addr::new(10, 0, 0, 0));
        assert_eq!(pool.take_any(), Ok(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(pool.take_any(), Err(NoAddress::Exhausted));
    }

    #[test]
    fn a_wish_is_granted_once() {
        let mut pool = Pool::new(subnet("10.0.0.0/16"), None);
        let wish = Ipv4Addr::new(10, 0, 200, 7);
        assert_eq!(pool.take(wish), Ok(()));
        assert_eq!(pool.take(wish), Err(NoAddress::Taken(wish)));
        let broadcast = Ipv4Addr::new(10, 0, 255, 255);
        assert_eq!(pool.take(broadcast), Err(NoAddress::Taken(broadcast)));
        let outside = Ipv4Addr::new(10, 1, 0, 1);
        assert_eq!(pool.take(outside), Err(NoAddress::Outside(outside)));
    }

    #[test]
    fn a_large_pool_is_used_to_its_end() {
        let mut pool = Pool::new(subnet("10.0.0.0/20"), None);
        let mut last = Ipv4Addr::UNSPECIFIED;
        for _ in 0..4094 {
            last = pool.take_any().unwrap();
        }
        assert_eq!(last, Ipv4Addr::new(10, 0, 15, 254));
        assert_eq!(pool.take_any(), Err(NoAddress::Exhausted));
    }

    #[test]
    fn a_range_bounds_what_is_given_without_a_wish() {
        let mut pool = Pool::new(subnet("10.0.0.0/16"), Some(subnet("10.0.5.0/30")));
        let given: Vec<_> =
            std::iter::from_fn(|| pool.take_any().ok()).map(|address| address.octets()[3]).collect();
        assert_eq!(given, [0, 1, 2, 3]);
        assert_eq!(pool.take(Ipv4Addr::new(10, 0, 9, 1)), Ok(()));
    }
}
