//! Bridges on the host and the cables between them and containers.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use engine_kernel::namespace;
use engine_kernel::netlink::Socket;
use tracing::debug;

use super::addresses::{Subnet, octets};
use super::error::failed;
use super::filter::Family;
use super::inside::{self, Wishes};
use super::links::{self, Cable, HardwareAddress};
use super::record::{BridgeRecord, PoolRecord};
use super::{Endpoint, NetworkError, filter, ipv6};

/// Every interface of ours on the host begins so; what is on a bridge of ours and does, belongs to a container.
const CABLE: &str = "veth";

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Lets the host pass packets on between its interfaces. If it did not so far, nobody expects it to pass on any but those of
/// containers: all others are dropped, as with dockerd.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    if fs::read_to_string(FORWARDING).is_ok_and(|current| current.trim() == "1") {
        return Ok(());
    }
    filter::drop_forwarded(Family::Ipv4)
        .map_err(failed("have forwarded packets dropped before IP forwarding is enabled"))?;
    fs::write(FORWARDING, "1").map_err(failed("enable IP forwarding"))
}

pub(super) fn host_interface(endpoint_id: &str) -> String {
    format!("{CABLE}{}", endpoint_id.get(..7).unwrap_or(endpoint_id))
}

/// A locally administered hardware address that says which address it goes with: all of one of IPv4, the end of one of IPv6.
pub(super) fn derive_hardware_address(address: impl Into<IpAddr>) -> HardwareAddress {
    let octets = octets(address.into());
    let mut hardware_address = [0x02, 0x42, 0, 0, 0, 0];
    hardware_address[2..].copy_from_slice(&octets[octets.len() - 4..]);
    hardware_address
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
            .filter_map(|(_, address, prefix)| {
                Subnet::of(address, prefix.clamp(8, if address.is_ipv4() { 30 } else { 126 }))
            })
            .collect())
    };
    read().map_err(failed("list the host's addresses and routes"))
}

/// Makes the bridge, or makes it right.
pub(super) fn ensure(bridge: &BridgeRecord, pools: &[PoolRecord]) -> Result<(), NetworkError> {
    let name = &bridge.interface;
    let with_ipv6 = pools.iter().any(|pool| pool.subnet.is_ipv6()) && ipv6::is_enabled();
    let pools = || pools.iter().filter(|pool| with_ipv6 || pool.subnet.is_ipv4());
    let make = || -> io::Result<()> {
        let mut socket = Socket::route()?;
        let link = match links::find(&mut socket, name)? {
            Some(link) if link.kind == "bridge" => link,
            Some(_) => return Err(io::Error::other("an interface of this name is there and is no bridge")),
            None => {
                // Given by us, it does not change with the containers that come and go.
                let gateways = pools().map(|pool| pool.gateway);
                let hardware_address = gateways.map(derive_hardware_address).next().unwrap_or_default();
                links::create_bridge(&mut socket, name, hardware_address)?;
                links::find(&mut socket, name)?.ok_or(io::ErrorKind::NotFound)?
            }
        };
        if let Err(error) = ipv6::enable(name, with_ipv6) {
            if with_ipv6 {
                return Err(error);
            }
            debug!(%error, bridge = %name, "IPv6 is not turned off");
        }
        let mut missing: Vec<(IpAddr, Subnet)> = pools().map(|pool| (pool.gateway, pool.subnet)).collect();
        for (_, address, prefix) in links::addresses(&mut socket, Some(link.index))? {
            let known = missing.iter().position(|one| (one.0, one.1.prefix()) == (address, prefix));
            match known {
                Some(at) => drop(missing.remove(at)),
                None => links::delete_address(&mut socket, link.index, address, prefix)?,
            }
        }
        for (address, subnet) in missing {
            links::add_address(&mut socket, link.index, address, subnet)?;
        }
        if link.mtu != bridge.mtu {
            links::set_mtu(&mut socket, link.index, bridge.mtu)?;
        }
        links::set_up(&mut socket, link.index)
    };
    make().map_err(failed(format!("set up the bridge `{name}`")))
}

pub(super) fn remove(interface: &str) -> Result<(), NetworkError> {
    Socket::route()
        .and_then(|mut socket| links::delete(&mut socket, interface))
        .map_err(failed(format!("remove the interface `{interface}`")))
}

/// Joins a container's namespace to a bridge, which becomes its way out by these gateways. What is there already is kept.
pub(super) fn plug(
    namespace: &Path,
    bridge: &BridgeRecord,
    endpoint: &Endpoint,
    wishes: &Wishes<'_>,
) -> Result<(), NetworkError> {
    let hardware_address = parse_hardware_address(&endpoint.mac_address)?;
    let namespace = inside::open_namespace(namespace)?;
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

    let configured = namespace::inside(&namespace, || inside::configure(endpoint, wishes, false));
    configured.map_err(|source| {
        let _ = remove(here);
        failed("configure the container's network interface")(source)
    })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

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
