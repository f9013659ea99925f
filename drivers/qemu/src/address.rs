//! A loopback address of its own for each VM, with the standard ports on it.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use machine_driver::{DriverError, HostId};
use sha2::{Digest, Sha256};

/// The engine's port, and the one that classic Swarm had.
pub(crate) const ENGINE_PORTS: [u16; 2] = [2376, 3376];
/// Where SSH is put: 22 needs privileges on most machines, and is taken on all addresses at once where the
/// machine's own sshd listens on all of them.
const SSH_PORTS: [u16; 4] = [22, 2222, 2022, 22022];
/// So many hashes of a host's id are tried.
const ATTEMPTS: u8 = 32;

/// An address on which the ports are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: Ipv4Addr,
    pub(crate) ssh_port: u16,
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
pub(crate) fn choose(id: &HostId, wanted: Option<Ipv4Addr>, cache: &Path) -> Result<Place, DriverError> {
    if let Some(address) = wanted {
        if let Some(other) = holder(cache, address).filter(|holder| *holder != id.to_string()) {
            return Err(DriverError::refused(format!("The address {address} belongs to another host"))
                .with_hint(format!(
                    "It is reserved by the host with the id {other}; choose another address"
                )));
        }
        return look(address).map_err(|taken| taken.into_error(address));
    }
    let mut last = None;
    for address in candidates(id) {
        if holder(cache, address).is_some_and(|holder| holder != id.to_string()) {
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
pub(crate) fn look(address: Ipv4Addr) -> Result<Place, Taken> {
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
pub(crate) fn look_again(place: Place) -> Result<(), DriverError> {
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
pub(crate) struct Taken {
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

/// The file which says whose an address is, also while its VM is stopped.
fn reservation(cache: &Path, address: Ipv4Addr) -> PathBuf {
    cache.join("addresses").join(address.to_string())
}

/// The id of the host that an address belongs to.
pub(crate) fn holder(cache: &Path, address: Ipv4Addr) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(reservation(cache, address)).ok()?;
    file.take(64).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// Takes an address. `false`: another host was faster.
pub(crate) fn reserve(cache: &Path, address: Ipv4Addr, id: &HostId) -> Result<bool, DriverError> {
    let path = reservation(cache, address);
    let failed = |error: io::Error| {
        DriverError::failed(format!("Could not write `{}`", path.display())).with_source(error)
    };
    fs::create_dir_all(cache.join("addresses")).map_err(failed)?;
    // The file appears with its content at once: a link to a file that is whole.
    let mut file = tempfile::NamedTempFile::new_in(cache.join("addresses")).map_err(failed)?;
    writeln!(file, "{id}").map_err(failed)?;
    match fs::hard_link(file.path(), &path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(holder(cache, address).is_some_and(|holder| holder == id.to_string()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Gives an address back, if it is this host's.
pub(crate) fn release(cache: &Path, address: Ipv4Addr, id: &HostId) -> Result<(), DriverError> {
    if holder(cache, address).is_none_or(|holder| holder != id.to_string()) {
        return Ok(());
    }
    let path = reservation(cache, address);
    fs::remove_file(&path).map_err(|error| {
        DriverError::failed(format!("Could not remove `{}`", path.display())).with_source(error)
    })
}

/// Gives back every address that is this host's, when its record does not tell them.
pub(crate) fn release_all(cache: &Path, id: &HostId) -> Result<(), DriverError> {
    let Ok(entries) = fs::read_dir(cache.join("addresses")) else { return Ok(()) };
    for entry in entries.flatten() {
        if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            release(cache, address, id)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_host_gets_the_same_address_again_and_hosts_get_different_ones() {
        let (one, other) = (HostId::random(), HostId::random());
        let cache = tempfile::tempdir().unwrap();
        let place = choose(&one, None, cache.path()).unwrap();
        assert!(place.address.is_loopback());
        assert_eq!(choose(&one, None, cache.path()).unwrap(), place);
        assert_ne!(choose(&other, None, cache.path()).unwrap().address, place.address);
    }

    #[test]
    fn a_taken_address_is_skipped() {
        let (id, cache) = (HostId::random(), tempfile::tempdir().unwrap());
        let first = choose(&id, None, cache.path()).unwrap().address;
        let _taken = TcpListener::bind((first, 2376)).unwrap();
        assert_ne!(choose(&id, None, cache.path()).unwrap().address, first);
    }

    #[test]
    fn a_wanted_address_with_a_taken_port_is_refused() {
        let (id, cache) = (HostId::random(), tempfile::tempdir().unwrap());
        let address = choose(&id, None, cache.path()).unwrap().address;
        let _taken = TcpListener::bind((address, 3376)).unwrap();
        let error = choose(&id, Some(address), cache.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("Port 3376 is taken on {address}"));
        assert!(error.hint().is_some());
    }

    #[test]
    fn ssh_moves_where_its_port_is_taken() {
        let (id, cache) = (HostId::random(), tempfile::tempdir().unwrap());
        let address = choose(&id, None, cache.path()).unwrap().address;
        let usual = choose(&id, Some(address), cache.path()).unwrap().ssh_port;
        let _taken = TcpListener::bind((address, usual)).unwrap();
        let place = choose(&id, Some(address), cache.path()).unwrap();
        assert!(SSH_PORTS.contains(&place.ssh_port) && place.ssh_port != usual, "{place:?}");
    }

    #[test]
    fn an_address_belongs_to_one_host_until_it_is_given_back() {
        let (mine, other, cache) = (HostId::random(), HostId::random(), tempfile::tempdir().unwrap());
        let address = choose(&mine, None, cache.path()).unwrap().address;
        assert!(reserve(cache.path(), address, &mine).unwrap());
        assert!(reserve(cache.path(), address, &mine).unwrap());
        assert!(!reserve(cache.path(), address, &other).unwrap());
        assert!(choose(&other, Some(address), cache.path()).is_err());
        release(cache.path(), address, &other).unwrap();
        assert!(choose(&other, Some(address), cache.path()).is_err());
        release(cache.path(), address, &mine).unwrap();
        release(cache.path(), address, &mine).unwrap();
        assert!(reserve(cache.path(), address, &other).unwrap());
        assert_eq!(fs::read_dir(cache.path().join("addresses")).unwrap().count(), 1);
    }
}
