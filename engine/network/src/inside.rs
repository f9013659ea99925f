//! A container's interface, from inside its network namespace.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use engine_kernel::namespace;
use engine_kernel::netlink::Socket;

use super::addresses::Subnet;
use super::error::failed;
use super::filter::Family;
use super::{Endpoint, NetworkError, ipv6, links};

/// What a container's interface is to have besides its addresses.
#[derive(Debug)]
pub(super) struct Wishes<'a> {
    /// Gateways by which it leads out.
    pub(super) ways_out: &'a [IpAddr],
    pub(super) link_local: &'a [IpAddr],
    /// By their path below `/proc/sys/net`, with `IFNAME` for the interface.
    pub(super) settings: &'a [(String, String)],
}

/// Gives the container's interface what belongs to it, from inside its network namespace. Where packets are
/// `routed`, there is no gateway on the way out.
pub(super) fn configure(endpoint: &Endpoint, wishes: &Wishes<'_>, routed: bool) -> io::Result<()> {
    let name = &endpoint.interface;
    let mut socket = Socket::route()?;
    if let Some(loopback) = links::find(&mut socket, "lo")? {
        links::set_up(&mut socket, loopback.index)?;
    }
    let link = links::find(&mut socket, name)?.ok_or(io::ErrorKind::NotFound)?;
    match ipv6::enable(name, endpoint.ipv6.is_some()) {
        Err(error) if endpoint.ipv6.is_some() => return Err(error),
        _ => {}
    }
    let ipv6 = endpoint.ipv6.map(|place| (IpAddr::from(place.address), place.prefix));
    for (address, prefix) in std::iter::once((endpoint.address.into(), endpoint.prefix)).chain(ipv6) {
        let subnet = Subnet::of(address, prefix).ok_or(io::ErrorKind::InvalidData)?;
        links::add_address(&mut socket, link.index, address, subnet)?;
    }
    for address in wishes.link_local {
        let prefix = if address.is_ipv4() { 16 } else { 64 };
        let subnet = Subnet::of(*address, prefix).ok_or(io::ErrorKind::InvalidData)?;
        links::add_address(&mut socket, link.index, *address, subnet)?;
    }
    for (path, value) in wishes.settings {
        let path = Path::new("/proc/sys/net").join(path.replace("IFNAME", name));
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))?;
    }
    links::set_up(&mut socket, link.index)?;
    for gateway in wishes.ways_out {
        if routed {
            links::set_direct_route(&mut socket, link.index, Family::of(*gateway))?;
        } else {
            links::set_default_route(&mut socket, link.index, *gateway)?;
        }
    }
    Ok(())
}

/// Makes a container's interface its way out by these gateways, of each family for which no other is.
pub(super) fn set_ways_out(
    namespace: &Path,
    interface: &str,
    gateways: &[IpAddr],
) -> Result<(), NetworkError> {
    let namespace = open_namespace(namespace)?;
    namespace::inside(&namespace, || {
        let mut socket = Socket::route()?;
        let link = links::find(&mut socket, interface)?.ok_or(io::ErrorKind::NotFound)?;
        for gateway in gateways {
            if !links::has_default_route(&mut socket, Family::of(*gateway))? {
                links::set_default_route(&mut socket, link.index, *gateway)?;
            }
        }
        Ok(())
    })
    .map_err(failed("set the container's default route"))
}

/// Opens the namespace that a path such as `/proc/42/ns/net` names.
pub(super) fn open_namespace(path: &Path) -> Result<fs::File, NetworkError> {
    fs::File::open(path).map_err(|source| NetworkError::Namespace { path: path.to_owned(), source })
}
