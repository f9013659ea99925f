//! Network interfaces, their addresses and routes, by rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use engine_kernel::netlink::{
    FLAG_CREATE, FLAG_DUMP, FLAG_EXCLUSIVE, FLAG_REPLACE, Message, Socket, attribute, number, text,
};

use super::addresses::{Subnet, octets};
use super::filter::Family;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const HARDWARE_ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const PARENT: u16 = 5;
const MASTER: u16 = 10;
const INFORMATION: u16 = 18;
const NAMESPACE: u16 = 28;
const INFORMATION_KIND: u16 = 1;
const INFORMATION_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

const ADDRESS: u16 = 1;
const LOCAL_ADDRESS: u16 = 2;
const BROADCAST_ADDRESS: u16 = 4;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const MAIN_TABLE: u8 = 254;
const SET_BY_HAND: u8 = 3;
const UNICAST: u8 = 1;

const UP: u32 = 1;

/// An Ethernet address.
pub(super) type HardwareAddress = [u8; 6];

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) hardware_address: Vec<u8>,
    pub(super) master: Option<u32>,
    /// `bridge`, `veth` …; empty for hardware.
    pub(super) kind: String,
    pub(super) mtu: u32,
}

/// The fixed part of a message about links.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Only the flags that are given are changed.
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let content = body.get(16..)?;
    let information = attribute(content, INFORMATION).unwrap_or_default();
    Some(Link {
        index: number(&body[4..])?,
        name: text(attribute(content, NAME)?)?.to_owned(),
        hardware_address: attribute(content, HARDWARE_ADDRESS).unwrap_or_default().to_vec(),
        master: attribute(content, MASTER).and_then(number),
        kind: attribute(information, INFORMATION_KIND).and_then(text).unwrap_or_default().to_owned(),
        mtu: attribute(content, MTU).and_then(number).unwrap_or(0),
    })
}

/// The interface of this name, if it is there.
pub(super) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut message = Message::new(GET_LINK, 0);
    message.raw(&link_header(0, 0)).text(NAME, name);
    let mut found = None;
    match socket.query(message, |kind, body| {
        if kind == NEW_LINK {
            found = parse_link(body);
        }
    }) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// Every interface of the namespace.
pub(super) fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut message = Message::new(GET_LINK, FLAG_DUMP);
    message.raw(&link_header(0, 0));
    let mut links = Vec::new();
    socket.query(message, |kind, body| {
        if kind == NEW_LINK {
            links.extend(parse_link(body));
        }
    })?;
    Ok(links)
}

/// Makes a bridge that is down yet.
pub(super) fn create_bridge(socket: &mut Socket, name: &str, address: HardwareAddress) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE);
    message.raw(&link_header(0, 0)).text(NAME, name).bytes(HARDWARE_ADDRESS, &address).nest(
        INFORMATION,
        |inside| {
            inside.text(INFORMATION_KIND, "bridge");
        },
    );
    socket.request(message)
}

/// A pair of interfaces joined by a cable: one on a bridge here, one in a container.
pub(super) struct Cable<'a> {
    pub(super) here: &'a str,
    pub(super) there: &'a str,
    pub(super) namespace: BorrowedFd<'a>,
    pub(super) hardware_address: HardwareAddress,
    pub(super) mtu: u32,
    pub(super) bridge: u32,
}

/// Makes the pair at once in its final places, this end up.
pub(super) fn create_cable(socket: &mut Socket, cable: &Cable<'_>) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE);
    message
        .raw(&link_header(0, UP))
        .text(NAME, cable.here)
        .number(MTU, cable.mtu)
        .number(MASTER, cable.bridge)
        .nest(INFORMATION, |inside| {
            inside.text(INFORMATION_KIND, "veth").nest(INFORMATION_DATA, |inside| {
                inside.nest(VETH_PEER, |inside| {
                    inside
                        .raw(&link_header(0, 0))
                        .text(NAME, cable.there)
                        .bytes(HARDWARE_ADDRESS, &cable.hardware_address)
                        .number(MTU, cable.mtu)
                        .number(NAMESPACE, cable.namespace.as_raw_fd().cast_unsigned());
                });
            });
        });
    socket.request(message)
}

