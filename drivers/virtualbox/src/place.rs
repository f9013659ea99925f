//! Where a VM is reached: a loopback address of its own with the standard ports on it, or free ports where there is
//! no such address.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use machine_driver::{
    DriverError, HostId,
    local::{
        address::{self, ENGINE_PORTS},
        reservations::Reservations,
    },
};
use serde::{Deserialize, Serialize};

use crate::info::Forward;

/// So many times three free ports are looked for.
const ATTEMPTS: usize = 32;

/// An address and the ports on it that lead to the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) address: Ipv4Addr,
    pub(crate) ssh_port: u16,
    pub(crate) engine_port: u16,
    pub(crate) swarm_port: u16,
}

impl Place {
    /// What is reserved for the host: an address, or its port for SSH on an address that many share.
    pub(crate) fn reservation(self) -> String {
        if self.address == Ipv4Addr::LOCALHOST {
            format!("{}-{}", self.address, self.ssh_port)
        } else {
            self.address.to_string()
        }
    }

    /// The rules that lead to the VM for as long as it exists.
    pub(crate) fn forwards(self) -> [Forward; 3] {
        let Self { address, ssh_port, engine_port, swarm_port } = self;
        [
            Forward::tcp("ssh", address, ssh_port, 22),
            Forward::tcp("engine", address, engine_port, ENGINE_PORTS[0]),
            Forward::tcp("swarm", address, swarm_port, ENGINE_PORTS[1]),
        ]
    }
}

/// Finds a free place, or looks at the address that is wanted.
pub(crate) fn choose(
    id: &HostId,
    wanted: Option<Ipv4Addr>,
    reservations: &Reservations,
) -> Result<Place, DriverError> {
    if wanted == Some(Ipv4Addr::LOCALHOST) || wanted.is_none() && !has_more_than_one() {
        return free_ports(id, reservations);
    }
    let place = address::choose(id, wanted, reservations)?;
    Ok(Place {
        address: place.address,
        ssh_port: place.ssh_port,
        engine_port: ENGINE_PORTS[0],
        swarm_port: ENGINE_PORTS[1],
    })
}

/// Whether this machine has loopback addresses other than 127.0.0.1; macOS has not.
fn has_more_than_one() -> bool {
    TcpListener::bind((Ipv4Addr::new(127, 16, 0, 1), 0)).is_ok()
}

fn free_ports(id: &HostId, reservations: &Reservations) -> Result<Place, DriverError> {
    let failed =
        |error: io::Error| DriverError::refused("There are no free ports on 127.0.0.1").with_source(error);
    for _ in 0..ATTEMPTS {
        // Held together, so that they differ.
        let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let mut ports = [0; 3];
        for (port, listener) in ports.iter_mut().zip(&listeners) {
            *port = listener
                .as_ref()
                .map_err(|error| io::Error::new(error.kind(), error.to_string()))
                .and_then(TcpListener::local_addr)
                .map_err(failed)?
                .port();
        }
        let [ssh_port, engine_port, swarm_port] = ports;
        let place = Place { address: Ipv4Addr::LOCALHOST, ssh_port, engine_port, swarm_port };
        if !reservations.is_taken(place.reservation(), id) {
            return Ok(place);
        }
    }
    Err(DriverError::refused("The free ports on 127.0.0.1 belong to other hosts"))
}

/// Refuses a place of which a port was taken by somebody else.
pub(crate) fn look_again(place: Place) -> Result<(), DriverError> {
    for Forward { port, .. } in place.forwards() {
        TcpListener::bind((place.address, port)).map(drop).map_err(|error| {
            let verb = if error.kind() == io::ErrorKind::AddrInUse { "is taken" } else { "cannot be used" };
            DriverError::refused(format!("Port {port} {verb} on {}", place.address))
                .with_source(error)
                .with_hint("End the program that listens there: one that listens on 0.0.0.0 takes the port on every address")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn where_there_is_one_address_only_ports_are_free_ones() {
        let (id, folder) = (HostId::random(), tempfile::tempdir().unwrap());
        let reservations = Reservations::of_loopback(folder.path());
        let place = choose(&id, Some(Ipv4Addr::LOCALHOST), &reservations).unwrap();
        let ports = [place.ssh_port, place.engine_port, place.swarm_port];
        assert!(
            ports.iter().all(|port| *port > 1023) && ports[0] != ports[1] && ports[1] != ports[2],
            "{place:?}"
        );
        assert_eq!(place.reservation(), format!("127.0.0.1-{}", place.ssh_port));
        look_again(place).unwrap();
        let _taken = TcpListener::bind((place.address, place.engine_port)).unwrap();
        let error = look_again(place).unwrap_err();
        assert_eq!(error.to_string(), format!("Port {} is taken on 127.0.0.1", place.engine_port));
    }

    #[test]
    fn elsewhere_a_host_has_an_address_with_the_usual_ports() {
        if !has_more_than_one() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let place = choose(&HostId::random(), None, &Reservations::of_loopback(folder.path())).unwrap();
        assert_eq!((place.engine_port, place.swarm_port), (2376, 3376));
        assert_eq!(place.reservation(), place.address.to_string());
    }
}
