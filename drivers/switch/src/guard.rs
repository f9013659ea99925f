//! What a port may send: nobody takes another's address, and nobody plays the router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    Content, Frame, Settings,
    frame::{Arp, Neighbour, Packet, Transport},
};

/// Answers of DHCP servers come from these ports.
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;
const ICMPV6: u8 = 58;
/// Headers that come before what an IPv6 packet carries (IANA's list). The parser leaves one over only where it is out
/// of place, and what comes after it is then unknown.
const EXTENSIONS: [u8; 7] = [0, 43, 44, 51, 60, 135, 139];

/// Why a frame is not let out of its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// The hardware address is not the port's.
    Hardware,
    /// The IP address is not the port's.
    Address,
    /// Only a router or a DHCP server says this.
    Router,
    /// A protocol that cannot be checked, on a port whose addresses are.
    Protocol,
}

/// Whether the port may send the frame.
pub(crate) fn look(frame: &Frame, settings: &Settings) -> Result<(), Offence> {
    if frame.source.is_multicast() || settings.mac.is_some_and(|mac| mac != frame.source) {
        return Err(Offence::Hardware);
    }
    match frame.content {
        Content::Arp(arp) => look_at_arp(arp, frame, settings),
        Content::Ip(packet) => look_at_packet(packet, frame, settings),
        Content::Other if settings.addresses.is_empty() => Ok(()),
        Content::Other => Err(Offence::Protocol),
    }
}

fn look_at_arp(arp: Arp, frame: &Frame, settings: &Settings) -> Result<(), Offence> {
    if arp.sender_mac != frame.source {
        return Err(Offence::Hardware);
    }
    // A question without an address asks whether somebody has the one that is wanted.
    let is_probe = arp.sender == Ipv4Addr::UNSPECIFIED;
    if is_probe || settings.has(arp.sender.into()) { Ok(()) } else { Err(Offence::Address) }
}

fn look_at_packet(packet: Packet, frame: &Frame, settings: &Settings) -> Result<(), Offence> {
    let Packet { source, transport, .. } = packet;
    if source.is_ipv6() && hides_its_content(transport) {
        return Err(Offence::Protocol);
    }
    match transport {
        Transport::Udp { source: DHCP_SERVER | DHCPV6_SERVER, .. }
        | Transport::Icmpv6 { neighbour: Some(Neighbour::Router), .. } => return Err(Offence::Router),
        Transport::Icmpv6 { neighbour: Some(Neighbour::Advertisement(target)), .. }
            if !settings.has(target.into()) && target != frame.source.link_local() =>
        {
            return Err(Offence::Address);
        }
        _ => {}
    }
    let is_own = match source {
        // Who has no address yet says so.
        IpAddr::V4(address) => address == Ipv4Addr::UNSPECIFIED || settings.has(source),
        IpAddr::V6(address) => {
            address == Ipv6Addr::UNSPECIFIED || address == frame.source.link_local() || settings.has(source)
        }
    };
    if is_own { Ok(()) } else { Err(Offence::Address) }
}

/// A router's message behind fragments or odd headers is a known way around guards (RFC 6980, RFC 7113).
fn hides_its_content(transport: Transport) -> bool {
    match transport {
        Transport::Fragment(protocol) => protocol == ICMPV6 || EXTENSIONS.contains(&protocol),
        Transport::Other(protocol) => EXTENSIONS.contains(&protocol),
        _ => false,
    }
}