/// An interface beside another one, whose wire it shares.
pub(super) struct Beside<'a> {
    pub(super) parent: u32,
    pub(super) name: &'a str,
    /// Here when absent.
    pub(super) namespace: Option<BorrowedFd<'a>>,
    pub(super) hardware_address: Option<HardwareAddress>,
    pub(super) mtu: Option<u32>,
}

fn create_beside(
    socket: &mut Socket,
    beside: &Beside<'_>,
    kind: &str,
    data: impl FnOnce(&mut Message),
) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE);
    message.raw(&link_header(0, 0)).text(NAME, beside.name).number(PARENT, beside.parent);
    if let Some(address) = beside.hardware_address {
        message.bytes(HARDWARE_ADDRESS, &address);
    }
    if let Some(mtu) = beside.mtu {
        message.number(MTU, mtu);
    }
    if let Some(namespace) = beside.namespace {
        message.number(NAMESPACE, namespace.as_raw_fd().cast_unsigned());
    }
    message.nest(INFORMATION, |inside| {
        inside.text(INFORMATION_KIND, kind).nest(INFORMATION_DATA, data);
    });
    socket.request(message)
}

pub(super) fn create_macvlan(socket: &mut Socket, beside: &Beside<'_>, mode: u32) -> io::Result<()> {
    create_beside(socket, beside, "macvlan", |data| {
        data.number(1, mode);
    })
}

pub(super) fn create_ipvlan(
    socket: &mut Socket,
    beside: &Beside<'_>,
    mode: u16,
    flag: u16,
) -> io::Result<()> {
    create_beside(socket, beside, "ipvlan", |data| {
        data.bytes(1, &mode.to_ne_bytes()).bytes(2, &flag.to_ne_bytes());
    })
}

/// Makes an interface for what carries a tag (IEEE 802.1Q) on another one.
pub(super) fn create_tagged(socket: &mut Socket, name: &str, below: u32, tag: u16) -> io::Result<()> {
    let beside = Beside { parent: below, name, namespace: None, hardware_address: None, mtu: None };
    create_beside(socket, &beside, "vlan", |data| {
        data.bytes(1, &tag.to_ne_bytes());
    })
}

/// Makes an interface that leads nowhere.
pub(super) fn create_dummy(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE);
    message.raw(&link_header(0, 0)).text(NAME, name).nest(INFORMATION, |inside| {
        inside.text(INFORMATION_KIND, "dummy");
    });
    socket.request(message)
}

pub(super) fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    let mut message = Message::new(SET_LINK, 0);
    message.raw(&link_header(index, UP));
    socket.request(message)
}

pub(super) fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> io::Result<()> {
    let mut message = Message::new(SET_LINK, 0);
    message.raw(&link_header(index, 0)).number(MTU, mtu);
    socket.request(message)
}

pub(super) fn set_master(socket: &mut Socket, index: u32, bridge: u32) -> io::Result<()> {
    let mut message = Message::new(SET_LINK, 0);
    message.raw(&link_header(index, UP)).number(MASTER, bridge);
    socket.request(message)
}

/// Removes an interface; that it is not there is fine.
pub(super) fn delete(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(DELETE_LINK, 0);
    message.raw(&link_header(0, 0)).text(NAME, name);
    match socket.request(message) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result,
    }
}

