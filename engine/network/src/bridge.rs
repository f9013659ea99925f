//! Bridges on the host and the cables between them and containers.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use engine_kernel::namespace;
use engine_kernel::netlink::Socket;
use tracing::debug;

use super::addresses::Subnet;
use super::links::{self, Cable, HardwareAddress};
use super::record::BridgeRecord;
use super::{Endpoint, NetworkError, filter};

/// Every interface of ours on the host begins so; what is on a bridge of ours and does, belongs to a container.
const CABLE: &str = "veth";

pub(super) fn failed(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let attempt = attempt.into();
    move |source| NetworkError::Kernel { attempt, source }
}

/// Sets a kernel variable unless it has the value already (it may be read-only then).
fn set_variable(path: &str, value: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(path, value)
}

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Lets the host pass packets on between its interfaces. If it did not so far, nobody expects it to pass on any but those of
/// containers: all others are dropped, as with dockerd.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    if fs::read_to_string(FORWARDING).is_ok_and(|current| current.trim() == "1") {
        return Ok(());
    }
    filter::drop_forwarded()
        .map_err(failed("have forwarded packets dropped before IP forwarding is enabled"))?;
    fs::write(FORWARDING, "1").map_err(failed("enable IP forwarding"))
}

pub(super) fn host_interface(endpoint_id: &str) -> String {
    format!("{CABLE}{}", endpoint_id.get(..7).unwrap_or(endpoint_id))
}

/// A locally administered hardware address that says which IPv4 address it goes with.
pub(super) fn derive_hardware_address(address: Ipv4Addr) -> HardwareAddress {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

pub(super) fn format_hardware_address(address: HardwareAddress) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads `02:42:ac:11:00:02`; addresses of groups are refused.
pub(super) fn parse_hardware_address(text: &str) -> Result<HardwareAddress, NetworkError> {
    let refuse = || NetworkError::MacAddress { value: text.chars().take(50).collect() };
    let mut address = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refuse)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
    }
    if parts.next().is_some() || address[0] & 1 != 0 || address == [0; 6] {
        return Err(refuse());
    }
    Ok(address)
}

/// Subnets that the host is in or has a route to, except by the interfaces named.
pub(super) fn subnets_in_use(except: &[&str]) -> Result<Vec<Subnet>, NetworkError> {
    let read = || -> io::Result<Vec<Subnet>> {
        let mut socket = Socket::route()?;
        let excepted: Vec<u32> = links::list(&mut socket)?
            .into_iter()
            .filter(|link| except.contains(&link.name.as_str()))
            .map(|link| link.index)
            .collect();
        let addresses = links::addresses(&mut socket, None)?.into_iter();
        let routes = links::routes(&mut socket)?.into_iter();
        Ok(addresses
            .map(|(index, address, prefix)| (Some(index), address, prefix))
            // Half of the world, or all of it, is no subnet.
            .chain(routes.filter(|(_, _, prefix)| *prefix >= 8))
            .filter(|(index, address, _)| {
                index.is_none_or(|index| !excepted.contains(&index)) && !address.is_loopback()
            })
            .filter_map(|(_, address, prefix)| Subnet::of(address, prefix.clamp(8, 30)))
            .collect())
    };
    read().map_err(failed("list the host's addresses and routes"))
}

/// Makes the bridge, or makes it right.
pub(super) fn ensure(bridge: &BridgeRecord) -> Result<(), NetworkError> {
    let name = &bridge.interface;
    let make = || -> io::Result<()> {
        let mut socket = Socket::route()?;
        let link = match links::find(&mut socket, name)? {
            Some(link) if link.kind == "bridge" => link,
            Some(_) => return Err(io::Error::other("an interface of this name is there and is no bridge")),
            None => {
                // Given by us, it does not change with the containers that come and go.
                links::create_bridge(&mut socket, name, derive_hardware_address(bridge.gateway))?;
                links::find(&mut socket, name)?.ok_or(io::ErrorKind::NotFound)?
            }
        };
        let mut is_there = false;
        for (_, address, prefix) in links::addresses(&mut socket, Some(link.index))? {
            if (address, prefix) == (bridge.gateway, bridge.subnet.prefix()) {
                is_there = true;
            } else {
                links::delete_address(&mut socket, link.index, address, prefix)?;
            }
        }
        if !is_there {
            links::add_address(&mut socket, link.index, bridge.gateway, bridge.subnet)?;
        }
        if link.mtu != bridge.mtu {
            links::set_mtu(&mut socket, link.index, bridge.mtu)?;
        }
        links::set_up(&mut socket, link.index)
    };
    make().map_err(failed(format!("set up the bridge `{name}`")))?;
    // A container must not be able to give the host routes.
    if let Err(error) = set_variable(&format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0") {
        debug!(%error, bridge = %name, "Router advertisements are not turned off");
    }
    Ok(())
}

pub(super) fn remove(interface: &str) -> Result<(), NetworkError> {
    Socket::route()
        .and_then(|mut socket| links::delete(&mut socket, interface))
        .map_err(failed(format!("remove the interface `{interface}`")))
}

