//! The network inside a store: an address on it for each VM, and the way to the switch that joins them.
//!
//! Its subnet follows from the store, an address from the host. It has no router: what is not on it goes out by the
//! VM's other interface. Nobody but the VMs of the store and the user whose it is gets at the switch.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

pub(crate) use machine_driver::local::inside::{Inside, choose};
use machine_driver::{DriverError, HostId};
use machine_switch::{MacAddress, Network, Settings, Starting};

use crate::paths;

/// In a host's folder: leads to the folder of the network, whose path may be too long for the address of a socket.
pub(crate) const LINK: &str = "inside";

/// The hardware address of a VM's second interface.
pub(crate) fn mac(inside: Inside) -> MacAddress {
    MacAddress(inside.mac())
}

/// What QEMU connects the interface with. Its folder is the host's.
pub(crate) fn netdev(id: &HostId, name: &str) -> String {
    let (port, switch) = (Network::port_socket(&id.to_string()), Network::switch_socket());
    format!(
        "dgram,id={name},local.type=unix,local.path={LINK}/{port},remote.type=unix,remote.path={LINK}/{switch}"
    )
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
        Settings { mac: Some(mac(inside)), addresses: vec![inside.address.into()], ..Settings::default() };
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
