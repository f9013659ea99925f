//! Who answers whom: what was opened is answered, whatever the rules say. A table that never grows beyond a bound.

use std::{
    collections::HashSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::frame::{Packet, Transport};

/// Connections that are remembered at most.
const MOST: usize = 65_536;
/// One over which nothing was said for twice this long is forgotten.
const GENERATION: Duration = Duration::from_mins(10);

/// The switch's ports that a packet comes in at and goes out of, by their numbers.
pub(crate) type Way = [u64; 2];

/// Both ends of a connection: the port of the switch, the address and the port of the protocol. The same for both
/// directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Connection {
    protocol: u8,
    ends: [(u64, IpAddr, u16); 2],
}

impl Connection {
    fn of(packet: &Packet, [from, to]: Way) -> Option<Self> {
        let (protocol, source, destination) = match packet.transport {
            Transport::Tcp { source, destination } => (6, source, destination),
            Transport::Udp { source, destination } => (17, source, destination),
            Transport::Icmp { echo: Some(id), .. } => (1, id, id),
            Transport::Icmpv6 { echo: Some(id), .. } => (58, id, id),
            _ => return None,
        };
        let mut ends = [(from, packet.source, source), (to, packet.destination, destination)];
        ends.sort_unstable();
        Some(Self { protocol, ends })
    }
}

/// The connections that are open: those of this generation and of the last.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    young: HashSet<Connection>,
    old: HashSet<Connection>,
    since: Option<Instant>,
}

impl Connections {
    /// Whether a packet belongs to a connection that is open, which it then keeps open.
    pub(crate) fn knows(&mut self, packet: &Packet, way: Way, now: Instant) -> bool {
        let Some(connection) = Connection::of(packet, way) else { return false };
        self.age(now);
        if self.young.contains(&connection) {
            return true;
        }
        let known = self.old.remove(&connection);
        if known {
            self.young.insert(connection);
        }
        known
    }

    pub(crate) fn open(&mut self, packet: &Packet, way: Way, now: Instant) {
        self.age(now);
        if let Some(connection) = Connection::of(packet, way) {
            self.young.insert(connection);
        }
    }

    fn age(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let quiet = now.saturating_duration_since(since);
        if quiet >= GENERATION * 2 {
            self.young.clear();
        }
        if quiet >= GENERATION || self.young.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn packet(from: (u32, u16), to: (u32, u16)) -> Packet {
        Packet {
            source: std::net::Ipv4Addr::from_bits(from.0).into(),
            destination: std::net::Ipv4Addr::from_bits(to.0).into(),
            transport: Transport::Tcp { source: from.1, destination: to.1 },
        }
    }

    #[test]
    fn an_answer_is_known_and_nothing_else() {
        let (mut open, now) = (Connections::default(), Instant::now());
        open.open(&packet((1, 40_000), (2, 80)), [1, 2], now);
        assert!(open.knows(&packet((2, 80), (1, 40_000)), [2, 1], now));
        assert!(!open.knows(&packet((2, 80), (1, 40_001)), [2, 1], now));
        assert!(!open.knows(&packet((2, 81), (1, 40_000)), [2, 1], now));
        assert!(!open.knows(&packet((2, 80), (1, 40_000)), [3, 1], now), "from another port of the switch");
        assert!(!open.knows(&packet((3, 80), (1, 40_000)), [2, 1], now));
    }

    #[test]
    fn a_connection_lives_as_long_as_it_is_used() {
        let (mut open, began) = (Connections::default(), Instant::now());
        let (used, unused) = (packet((1, 1), (2, 2)), packet((1, 3), (2, 4)));
        open.open(&used, [1, 2], began);
        open.open(&unused, [1, 2], began);
        for minutes in (0..60).step_by(5) {
            assert!(open.knows(&used, [1, 2], began + Duration::from_mins(minutes)), "{minutes}");
        }
        assert!(!open.knows(&unused, [1, 2], began + Duration::from_hours(1)));
        assert!(!open.knows(&used, [1, 2], began + Duration::from_hours(3)));
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut open, now) = (Connections::default(), Instant::now());
        let kept = packet((9, 9), (8, 8));
        open.open(&kept, [1, 2], now);
        for number in 0..300_000_u32 {
            open.open(&packet((number, 1), (2, 2)), [1, 2], now);
            if number % 1000 == 0 {
                assert!(open.knows(&kept, [1, 2], now), "what is in use is not pushed out");
            }
            assert!(open.young.len() + open.old.len() <= MOST);
        }
    }
}