/// Joins a container's namespace to a bridge. What is there already is kept.
pub(super) fn plug(
    namespace: &Path,
    bridge: &BridgeRecord,
    endpoint: &Endpoint,
    is_default_route: bool,
) -> Result<(), NetworkError> {
    let hardware_address = parse_hardware_address(&endpoint.mac_address)?;
    let namespace = open_namespace(namespace)?;
    let here = &endpoint.host_interface;
    let there = &endpoint.interface;

    let is_inside = namespace::inside(&namespace, || {
        let found = links::find(&mut Socket::route()?, there)?;
        Ok(found.is_some_and(|link| link.hardware_address == hardware_address))
    })
    .map_err(failed("look into the container's network namespace"))?;

    let connect = || -> io::Result<()> {
        let mut socket = Socket::route()?;
        let index = links::find(&mut socket, &bridge.interface)?.ok_or(io::ErrorKind::NotFound)?.index;
        match links::find(&mut socket, here)? {
            Some(link) if is_inside && link.master == Some(index) => return Ok(()),
            Some(link) if is_inside => return links::set_master(&mut socket, link.index, index),
            Some(_) => links::delete(&mut socket, here)?,
            None => {}
        }
        links::create_cable(
            &mut socket,
            &Cable {
                here,
                there,
                namespace: namespace.as_fd(),
                hardware_address,
                mtu: endpoint.mtu,
                bridge: index,
            },
        )
    };
    connect().map_err(failed(format!("connect the container to the bridge `{}`", bridge.interface)))?;

    let gateway = endpoint.gateway.filter(|_| is_default_route);
    let configured = namespace::inside(&namespace, || {
        let mut socket = Socket::route()?;
        if let Some(loopback) = links::find(&mut socket, "lo")? {
            links::set_up(&mut socket, loopback.index)?;
        }
        let link = links::find(&mut socket, there)?.ok_or(io::ErrorKind::NotFound)?;
        // There is no IPv6 on this network; without this the interface would wait for it.
        let _ = set_variable(&format!("/proc/sys/net/ipv6/conf/{there}/disable_ipv6"), "1");
        links::add_address(&mut socket, link.index, endpoint.address, bridge.subnet)?;
        links::set_up(&mut socket, link.index)?;
        match gateway {
            Some(gateway) => links::set_default_route(&mut socket, link.index, gateway),
            None => Ok(()),
        }
    });
    configured.map_err(|source| {
        let _ = remove(here);
        failed("configure the container's network interface")(source)
    })
}

/// Makes a container's interface its way out, unless another one is.
pub(super) fn set_way_out(namespace: &Path, endpoint: &Endpoint) -> Result<(), NetworkError> {
    let Some(gateway) = endpoint.gateway else { return Ok(()) };
    let namespace = open_namespace(namespace)?;
    namespace::inside(&namespace, || {
        let mut socket = Socket::route()?;
        if links::has_default_route(&mut socket)? {
            return Ok(());
        }
        let link = links::find(&mut socket, &endpoint.interface)?.ok_or(io::ErrorKind::NotFound)?;
        links::set_default_route(&mut socket, link.index, gateway)
    })
    .map_err(failed("set the container's default route"))
}

/// After the daemon was away: puts the cables that are wanted back on their bridge and removes the others.
/// Gives back the wanted ones that are gone.
pub(super) fn sweep(bridge: &BridgeRecord, wanted: &[String]) -> Result<Vec<String>, NetworkError> {
    let work = || -> io::Result<Vec<String>> {
        let mut socket = Socket::route()?;
        let index = links::find(&mut socket, &bridge.interface)?.ok_or(io::ErrorKind::NotFound)?.index;
        let links = links::list(&mut socket)?;
        for link in links.iter().filter(|link| link.name.starts_with(CABLE) && link.kind == CABLE) {
            let is_wanted = wanted.contains(&link.name);
            if is_wanted && link.master != Some(index) {
                links::set_master(&mut socket, link.index, index)?;
            } else if !is_wanted && link.master == Some(index) {
                links::delete(&mut socket, &link.name)?;
            }
        }
        Ok(wanted.iter().filter(|name| !links.iter().any(|link| link.name == **name)).cloned().collect())
    };
    work().map_err(failed(format!("put the bridge `{}` in order", bridge.interface)))
}

/// The bridge of a network that nobody has named it for.
pub(super) fn usual_name(network_id: &str) -> String {
    format!("br-{}", network_id.get(..12).unwrap_or(network_id))
}

/// The bridge that a cable is plugged into, if it is there and is in one.
pub(super) fn of_cable(host_interface: &str) -> Option<String> {
    let mut socket = Socket::route().ok()?;
    let links = links::list(&mut socket).ok()?;
    let master = links.iter().find(|link| link.name == host_interface)?.master?;
    links.into_iter().find(|link| link.index == master).map(|link| link.name)
}

/// Opens the namespace that a path such as `/proc/42/ns/net` names.
pub(super) fn open_namespace(path: &Path) -> Result<fs::File, NetworkError> {
    fs::File::open(path).map_err(|source| NetworkError::Namespace { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let address = derive_hardware_address(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(format_hardware_address(address), "02:42:ac:11:00:02");
        assert_eq!(parse_hardware_address("02:42:AC:11:00:02").unwrap(), address);
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "01:42:ac:11:00:02",
            "0:42:ac:11:00:02",
            "zz:42:ac:11:00:02",
            "00:00:00:00:00:00",
        ] {
            assert!(parse_hardware_address(text).is_err(), "{text}");
        }
    }
}
