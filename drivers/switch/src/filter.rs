//! The rules of security groups: what may be opened from where to where.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    Settings,
    frame::{Packet, Transport},
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Lets through what fits all three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub protocol: Protocol,
    /// Destination ports, of TCP and UDP. `None`: all. A fragment of a packet fits only a rule for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// The other side: where an inbound connection comes from, where an outbound one goes.
    pub peer: Peer,
}

/// What is carried by IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Any,
    Tcp,
    Udp,
    /// Of IPv4 and of IPv6.
    Icmp,
    /// By its number in IANA's list.
    Number(u8),
}

/// A range, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    Anyone,
    /// By IP address.
    Network {
        address: IpAddr,
        prefix_length: u8,
    },
    /// By the port that it is on, whatever addresses it uses.
    Group(String),
}

impl Rule {
    /// Whether a packet fits; `address` and `settings` are the other side's.
    pub(crate) fn admits(&self, packet: &Packet, address: IpAddr, settings: &Settings) -> bool {
        let peer = match &self.peer {
            Peer::Anyone => true,
            Peer::Network { address: network, prefix_length } => contains(*network, *prefix_length, address),
            Peer::Group(group) => settings.groups.contains(group),
        };
        peer && self.protocol.is(packet.transport) && self.fits_port(packet.transport)
    }

    fn fits_port(&self, transport: Transport) -> bool {
        let Some(Ports { first, last }) = self.ports else { return true };
        match transport {
            Transport::Tcp { destination, .. } | Transport::Udp { destination, .. } => {
                (first..=last).contains(&destination)
            }
            _ => false,
        }
    }
}

impl Protocol {
    fn is(self, transport: Transport) -> bool {
        let number = match transport {
            Transport::Tcp { .. } => TCP,
            Transport::Udp { .. } => UDP,
            Transport::Icmp { .. } => ICMP,
            Transport::Icmpv6 { .. } => ICMPV6,
            Transport::Fragment(number) | Transport::Other(number) => number,
        };
        match self {
            Self::Any => true,
            Self::Tcp => number == TCP,
            Self::Udp => number == UDP,
            Self::Icmp => number == ICMP || number == ICMPV6,
            Self::Number(wanted) => number == wanted,
        }
    }
}

/// A prefix that is longer than an address holds nothing.
fn contains(network: IpAddr, prefix_length: u8, address: IpAddr) -> bool {
    let (network, address, bits) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32_u32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    match bits.checked_sub(prefix_length.into()) {
        // All bits of an IPv6 address are shifted out by none.
        Some(128) => true,
        Some(rest) => network >> rest == address >> rest,
        None => false,
    }
}

/// Whether a packet may open something from one port to another.
pub(crate) fn admits(packet: &Packet, from: &Settings, to: &Settings) -> bool {
    let fits = |rules: &Option<Vec<Rule>>, address, settings| {
        rules.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.admits(packet, address, settings)))
    };
    fits(&from.outbound, packet.destination, to) && fits(&to.inbound, packet.source, from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn packet(source: &str, transport: Transport) -> Packet {
        Packet { source: source.parse().unwrap(), destination: "10.0.0.9".parse().unwrap(), transport }
    }

    fn inbound(rules: Vec<Rule>) -> Settings {
        Settings { inbound: Some(rules), ..Settings::default() }
    }

    const SSH: Transport = Transport::Tcp { source: 40_000, destination: 22 };

    #[test]
    fn networks_are_compared_by_their_prefix() {
        let holds = |network: &str, prefix, address: &str| {
            contains(network.parse().unwrap(), prefix, address.parse().unwrap())
        };
        assert!(holds("10.1.0.0", 16, "10.1.255.255") && !holds("10.1.0.0", 16, "10.2.0.0"));
        assert!(holds("10.1.2.3", 32, "10.1.2.3") && !holds("10.1.2.3", 32, "10.1.2.2"));
        assert!(holds("0.0.0.0", 0, "192.0.2.1") && !holds("0.0.0.0", 0, "2001:db8::1"));
        assert!(holds("::", 0, "2001:db8::1") && holds("2001:db8::", 64, "2001:db8::ffff"));
        assert!(!holds("2001:db8::", 64, "2001:db8:0:1::") && !holds("::", 0, "192.0.2.1"));
        assert!(!holds("10.1.0.0", 33, "10.1.0.0") && !holds("::", 129, "::"));
    }

    #[test]
    fn a_rule_is_about_protocol_port_and_peer() {
        let rule = |protocol, ports: Option<(u16, u16)>, peer: &Peer| Rule {
            protocol,
            ports: ports.map(|(first, last)| Ports { first, last }),
            peer: peer.clone(),
        };
        let lan = Peer::Network { address: "10.0.0.0".parse().unwrap(), prefix_length: 8 };
        let to = inbound(vec![rule(Protocol::Tcp, Some((20, 22)), &lan)]);
        let from = Settings::default();
        assert!(admits(&packet("10.0.0.1", SSH), &from, &to));
        assert!(!admits(&packet("192.0.2.1", SSH), &from, &to));
        let others = [
            Transport::Tcp { source: 22, destination: 23 },
            Transport::Udp { source: 1, destination: 22 },
            Transport::Fragment(TCP),
            Transport::Icmp { kind: 8, echo: Some(1) },
        ];
        for transport in others {
            assert!(!admits(&packet("10.0.0.1", transport), &from, &to), "{transport:?}");
        }
        let to = inbound(vec![rule(Protocol::Tcp, None, &Peer::Anyone)]);
        assert!(admits(&packet("192.0.2.1", Transport::Fragment(TCP)), &from, &to));
        assert!(!admits(&packet("192.0.2.1", Transport::Fragment(UDP)), &from, &to));
        assert!(!admits(&packet("10.0.0.1", SSH), &from, &inbound(Vec::new())));
    }

    #[test]
    fn a_group_is_who_is_in_it_whatever_the_addresses() {
        let group = |name: &str| Peer::Group(name.into());
        let rules = vec![Rule { protocol: Protocol::Any, ports: None, peer: group("web") }];
        let member = Settings { groups: vec!["db".into(), "web".into()], ..Settings::default() };
        let stranger = Settings { groups: vec!["db".into()], ..Settings::default() };
        assert!(admits(&packet("10.0.0.1", SSH), &member, &inbound(rules.clone())));
        assert!(!admits(&packet("10.0.0.1", SSH), &stranger, &inbound(rules.clone())));
        let outbound = Settings { outbound: Some(rules), ..Settings::default() };
        assert!(admits(&packet("10.0.0.1", SSH), &outbound, &member));
        assert!(!admits(&packet("10.0.0.1", SSH), &outbound, &stranger));
    }
}
