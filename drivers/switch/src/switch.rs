//! The switch without its sockets: who gets a frame that came in at a port.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use crate::{
    Content, Frame, MacAddress, Offence, Settings,
    connections::Connections,
    filter,
    frame::{Packet, Transport},
    guard,
};

/// Ports of one switch at most.
pub const MOST_PORTS: usize = 4096;
/// Hardware addresses that are learned behind one port at most.
const MOST_LEARNED: usize = 64;

/// Why a frame goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It came in at a port that there is not.
    NoPort,
    Malformed,
    /// Its port may not send it.
    Offence(Offence),
    /// Nobody has its destination.
    Nowhere,
    /// No rule lets it through.
    Refused,
}

/// A port, with a number that no other one ever had.
#[derive(Debug)]
struct Port {
    number: u64,
    settings: Settings,
}

/// Ports and what is known of them.
#[derive(Debug, Default)]
pub struct Switch {
    ports: BTreeMap<String, Port>,
    /// Of ports so far.
    numbers: u64,
    /// The port of each hardware address: those of the settings, and what was learned at ports without one.
    stations: HashMap<MacAddress, String>,
    connections: Connections,
}

impl Switch {
    pub fn new() -> Self {
        Self::default()
    }

    /// The settings of a port.
    pub fn port(&self, name: &str) -> Option<&Settings> {
        self.ports.get(name).map(|port| &port.settings)
    }

    /// The ports' names.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.ports.keys().map(String::as_str)
    }

    /// Adds a port or changes it; what was open through it stays open. `false`: there are too many, or another port
    /// has its hardware address; then there is no such port any more.
    pub fn plug(&mut self, name: &str, settings: Settings) -> bool {
        let known = self.ports.get(name).map(|port| port.number);
        let taken = settings.mac.is_some_and(|mac| {
            mac.is_multicast()
                || self.ports.iter().any(|(other, port)| other != name && port.settings.mac == Some(mac))
        });
        if taken || known.is_none() && self.ports.len() >= MOST_PORTS {
            self.unplug(name);
            return false;
        }
        if self.port(name) == Some(&settings) {
            return true;
        }
        self.stations.retain(|_, port| port != name);
        if let Some(mac) = settings.mac {
            self.stations.insert(mac, name.to_owned());
        }
        let number = known.unwrap_or_else(|| {
            self.numbers += 1;
            self.numbers
        });
        self.ports.insert(name.to_owned(), Port { number, settings });
        true
    }

    /// Takes a port away.
    pub fn unplug(&mut self, name: &str) {
        self.stations.retain(|_, port| port != name);
        self.ports.remove(name);
    }

    /// The ports that get a frame.
    pub fn forward(&mut self, from: &str, bytes: &[u8], now: Instant) -> Result<Vec<&str>, Dropped> {
        let Some(port) = self.ports.get(from) else { return Err(Dropped::NoPort) };
        let settings = &port.settings;
        let frame = Frame::parse(bytes).map_err(|_| Dropped::Malformed)?;
        guard::look(&frame, settings).map_err(Dropped::Offence)?;
        if settings.mac.is_none() {
            learn(&mut self.stations, &self.ports, from, frame.source)?;
        }
        let is_for_many = frame.destination.is_multicast();
        let station = if is_for_many { None } else { self.stations.get(&frame.destination) };
        let mut heard = Vec::new();
        let mut refused = false;
        for (name, to) in &self.ports {
            // What is for an address that nobody is known to have goes to where it may be.
            let hears = match station {
                Some(station) => station == name,
                None => is_for_many || to.settings.mac.is_none(),
            };
            if !hears || name == from {
                continue;
            }
            if passes(&frame, port, to, &mut self.connections, now) {
                heard.push(name.as_str());
            } else {
                refused = true;
            }
        }
        match (heard.is_empty(), refused) {
            (false, _) => Ok(heard),
            (true, true) => Err(Dropped::Refused),
            (true, false) => Err(Dropped::Nowhere),
        }
    }
}

/// Remembers the port of an address; never one that another port has by its settings.
fn learn(
    stations: &mut HashMap<MacAddress, String>,
    ports: &BTreeMap<String, Port>,
    from: &str,
    source: MacAddress,
) -> Result<(), Dropped> {
    if let Some(port) = stations.get_mut(&source) {
        if port != from {
            if ports.get(port).is_some_and(|port| port.settings.mac.is_some()) {
                return Err(Dropped::Offence(Offence::Hardware));
            }
            from.clone_into(port);
        }
        return Ok(());
    }
    if stations.values().filter(|port| *port == from).count() >= MOST_LEARNED {
        // A port that floods makes room at its own cost.
        stations.retain(|_, port| port != from);
    }
    stations.insert(source, from.to_owned());
    Ok(())
}

fn passes(frame: &Frame, from: &Port, to: &Port, connections: &mut Connections, now: Instant) -> bool {
    let is_for_many = frame.destination.is_multicast();
    // What is for one is for an address of that one: rules are about addresses, and would be kept for another's.
    if let Content::Ip(packet) = frame.content
        && !is_for_many
        && !to.settings.has(packet.destination)
        && to.settings.mac.is_none_or(|mac| packet.destination != mac.link_local())
    {
        return false;
    }
    let way = [from.number, to.number];
    let (from, to) = (&from.settings, &to.settings);
    if from.outbound.is_none() && to.inbound.is_none() && from.inbound.is_none() && to.outbound.is_none() {
        return true;
    }
    match frame.content {
        Content::Arp(_) => true,
        Content::Ip(packet) if finds_neighbours(&packet) => true,
        // Nobody answers to many, so that opens nothing.
        Content::Ip(packet) if is_for_many => filter::admits(&packet, from, to),
        Content::Ip(packet) => {
            let open = connections.knows(&packet, way, now);
            if !open && filter::admits(&packet, from, to) {
                connections.open(&packet, way, now);
                return true;
            }
            open
        }
        // Rules speak of IP; what is none is not let past them.
        Content::Other => from.outbound.is_none() && to.inbound.is_none(),
    }
}

/// What ARP is to IPv4.
fn finds_neighbours(packet: &Packet) -> bool {
    matches!(packet.transport, Transport::Icmpv6 { neighbour: Some(_), .. })
}

#[cfg(test)]
mod tests;