fn address_header(family: Family, index: u32, prefix: u8) -> [u8; 8] {
    /// What is given here is known to be free: nobody waits until others have been asked.
    const NOT_ASKED_FOR: u8 = 2;
    let flags = if family == Family::Ipv6 { NOT_ASKED_FOR } else { 0 };
    let mut header = [family.number(), prefix, flags, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    header
}

/// Gives an interface an address in its subnet.
pub(super) fn add_address(
    socket: &mut Socket,
    index: u32,
    address: IpAddr,
    subnet: Subnet,
) -> io::Result<()> {
    let mut message = Message::new(NEW_ADDRESS, FLAG_CREATE | FLAG_REPLACE);
    message
        .raw(&address_header(Family::of(address), index, subnet.prefix()))
        .bytes(LOCAL_ADDRESS, &octets(address))
        .bytes(ADDRESS, &octets(address));
    if let Some(broadcast) = subnet.broadcast() {
        message.bytes(BROADCAST_ADDRESS, &broadcast.octets());
    }
    socket.request(message)
}

pub(super) fn delete_address(socket: &mut Socket, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let mut message = Message::new(DELETE_ADDRESS, 0);
    message.raw(&address_header(Family::of(address), index, prefix)).bytes(LOCAL_ADDRESS, &octets(address));
    socket.request(message)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Addresses with the length of their prefix: of one interface, or of all. Those that count on one link alone, which each interface
/// with IPv6 has, are left out.
pub(super) fn addresses(socket: &mut Socket, index: Option<u32>) -> io::Result<Vec<(u32, IpAddr, u8)>> {
    let mut message = Message::new(GET_ADDRESS, FLAG_DUMP);
    message.raw(&[0; 8]);
    let mut found = Vec::new();
    socket.query(message, |kind, body| {
        if kind != NEW_ADDRESS {
            return;
        }
        let (Some(prefix), Some(interface)) = (body.get(1).copied(), body.get(4..).and_then(number)) else {
            return;
        };
        let content = body.get(8..).unwrap_or_default();
        let bytes = attribute(content, LOCAL_ADDRESS).or_else(|| attribute(content, ADDRESS));
        if let Some(address) = bytes.and_then(address)
            && index.is_none_or(|wanted| wanted == interface)
            && !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
        {
            found.push((interface, address, prefix));
        }
    })?;
    Ok(found)
}

/// Has packets to anywhere, of the gateway's family, go by it.
pub(super) fn set_default_route(socket: &mut Socket, index: u32, gateway: IpAddr) -> io::Result<()> {
    let family = Family::of(gateway).number();
    let mut message = Message::new(NEW_ROUTE, FLAG_CREATE | FLAG_REPLACE);
    message
        .raw(&[family, 0, 0, 0, MAIN_TABLE, SET_BY_HAND, 0, UNICAST, 0, 0, 0, 0])
        .number(ROUTE_INTERFACE, index)
        .bytes(ROUTE_GATEWAY, &octets(gateway));
    socket.request(message)
}

/// Has packets of a family to anywhere go out there, as if everybody were on the same wire.
pub(super) fn set_direct_route(socket: &mut Socket, index: u32, family: Family) -> io::Result<()> {
    let on_link = if family == Family::Ipv4 { 253 } else { 0 };
    let mut message = Message::new(NEW_ROUTE, FLAG_CREATE | FLAG_REPLACE);
    message
        .raw(&[family.number(), 0, 0, 0, MAIN_TABLE, SET_BY_HAND, on_link, UNICAST, 0, 0, 0, 0])
        .number(ROUTE_INTERFACE, index);
    socket.request(message)
}

/// Destinations in the main table, each with the interface it is reached by.
pub(super) fn routes(socket: &mut Socket) -> io::Result<Vec<(Option<u32>, IpAddr, u8)>> {
    let mut message = Message::new(GET_ROUTE, FLAG_DUMP);
    message.raw(&[0; 12]);
    let mut found = Vec::new();
    socket.query(message, |kind, body| {
        // Family, length of the destination's prefix, …, table.
        let (Some([family, prefix, _, _, MAIN_TABLE, ..]), Some(content)) = (body.get(..12), body.get(12..))
        else {
            return;
        };
        let anywhere: IpAddr = match family {
            2 => Ipv4Addr::UNSPECIFIED.into(),
            10 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return,
        };
        if kind == NEW_ROUTE {
            let destination = attribute(content, ROUTE_DESTINATION).and_then(address);
            let interface = attribute(content, ROUTE_INTERFACE).and_then(number);
            found.push((interface, destination.unwrap_or(anywhere), *prefix));
        }
    })?;
    Ok(found)
}

/// Whether packets of a family to anywhere have a way.
pub(super) fn has_default_route(socket: &mut Socket, family: Family) -> io::Result<bool> {
    let routes = routes(socket)?;
    Ok(routes.into_iter().any(|(_, destination, prefix)| prefix == 0 && Family::of(destination) == family))
}
