//! The network inside a store: an address on it for each VM, and the way to the switch that joins them.
//!
//! Its subnet follows from the store, an address from the host. It has no router: what is not on it goes out by the
//! VM's other interface. Nobody but the VMs of the store and the user whose it is gets at the switch.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use machine_driver::{DriverError, HostId};
use machine_switch::{MacAddress, Network, Settings, Starting};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{paths, reservations::Reservations};

/// Four thousand hosts.
const PREFIX_LENGTH: u8 = 20;
const HOSTS: u32 = 1 << (32 - PREFIX_LENGTH);
/// So many hashes of a host's id are tried before the addresses are gone through in order.
const ATTEMPTS: u32 = 32;
/// In a host's folder: leads to the folder of the network, whose path may be too long for the address of a socket.
pub(crate) const LINK: &str = "inside";

/// A VM's place on the network, as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inside {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_length: u8,
}

impl Inside {
    /// The network: `10.200.16.0/20`.
    pub(crate) fn network(self) -> String {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_length.min(32))).unwrap_or_default();
        format!("{}/{}", Ipv4Addr::from_bits(self.address.to_bits() & mask), self.prefix_length)
    }

    /// The address as an interface has it: `10.200.17.5/20`.
    pub(crate) fn interface(self) -> String {
        format!("{}/{}", self.address, self.prefix_length)
    }

    /// A locally administered hardware address that no other VM of the network has.
    pub(crate) fn mac(self) -> MacAddress {
        let [first, second, third, fourth] = self.address.octets();
        MacAddress([0x52, 0x54, first, second, third, fourth])
    }

    /// What QEMU connects the interface with. Its folder is the host's.
    pub(crate) fn netdev(id: &HostId, name: &str) -> String {
        let (port, switch) = (Network::port_socket(&id.to_string()), Network::switch_socket());
        format!(
            "dgram,id={name},local.type=unix,local.path={LINK}/{port},remote.type=unix,remote.path={LINK}/{switch}"
        )
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
pub(crate) fn choose(owner: &str, id: &HostId, reservations: &Reservations) -> Result<Inside, DriverError> {
    candidates(owner, id)
        .find(|address| !reservations.is_taken(address, id))
        .map(|address| Inside { address, prefix_length: PREFIX_LENGTH })
        .ok_or_else(|| {
            DriverError::refused("Every address of the network inside the store belongs to a host")
        })
}

/// The network of a store.
fn folder(cache: &Path) -> PathBuf {
    cache.join("network")
}

/// Puts the VM on the network, which it is then started on, and sees to it that there is a switch. Blocks.
pub(crate) fn join(
    cache: &Path,
    host: &Path,
    id: &HostId,
    inside: Inside,
    program: &Path,
) -> Result<Starting, DriverError> {
    let failed =
        |error| DriverError::failed("Could not join the network inside the store").with_source(error);
    let network = Network::open(&folder(cache)).map_err(failed)?;
    let starting = network.starting().map_err(failed)?;
    let settings =
        Settings { mac: Some(inside.mac()), addresses: vec![inside.address.into()], ..Settings::default() };
    network.plug(&id.to_string(), &settings).map_err(failed)?;
    link(host, network.folder())?;
    network.serve(program).map_err(failed)?;
    Ok(starting)
}

/// Starts a switch that was killed. For those who are on the network. Blocks.
pub(crate) fn serve(network: &Path, program: &Path) -> Result<(), machine_switch::NetworkError> {
    let Some(network) = Network::existing(network) else { return Ok(()) };
    if network.is_served() {
        return Ok(());
    }
    let _starting = network.starting()?;
    network.serve(program)
}

/// Takes the VM, which does not run, off the network; a switch that has no VM left ends. Blocks.
pub(crate) fn leave(cache: &Path, host: &Path, id: &HostId) -> Result<(), DriverError> {
    let failed = || DriverError::failed("Could not leave the network inside the store");
    if let Some(network) = Network::existing(&folder(cache)) {
        network.unplug(&id.to_string()).map_err(|error| failed().with_source(error))?;
    }
    unlink(&host.join(LINK)).map_err(|error| failed().with_source(error))
}

fn link(host: &Path, network: &Path) -> Result<(), DriverError> {
    let path = host.join(LINK);
    let target = paths::relative(host, network).unwrap_or_else(|| network.to_owned());
    if fs::read_link(&path).is_ok_and(|present| present == target) {
        return Ok(());
    }
    unlink(&path).and_then(|()| symlink(target, &path)).map_err(|error| {
        DriverError::failed(format!("Could not write the link `{}`", path.display())).with_source(error)
    })
}

fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
        assert_eq!(inside.mac().to_string(), "52:54:0a:c8:17:2d");
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
