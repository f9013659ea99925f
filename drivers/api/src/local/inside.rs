//! Addresses on the network that the VMs of a store share.
//!
//! Its subnet follows from the store, an address from the host.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reservations::Reservations;
use crate::{DriverError, HostId};

/// Four thousand hosts.
const PREFIX_LENGTH: u8 = 20;
const HOSTS: u32 = 1 << (32 - PREFIX_LENGTH);
/// So many hashes of a host's id are tried before the addresses are gone through in order.
const ATTEMPTS: u32 = 32;

/// A VM's place on the network, as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    pub address: Ipv4Addr,
    pub prefix_length: u8,
}

impl Inside {
    /// The network: `10.200.16.0/20`.
    pub fn network(self) -> String {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_length.min(32))).unwrap_or_default();
        format!("{}/{}", Ipv4Addr::from_bits(self.address.to_bits() & mask), self.prefix_length)
    }

    /// The address as an interface has it: `10.200.17.5/20`.
    pub fn interface(self) -> String {
        format!("{}/{}", self.address, self.prefix_length)
    }

    /// A locally administered hardware address that no other VM of the network has.
    pub fn mac(self) -> [u8; 6] {
        let [first, second, third, fourth] = self.address.octets();
        [0x52, 0x54, first, second, third, fourth]
    }
}

/// The subnet of a store. Swarms give their overlays networks from the beginning of 10.0.0.0/8 on, so it is from the
/// other half.
fn subnet(owner: &str) -> u32 {
    let hash = Sha256::digest(format!("inside {owner}"));
    Ipv4Addr::new(10, 128 + hash[0] % 127, hash[1] & 0xf0, 0).to_bits()
}

/// The addresses that a host would like, best first, and then all others.
fn candidates(owner: &str, id: &HostId) -> impl Iterator<Item = Ipv4Addr> {
    let (subnet, id) = (subnet(owner), id.to_string());
    let liked = (0..ATTEMPTS).map(move |attempt| {
        let hash = Sha256::digest(format!("{id} {attempt}"));
        u32::from_be_bytes([0, 0, hash[0], hash[1]]) % HOSTS
    });
    // Neither the network's own address, nor the first, which people take for a router's, nor the last, which is for
    // all.
    liked
        .chain(2..HOSTS - 1)
        .filter(|number| (2..HOSTS - 1).contains(number))
        .map(move |number| Ipv4Addr::from_bits(subnet | number))
}

/// Finds a free address.
pub fn choose(owner: &str, id: &HostId, reservations: &Reservations) -> Result<Inside, DriverError> {
    candidates(owner, id)
        .find(|address| !reservations.is_taken(address, id))
        .map(|address| Inside { address, prefix_length: PREFIX_LENGTH })
        .ok_or_else(|| {
            DriverError::refused("Every address of the network inside the store belongs to a host")
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_store_has_its_subnet_and_a_host_its_address_in_it() {
        let cache = tempfile::tempdir().unwrap();
        let (reservations, id) = (Reservations::inside(cache.path()), HostId::random());
        let one = choose("store-1", &id, &reservations).unwrap();
        assert_eq!(choose("store-1", &id, &reservations).unwrap(), one);
        let [first, second, ..] = one.address.octets();
        assert!(first == 10 && (128..255).contains(&second), "{one:?}");
        assert_eq!(one.network(), choose("store-1", &HostId::random(), &reservations).unwrap().network());
        assert_ne!(one.network(), choose("store-2", &id, &reservations).unwrap().network());
    }

    #[test]
    fn the_network_is_what_its_addresses_have_in_common() {
        let inside = Inside { address: Ipv4Addr::new(10, 200, 23, 45), prefix_length: 20 };
        assert_eq!(
            (inside.network(), inside.interface()),
            ("10.200.16.0/20".into(), "10.200.23.45/20".into())
        );
        assert_eq!(inside.mac(), [0x52, 0x54, 0x0a, 0xc8, 0x17, 0x2d]);
        let odd = Inside { prefix_length: 0, ..inside };
        assert_eq!(odd.network(), "0.0.0.0/0");
    }

    #[test]
    fn a_thousand_hosts_have_a_thousand_addresses() {
        let cache = tempfile::tempdir().unwrap();
        let reservations = Reservations::inside(cache.path());
        let mut addresses = HashSet::new();
        for _ in 0..1000 {
            let id = HostId::random();
            let inside = choose("store", &id, &reservations).unwrap();
            assert!(reservations.reserve(inside.address, &id).unwrap());
            assert!(addresses.insert(inside.address));
            let number = inside.address.to_bits() % HOSTS;
            assert!(number > 1 && number < HOSTS - 1, "{inside:?}");
        }
        let all: HashSet<_> = candidates("store", &HostId::random()).collect();
        assert_eq!(u32::try_from(all.len()).unwrap(), HOSTS - 3);
    }
}
