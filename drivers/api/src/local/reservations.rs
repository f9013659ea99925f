//! Addresses that belong to hosts, also while their VMs are stopped: one file for each, with the host's id in it.

use std::{
    fmt::Display,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{DriverError, HostId};

/// A folder of reservations.
#[derive(Debug, Clone)]
pub struct Reservations {
    folder: PathBuf,
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Reservations {
    /// The loopback addresses of a store's VMs.
    pub fn of_loopback(cache: &Path) -> Self {
        Self { folder: cache.join("addresses") }
    }

    /// Their addresses on the network inside.
    pub fn inside(cache: &Path) -> Self {
        Self { folder: cache.join("inside") }
    }

    fn path(&self, address: impl Display) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// The id of the host that an address belongs to. One that cannot be read is no free address.
    pub fn holder(&self, address: impl Display) -> Result<Option<String>, DriverError> {
        let path = self.path(address);
        let failed = |error: io::Error| {
            DriverError::failed(format!("Could not read whose address `{}` is", path.display()))
                .with_source(error)
                .with_hint("Remove the file if no host has that address")
        };
        let mut text = String::new();
        match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|file| file.take(64).read_to_string(&mut text)).map_err(failed)?,
        };
        Ok(Some(text.trim().to_owned()))
    }

    /// Whether an address is another host's, or may be.
    pub fn is_taken(&self, address: impl Display, id: &HostId) -> bool {
        self.holder(address).map_or(true, |holder| holder.is_some_and(|holder| holder != id.to_string()))
    }

    /// Takes an address. `false`: another host was faster.
    pub fn reserve(&self, address: impl Display, id: &HostId) -> Result<bool, DriverError> {
        let path = self.path(&address);
        let failed = |error: io::Error| {
            DriverError::failed(format!("Could not write `{}`", path.display())).with_source(error)
        };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        // The file appears with its content at once: a link to a file that is whole.
        let partial = self.partial(id);
        fs::write(&partial, format!("{id}\n")).map_err(failed)?;
        let linked = fs::hard_link(&partial, &path);
        remove_if_there(&partial).map_err(failed)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(self.holder(address)?.is_some_and(|holder| holder == id.to_string()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// A file that is about to be a reservation of this host. Its name is no address, and says whose it is, so that it is
    /// found when whoever wrote it was killed.
    fn partial(&self, id: &HostId) -> PathBuf {
        self.folder.join(format!("{id}.partial"))
    }

    /// Gives an address back, if it is this host's.
    pub fn release(&self, address: impl Display, id: &HostId) -> Result<(), DriverError> {
        let path = self.path(&address);
        if self.holder(address)?.is_none_or(|holder| holder != id.to_string()) {
            return Ok(());
        }
        fs::remove_file(&path).map_err(|error| {
            DriverError::failed(format!("Could not remove `{}`", path.display())).with_source(error)
        })
    }

    /// Gives back every address that is this host's, when its record does not tell them.
    pub fn release_all(&self, id: &HostId) -> Result<(), DriverError> {
        let partial = self.partial(id);
        remove_if_there(&partial).map_err(|error| {
            DriverError::failed(format!("Could not remove `{}`", partial.display())).with_source(error)
        })?;
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            // What cannot be read may be another host's.
            if let Some(address) = entry.file_name().to_str()
                && self.holder(address).is_ok()
            {
                self.release(address, id)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_belongs_to_one_host_until_it_is_given_back() {
        let (mine, other, cache) = (HostId::random(), HostId::random(), tempfile::tempdir().unwrap());
        let address = Ipv4Addr::new(127, 20, 30, 40);
        let reservations = Reservations::of_loopback(cache.path());
        assert!(reservations.reserve(address, &mine).unwrap());
        assert!(reservations.reserve(address, &mine).unwrap());
        assert!(!reservations.reserve(address, &other).unwrap());
        reservations.release(address, &other).unwrap();
        assert!(reservations.is_taken(address, &other));
        assert!(!Reservations::inside(cache.path()).is_taken(address, &other));
        reservations.release(address, &mine).unwrap();
        reservations.release(address, &mine).unwrap();
        assert!(reservations.reserve(address, &other).unwrap());
        reservations.release_all(&mine).unwrap();
        assert_eq!(fs::read_dir(cache.path().join("addresses")).unwrap().count(), 1);
        // Killed in the middle of a reservation.
        fs::write(reservations.partial(&other), "").unwrap();
        reservations.release_all(&mine).unwrap();
        assert_eq!(fs::read_dir(cache.path().join("addresses")).unwrap().count(), 2);
        reservations.release_all(&other).unwrap();
        assert_eq!(fs::read_dir(cache.path().join("addresses")).unwrap().count(), 0);
    }

    #[test]
    fn a_reservation_that_cannot_be_read_is_somebodys() {
        let (id, cache) = (HostId::random(), tempfile::tempdir().unwrap());
        let reservations = Reservations::of_loopback(cache.path());
        fs::create_dir_all(cache.path().join("addresses/127.20.30.40")).unwrap();
        let address = Ipv4Addr::new(127, 20, 30, 40);
        assert!(reservations.is_taken(address, &id));
        for error in [
            reservations.holder(address).unwrap_err(),
            reservations.reserve(address, &id).unwrap_err(),
            reservations.release(address, &id).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with("Could not read whose address"), "{error}");
        }
        reservations.release_all(&id).unwrap();
    }
}
