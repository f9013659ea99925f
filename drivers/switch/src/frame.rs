//! What an Ethernet frame says of itself, as far as a switch and a packet filter ask. The bytes are a guest's, so
//! hostile: what does not add up is no frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpPacketSlice, EtherType, Icmpv4Type, Icmpv6Type, LinkSlice, NetSlice, SlicedPacket,
    TransportSlice,
};

use crate::MacAddress;

/// Header of a jumbo frame and its content. More is no frame.
pub const LARGEST_FRAME: usize = 9018;
/// Neighbour discovery's messages (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// A frame that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub source: MacAddress,
    pub destination: MacAddress,
    pub content: Content,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Arp(Arp),
    Ip(Packet),
    /// A protocol that is not looked into, or anything in a VLAN.
    Other,
}

/// A question or an answer of the address resolution protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub sender_mac: MacAddress,
    pub sender: Ipv4Addr,
}

/// An IPv4 or IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    Icmp {
        kind: u8,
        echo: Option<u16>,
    },
    Icmpv6 {
        kind: u8,
        echo: Option<u16>,
        neighbour: Option<Neighbour>,
    },
    /// A part of a packet, with its protocol: ports are not looked for, whichever part it is.
    Fragment(u8),
    Other(u8),
}

/// The messages by which IPv6 neighbours find one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    Solicitation,
    /// Says whose address that is.
    Advertisement(Ipv6Addr),
    /// Only a router says these: an advertisement of itself, or of another way.
    Router,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The frame is malformed")]
pub struct Malformed;

impl Frame {
    /// Reads a frame without its checksum, which a virtual network has none of.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > LARGEST_FRAME {
            return Err(Malformed);
        }
        let sliced = SlicedPacket::from_ethernet(bytes).map_err(|_| Malformed)?;
        let Some(LinkSlice::Ethernet2(ethernet)) = &sliced.link else { return Err(Malformed) };
        let content = if sliced.link_exts.is_empty() { content(&sliced)? } else { Content::Other };
        Ok(Self {
            source: MacAddress(ethernet.source()),
            destination: MacAddress(ethernet.destination()),
            content,
        })
    }
}

fn content(sliced: &SlicedPacket<'_>) -> Result<Content, Malformed> {
    let (source, destination, payload) = match &sliced.net {
        None => return Ok(Content::Other),
        Some(NetSlice::Arp(arp)) => return self::arp(arp).map(Content::Arp),
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), ip.payload())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), ip.payload())
        }
    };
    let transport = if payload.fragmented {
        Transport::Fragment(payload.ip_number.0)
    } else {
        transport(sliced, payload.ip_number.0)?
    };
    Ok(Content::Ip(Packet { source, destination, transport }))
}

fn arp(arp: &ArpPacketSlice<'_>) -> Result<Arp, Malformed> {
    let sender_mac = arp.sender_hw_addr().try_into().map_err(|_| Malformed)?;
    let sender: [u8; 4] = arp.sender_protocol_addr().try_into().map_err(|_| Malformed)?;
    if arp.hw_addr_type() != ArpHardwareId::ETHERNET || arp.proto_addr_type() != EtherType::IPV4 {
        return Err(Malformed);
    }
    Ok(Arp { sender_mac: MacAddress(sender_mac), sender: sender.into() })
}

fn transport(sliced: &SlicedPacket<'_>, protocol: u8) -> Result<Transport, Malformed> {
    Ok(match &sliced.transport {
        None | Some(TransportSlice::Igmp(_)) => Transport::Other(protocol),
        Some(TransportSlice::Tcp(tcp)) => {
            Transport::Tcp { source: tcp.source_port(), destination: tcp.destination_port() }
        }
        Some(TransportSlice::Udp(udp)) => {
            Transport::Udp { source: udp.source_port(), destination: udp.destination_port() }
        }
        Some(TransportSlice::Icmpv4(icmp)) => Transport::Icmp {
            kind: icmp.type_u8(),
            echo: match icmp.icmp_type() {
                Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => Some(echo.id),
                _ => None,
            },
        },
        Some(TransportSlice::Icmpv6(icmp)) => Transport::Icmpv6 {
            kind: icmp.type_u8(),
            echo: match icmp.icmp_type() {
                Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo) => Some(echo.id),
                _ => None,
            },
            neighbour: match icmp.type_u8() {
                NEIGHBOUR_SOLICITATION => Some(Neighbour::Solicitation),
                // Its target comes after the eight bytes of the header.
                NEIGHBOUR_ADVERTISEMENT => {
                    let target: [u8; 16] =
                        icmp.slice().get(8..24).and_then(|target| target.try_into().ok()).ok_or(Malformed)?;
                    Some(Neighbour::Advertisement(target.into()))
                }
                ROUTER_ADVERTISEMENT | REDIRECT => Some(Neighbour::Router),
                _ => None,
            },
        },
    })
}

#[cfg(test)]
mod tests;
