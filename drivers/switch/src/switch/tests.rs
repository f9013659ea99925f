#![allow(clippy::unwrap_used)]
use std::net::IpAddr;

use etherparse::PacketBuilder;

use super::*;
use crate::{Peer, Ports, Protocol, Rule};

fn mac(number: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, number])
}

fn address(number: u8) -> [u8; 4] {
    [10, 0, 0, number]
}

fn plain(number: u8) -> Settings {
    Settings { mac: Some(mac(number)), addresses: vec![IpAddr::from(address(number))], ..Settings::default() }
}

const EVERYBODY: MacAddress = MacAddress([0xff; 6]);

fn bytes(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
    let mut frame = Vec::new();
    builder.write(&mut frame, b"x").unwrap();
    frame
}

/// A datagram from one VM to another.
fn udp(from: u8, to: u8, ports: (u16, u16)) -> Vec<u8> {
    bytes(
        PacketBuilder::ethernet2(mac(from).0, mac(to).0)
            .ipv4(address(from), address(to), 64)
            .udp(ports.0, ports.1),
    )
}

fn udp6(from: u8, source: [u8; 16], port: u16) -> Vec<u8> {
    bytes(
        PacketBuilder::ethernet2(mac(from).0, mac(2).0)
            .ipv6(source, mac(2).link_local().octets(), 64)
            .udp(port, 9),
    )
}

fn arp(from: u8, sender_mac: MacAddress, sender: [u8; 4]) -> Vec<u8> {
    let mut frame = [EVERYBODY.0, mac(from).0].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
    frame.extend(sender_mac.0);
    frame.extend(sender);
    frame.extend([0; 10]);
    frame
}

fn icmpv6(from: u8, kind: u8, target: [u8; 16]) -> Vec<u8> {
    let source = mac(from).link_local().octets();
    let builder = PacketBuilder::ethernet2(mac(from).0, mac(2).0)
        .ipv6(source, mac(2).link_local().octets(), 255)
        .icmpv6_raw(kind, 0, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &target).unwrap();
    frame
}

fn three() -> Switch {
    let mut switch = Switch::new();
    for (name, number) in [("a", 1), ("b", 2), ("c", 3)] {
        assert!(switch.plug(name, plain(number)));
    }
    switch
}

fn send(switch: &mut Switch, from: &str, frame: &[u8]) -> Result<Vec<String>, Dropped> {
    switch.forward(from, frame, Instant::now()).map(|ports| ports.into_iter().map(str::to_owned).collect())
}

#[test]
fn one_gets_what_is_for_one_and_all_what_is_for_all() {
    let mut switch = three();
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (5, 6))).unwrap(), ["b"]);
    assert_eq!(send(&mut switch, "a", &arp(1, mac(1), address(1))).unwrap(), ["b", "c"]);
    // Every port's address is known, so what is for nobody goes to nobody.
    assert_eq!(send(&mut switch, "a", &udp(1, 9, (5, 6))), Err(Dropped::Nowhere));
    assert_eq!(send(&mut switch, "a", &udp(1, 1, (5, 6))), Err(Dropped::Nowhere));
    assert_eq!(send(&mut switch, "d", &udp(1, 2, (5, 6))), Err(Dropped::NoPort));
    switch.unplug("b");
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (5, 6))), Err(Dropped::Nowhere));
}

#[test]
fn nobody_speaks_as_another() {
    let mut switch = three();
    let offence = |offence| Err(Dropped::Offence(offence));
    assert_eq!(send(&mut switch, "a", &udp(3, 2, (5, 6))), offence(Offence::Hardware));
    let spoofed =
        bytes(PacketBuilder::ethernet2(mac(1).0, mac(2).0).ipv4(address(3), address(2), 64).udp(5, 6));
    assert_eq!(send(&mut switch, "a", &spoofed), offence(Offence::Address));
    assert_eq!(send(&mut switch, "a", &arp(1, mac(1), address(3))), offence(Offence::Address));
    assert_eq!(send(&mut switch, "a", &arp(1, mac(3), address(1))), offence(Offence::Hardware));
    let from_all = udp(1, 2, (5, 6))
        .iter()
        .enumerate()
        .map(|(at, byte)| if at == 6 { byte | 1 } else { *byte })
        .collect::<Vec<_>>();
    assert_eq!(send(&mut switch, "a", &from_all), offence(Offence::Hardware));

    // IPv6: only the address that follows from the hardware's.
    assert!(send(&mut switch, "a", &udp6(1, mac(1).link_local().octets(), 5)).is_ok());
    assert_eq!(send(&mut switch, "a", &udp6(1, mac(3).link_local().octets(), 5)), offence(Offence::Address));
    assert!(send(&mut switch, "a", &icmpv6(1, 136, mac(1).link_local().octets())).is_ok());
    assert_eq!(
        send(&mut switch, "a", &icmpv6(1, 136, mac(3).link_local().octets())),
        offence(Offence::Address)
    );

    let mut vlan = udp(1, 2, (5, 6));
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(send(&mut switch, "a", &vlan), offence(Offence::Protocol));
}

#[test]
fn nobody_plays_the_router() {
    let mut switch = three();
    let router = Err(Dropped::Offence(Offence::Router));
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (67, 68))), router);
    assert_eq!(send(&mut switch, "a", &udp6(1, mac(1).link_local().octets(), 547)), router);
    for kind in [134, 137] {
        assert_eq!(send(&mut switch, "a", &icmpv6(1, kind, [0; 16])), router);
    }
    // The same behind a fragment header, or in a header that nobody expects there.
    for header in [44, 60] {
        let mut hidden = icmpv6(1, 134, [0; 16]);
        hidden[14 + 6] = header;
        // As the first part of many, or with a header out of order behind it.
        hidden[54] = if header == 44 { 58 } else { 0 };
        hidden[54 + 3] = 1;
        assert!(
            matches!(send(&mut switch, "a", &hidden), Err(Dropped::Offence(_) | Dropped::Malformed)),
            "{header}"
        );
    }
}

