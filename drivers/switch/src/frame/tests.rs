#![allow(clippy::unwrap_used)]
use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep, VlanId};

use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

fn ethernet() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(MAC, OTHER)
}

fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

pub(crate) fn tcp() -> Vec<u8> {
    let builder = ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(40_000, 22, 1, 1000);
    bytes(|out| builder.write(out, b"hello").unwrap())
}

fn udp6() -> Vec<u8> {
    let builder = ethernet().ipv6([1; 16], [2; 16], 64).udp(5353, 53);
    bytes(|out| builder.write(out, b"hello").unwrap())
}

fn arp() -> Vec<u8> {
    let mut frame = [OTHER, MAC].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend([10, 0, 0, 1]);
    frame.extend([0; 6]);
    frame.extend([10, 0, 0, 2]);
    frame.resize(60, 0);
    frame
}

fn advertisement() -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend([9; 16]);
    let builder = ethernet().ipv6([1; 16], [2; 16], 255).icmpv6_raw(136, 0, [0x20, 0, 0, 0]);
    bytes(|out| builder.write(out, &message[4..]).unwrap())
}

fn transport_of(frame: &[u8]) -> Transport {
    match Frame::parse(frame).unwrap().content {
        Content::Ip(packet) => packet.transport,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_frame_says_is_read() {
    let frame = Frame::parse(&tcp()).unwrap();
    assert_eq!((frame.source, frame.destination), (MacAddress(MAC), MacAddress(OTHER)));
    let Content::Ip(packet) = frame.content else { panic!("{frame:?}") };
    assert_eq!((packet.source, packet.destination), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
    assert_eq!(packet.transport, Transport::Tcp { source: 40_000, destination: 22 });
    assert_eq!(transport_of(&udp6()), Transport::Udp { source: 5353, destination: 53 });
    assert_eq!(
        Frame::parse(&arp()).unwrap().content,
        Content::Arp(Arp { sender_mac: MacAddress(MAC), sender: [10, 0, 0, 1].into() })
    );
    let ping = ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).icmpv4_echo_request(7, 1);
    let ping = bytes(|out| ping.write(out, b"x").unwrap());
    assert_eq!(transport_of(&ping), Transport::Icmp { kind: 8, echo: Some(7) });
    let neighbour = Some(Neighbour::Advertisement([9; 16].into()));
    assert_eq!(transport_of(&advertisement()), Transport::Icmpv6 { kind: 136, echo: None, neighbour });
}

#[test]
fn the_first_fragment_shows_no_ports_either() {
    let mut first = tcp();
    // Flags and offset of the IPv4 header: more fragments follow.
    first[14 + 6] = 0x20;
    assert_eq!(transport_of(&first), Transport::Fragment(6));
    let mut later = tcp();
    later[14 + 7] = 1;
    assert_eq!(transport_of(&later), Transport::Fragment(6));
}

#[test]
fn what_is_in_a_vlan_is_not_looked_into() {
    let builder =
        ethernet().single_vlan(VlanId::try_new(5).unwrap()).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
    let frame = bytes(|out| builder.write(out, b"x").unwrap());
    assert_eq!(Frame::parse(&frame).unwrap().content, Content::Other);
}

#[test]
fn what_does_not_add_up_is_no_frame() {
    for length in 0..tcp().len() {
        // Cut anywhere, the lengths inside say more than there is.
        assert_eq!(Frame::parse(&tcp()[..length]), Err(Malformed), "{length}");
    }
    assert_eq!(Frame::parse(&vec![0; LARGEST_FRAME + 1]), Err(Malformed));
    let mut short_advertisement = advertisement();
    short_advertisement.truncate(14 + 40 + 20);
    // The length in the IPv6 header.
    short_advertisement[14 + 5] = 20;
    assert_eq!(Frame::parse(&short_advertisement), Err(Malformed));
    let mut token_ring = arp();
    token_ring[15] = 6;
    assert_eq!(Frame::parse(&token_ring), Err(Malformed));
}

/// Every byte of every kind of frame changed to many values, and pieces of frames put together: nothing panics, and
/// whatever is read has the addresses that are in the bytes.
#[test]
fn mutated_frames_are_harmless() {
    let samples = [tcp(), udp6(), arp(), advertisement()];
    let mut understood = 0_u32;
    let mut look = |frame: &[u8]| {
        if let Ok(read) = Frame::parse(frame) {
            assert_eq!((&read.destination.0[..], &read.source.0[..]), (&frame[..6], &frame[6..12]));
            understood += 1;
        }
    };
    for sample in &samples {
        for at in 0..sample.len() {
            for value in 0..=255 {
                let mut frame = sample.clone();
                frame[at] = value;
                look(&frame);
                look(&frame[..at]);
            }
        }
    }
    // A generator with a fixed seed, so that a failure comes again.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    for _ in 0..100_000 {
        let mut frame = samples[next(samples.len())].clone();
        for _ in 0..=next(6) {
            let at = next(frame.len());
            frame[at] = u8::try_from(next(256)).unwrap();
        }
        let other = &samples[next(samples.len())];
        let at = next(frame.len());
        if next(3) == 0 {
            frame.truncate(at);
            frame.extend(&other[next(other.len())..]);
        }
        look(&frame);
    }
    assert!(understood > 10_000, "{understood}");
}
