//! A loopback address of its own for each VM, with the standard ports on it.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use sha2::{Digest, Sha256};

use super::reservations::Reservations;
use crate::{DriverError, HostId};

/// The engine's port, and the one that classic Swarm had.
pub const ENGINE_PORTS: [u16; 2] = [2376, 3376];
/// Where SSH is put: 22 needs privileges on most machines, and is taken on all addresses at once where the
/// machine's own sshd listens on all of them.
const SSH_PORTS: [u16; 4] = [22, 2222, 2022, 22022];
/// So many hashes of a host's id are tried.
const ATTEMPTS: u8 = 32;

/// An address on which the ports are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub address: Ipv4Addr,
    pub ssh_port: u16,
}

/// The addresses that a host would like, best first. Always the same for one host, and different ones for
/// different hosts, almost certainly.
fn candidates(id: &HostId) -> impl Iterator<Item = Ipv4Addr> {
    let id = id.to_string();
    (0..ATTEMPTS).map(move |attempt| {
        let hash = Sha256::digest(format!("{id} {attempt}"));
        // 127.0 to 127.15 are left to those who choose by hand; no octet at the end is 0 or 255.
        Ipv4Addr::new(127, 16 + hash[0] % 224, hash[1], 1 + hash[2] % 254)
    })
}

/// Finds a free address, or looks at the one that is wanted.
pub fn choose(
    id: &HostId,
    wanted: Option<Ipv4Addr>,
    reservations: &Reservations,
) -> Result<Place, DriverError> {
    if let Some(address) = wanted {
        if let Some(other) = reservations.holder(address)?.filter(|holder| *holder != id.to_string()) {
            return Err(DriverError::refused(format!("The address {address} belongs to another host"))
                .with_hint(format!(
                    "It is reserved by the host with the id {other}; choose another address"
                )));
        }
        return look(address).map_err(|taken| taken.into_error(address));
    }
    let mut last = None;
    for address in candidates(id) {
        if reservations.is_taken(address, id) {
            continue;
        }
        match look(address) {
            Ok(place) => return Ok(place),
            Err(taken) => last = Some((address, taken)),
        }
    }
    Err(match last {
        Some((address, taken)) => taken.into_error(address),
        None => DriverError::refused("Every loopback address that was tried belongs to another host"),
    })
}

/// Whether all ports can be had on an address.
pub fn look(address: Ipv4Addr) -> Result<Place, Taken> {
    for port in ENGINE_PORTS {
        bind(address, port).map_err(|source| Taken { port, source })?;
    }
    let mut failure = None;
    for ssh_port in SSH_PORTS {
        match bind(address, ssh_port) {
            Ok(()) => return Ok(Place { address, ssh_port }),
            Err(source) => failure = Some(Taken { port: ssh_port, source }),
        }
    }
    Err(failure.unwrap_or_else(|| Taken { port: 22, source: io::ErrorKind::AddrInUse.into() }))
}

/// Refuses an address of which a port was taken by somebody else.
pub fn look_again(place: Place) -> Result<(), DriverError> {
    for port in ENGINE_PORTS.into_iter().chain([place.ssh_port]) {
        bind(place.address, port).map_err(|source| Taken { port, source }.into_error(place.address))?;
    }
    Ok(())
}

fn bind(address: Ipv4Addr, port: u16) -> io::Result<()> {
    TcpListener::bind((address, port)).map(drop)
}

/// A port that could not be had.
#[derive(Debug)]
pub struct Taken {
    port: u16,
    source: io::Error,
}

impl Taken {
    fn into_error(self, address: Ipv4Addr) -> DriverError {
        let Self { port, source } = self;
        let verb = if source.kind() == io::ErrorKind::AddrInUse { "is taken" } else { "cannot be used" };
        DriverError::refused(format!("Port {port} {verb} on {address}")).with_source(source).with_hint(format!(
            "See what listens there with `ss -ltnp 'sport = :{port}'`: a program that listens on 0.0.0.0 takes the \
             port on every address"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Nothing is reserved in it.
    fn cache() -> Reservations {
        Reservations::of_loopback(std::path::Path::new("/nonexistent"))
    }

    #[test]
    fn a_host_gets_the_same_address_again_and_hosts_get_different_ones() {
        let (one, other) = (HostId::random(), HostId::random());
        let cache = cache();
        let place = choose(&one, None, &cache).unwrap();
        assert!(place.address.is_loopback());
        assert_eq!(choose(&one, None, &cache).unwrap(), place);
        assert_ne!(choose(&other, None, &cache).unwrap().address, place.address);
    }

    #[test]
    fn a_taken_address_is_skipped() {
        let (id, cache) = (HostId::random(), cache());
        let first = choose(&id, None, &cache).unwrap().address;
        let _taken = TcpListener::bind((first, 2376)).unwrap();
        assert_ne!(choose(&id, None, &cache).unwrap().address, first);
    }

    #[test]
    fn a_wanted_address_with_a_taken_port_is_refused() {
        let (id, cache) = (HostId::random(), cache());
        let address = choose(&id, None, &cache).unwrap().address;
        let _taken = TcpListener::bind((address, 3376)).unwrap();
        let error = choose(&id, Some(address), &cache).unwrap_err();
        assert_eq!(error.to_string(), format!("Port 3376 is taken on {address}"));
        assert!(error.hint().is_some());
    }

    #[test]
    fn ssh_moves_where_its_port_is_taken() {
        let (id, cache) = (HostId::random(), cache());
        let address = choose(&id, None, &cache).unwrap().address;
        let usual = choose(&id, Some(address), &cache).unwrap().ssh_port;
        let _taken = TcpListener::bind((address, usual)).unwrap();
        let place = choose(&id, Some(address), &cache).unwrap();
        assert!(SSH_PORTS.contains(&place.ssh_port) && place.ssh_port != usual, "{place:?}");
    }

    #[test]
    fn an_address_of_another_host_is_refused_or_passed_over() {
        let (mine, other, folder) = (HostId::random(), HostId::random(), tempfile::tempdir().unwrap());
        let cache = Reservations::of_loopback(folder.path());
        let address = choose(&mine, None, &cache).unwrap().address;
        assert!(cache.reserve(address, &other).unwrap());
        assert_ne!(choose(&mine, None, &cache).unwrap().address, address);
        let error = choose(&mine, Some(address), &cache).unwrap_err();
        assert_eq!(error.to_string(), format!("The address {address} belongs to another host"));
        choose(&other, Some(address), &cache).unwrap();
    }
}