#[test]
fn addresses_are_learned_where_none_is_set() {
    let mut switch = three();
    assert!(switch.plug("open", Settings::default()));
    // Not known yet: only the port that could have it gets it.
    assert_eq!(send(&mut switch, "a", &udp(1, 9, (5, 6))).unwrap(), ["open"]);
    assert!(switch.plug("open2", Settings::default()));
    assert_eq!(send(&mut switch, "open", &udp(9, 1, (5, 6))).unwrap(), ["a"]);
    assert_eq!(send(&mut switch, "a", &udp(1, 9, (5, 6))).unwrap(), ["open"]);
    // It moves with who speaks, but never away from a port that has it by its settings.
    assert_eq!(send(&mut switch, "open2", &udp(9, 1, (5, 6))).unwrap(), ["a"]);
    assert_eq!(send(&mut switch, "a", &udp(1, 9, (5, 6))).unwrap(), ["open2"]);
    assert_eq!(send(&mut switch, "open", &udp(2, 1, (5, 6))), Err(Dropped::Offence(Offence::Hardware)));
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (5, 6))).unwrap(), ["b"]);
}

#[test]
fn tables_are_bounded() {
    let mut switch = three();
    assert!(switch.plug("open", Settings::default()));
    for number in 0..10_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let source = [0x02, 0, 7, a, b, c];
        let frame =
            bytes(PacketBuilder::ethernet2(source, mac(1).0).ipv4(address(9), address(1), 64).udp(1, 2));
        assert_eq!(send(&mut switch, "open", &frame).unwrap(), ["a"]);
    }
    assert!(switch.stations.len() <= 3 + MOST_LEARNED);
    for number in 0..2 * MOST_PORTS {
        switch.plug(&format!("port{number}"), Settings::default());
    }
    assert_eq!(switch.ports().count(), MOST_PORTS);
    // One that is there can still be changed.
    assert!(switch.plug("a", plain(7)));
    assert!(!switch.plug("b", plain(7)), "two ports with one address");
    assert_eq!(switch.port("b"), None, "what is refused keeps nothing of what it was");
}

fn guarded(number: u8, rules: Vec<Rule>) -> Settings {
    Settings { inbound: Some(rules), ..plain(number) }
}

#[test]
fn rules_hold_between_ports_and_answers_come_back() {
    let mut switch = three();
    let dns = Rule {
        protocol: Protocol::Udp,
        ports: Some(Ports { first: 53, last: 53 }),
        peer: Peer::Group("web".into()),
    };
    assert!(switch.plug("a", Settings { groups: vec!["web".into()], ..guarded(1, Vec::new()) }));
    assert!(switch.plug("b", guarded(2, vec![dns])));
    assert_eq!(send(&mut switch, "c", &udp(3, 2, (40_000, 53))), Err(Dropped::Refused));
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (40_000, 54))), Err(Dropped::Refused));
    // Nothing is let in by `a`, but what it has asked for is.
    assert_eq!(send(&mut switch, "b", &udp(2, 1, (53, 40_000))), Err(Dropped::Refused));
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (40_000, 53))).unwrap(), ["b"]);
    assert_eq!(send(&mut switch, "b", &udp(2, 1, (53, 40_000))).unwrap(), ["a"]);
    assert_eq!(send(&mut switch, "b", &udp(2, 1, (53, 40_001))), Err(Dropped::Refused));
    // Finding each other's hardware address is nobody's to refuse.
    assert_eq!(send(&mut switch, "c", &arp(3, mac(3), address(3))).unwrap(), ["a", "b"]);
    assert_eq!(send(&mut switch, "c", &icmpv6(3, 135, [9; 16])).unwrap(), ["b"]);
    assert_eq!(send(&mut switch, "c", &icmpv6(3, 128, [9; 16])), Err(Dropped::Refused));
    // A rule that is taken away: what was open stays open, nothing new is.
    assert!(switch.plug("b", guarded(2, Vec::new())));
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (40_000, 53))).unwrap(), ["b"]);
    assert_eq!(send(&mut switch, "a", &udp(1, 2, (40_001, 53))), Err(Dropped::Refused));
}

#[test]
fn a_port_that_lets_all_in_opens_no_way_to_others() {
    let mut switch = three();
    assert!(switch.plug("b", guarded(2, Vec::new())));
    let anyone = Rule { protocol: Protocol::Any, ports: None, peer: Peer::Anyone };
    assert!(switch.plug("c", guarded(3, vec![anyone])));
    let to = |mac: MacAddress| {
        bytes(
            PacketBuilder::ethernet2(self::mac(1).0, mac.0).ipv4(address(1), address(2), 64).udp(40_000, 22),
        )
    };
    // For the address of one to the hardware address of another, and to all.
    assert_eq!(send(&mut switch, "a", &to(mac(3))), Err(Dropped::Refused));
    assert_eq!(send(&mut switch, "a", &to(EVERYBODY)).unwrap(), ["c"]);
    assert_eq!(send(&mut switch, "a", &to(mac(2))), Err(Dropped::Refused));
    // A port that comes again under its name is another one.
    assert_eq!(send(&mut switch, "a", &udp(1, 3, (40_000, 22))).unwrap(), ["c"]);
    switch.unplug("c");
    assert!(switch.plug("c", guarded(3, Vec::new())));
    assert_eq!(send(&mut switch, "a", &udp(1, 3, (40_000, 22))), Err(Dropped::Refused));
}
