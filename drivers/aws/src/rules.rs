//! Who may reach what: ports, sources, and the rules of a host's security group. Nothing here asks AWS.

use std::{fmt, net::IpAddr, str::FromStr};

use machine_driver::DriverError;
use serde::{Deserialize, Serialize};

/// The engine's port.
pub(crate) const ENGINE_PORT: u16 = 2376;
/// Where a swarm's managers answer as one.
pub(crate) const MANAGER_PORT: u16 = 3376;
/// What members of a swarm need of one another: management, gossip, and overlay networks plain and encrypted.
/// <https://docs.docker.com/engine/swarm/swarm-tutorial/#open-protocols-and-ports-between-the-hosts>
const MEMBERS: [(&str, u16); 5] = [("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("udp", 4789), ("50", 0)];

/// A network or a single address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    fn everybody() -> [Self; 2] {
        [
            Self { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), prefix: 0 },
            Self { address: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), prefix: 0 },
        ]
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = DriverError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Cidr {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            DriverError::invalid(format!("`{text}` is neither an address nor a network"))
                .with_hint("Write it like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32")
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let mut cidr = Self::of(address.trim().parse().map_err(|_| wrong())?);
        if let Some(prefix) = prefix {
            let bits: u8 = prefix.parse().map_err(|_| wrong())?;
            if bits > cidr.prefix {
                return Err(wrong());
            }
            cidr.prefix = bits;
            // AWS refuses a network whose host bits are set.
            cidr.address = match cidr.address {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                    IpAddr::V4((u32::from(address) & mask).into())
                }
                IpAddr::V6(address) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                    IpAddr::V6((u128::from(address) & mask).into())
                }
            };
        }
        Ok(cidr)
    }
}

/// A port, or a range, that is to be open: `80`, `8000-8010/udp`, `443/tcp@203.0.113.0/24`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct OpenPort {
    protocol: String,
    first: u16,
    last: u16,
    /// `None`: everybody.
    source: Option<Cidr>,
}

impl fmt::Display for OpenPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last, source } = self;
        write!(formatter, "{first}")?;
        if last != first {
            write!(formatter, "-{last}")?;
        }
        write!(formatter, "/{protocol}")?;
        source.as_ref().map_or(Ok(()), |source| write!(formatter, "@{source}"))
    }
}

impl From<OpenPort> for String {
    fn from(port: OpenPort) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for OpenPort {
    type Error = DriverError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for OpenPort {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            DriverError::invalid(format!("`{text}` is not a port that can be opened"))
                .with_hint("Write it like 80, 53/udp, 8000-8010/tcp or 443/tcp@203.0.113.0/24")
        };
        let (rest, source) = match text.split_once('@') {
            Some((rest, source)) => (rest, Some(source.parse()?)),
            None => (text, None),
        };
        let (ports, protocol) = rest.split_once('/').unwrap_or((rest, "tcp"));
        if !matches!(protocol, "tcp" | "udp") {
            return Err(wrong());
        }
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let (first, last) = match ports.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(ports)?, number(ports)?),
        };
        if first > last {
            return Err(wrong());
        }
        Ok(Self { protocol: protocol.to_owned(), first, last, source })
    }
}

/// Whom a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Network(Cidr),
    /// Whoever is in the same group.
    Members,
}

/// One rule of a security group, for what comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `tcp`, `udp`, or the number of an IP protocol.
    pub(crate) protocol: String,
    /// Both 0 where the protocol has no ports.
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) source: Source,
    pub(crate) why: &'static str,
}

impl Rule {
    /// Whether both let in the same, whatever for.
    pub(crate) fn is_the_same_as(&self, other: &Self) -> bool {
        (&self.protocol, self.first, self.last, &self.source)
            == (&other.protocol, other.first, other.last, &other.source)
    }

    fn tcp(port: u16, source: &Cidr, why: &'static str) -> Self {
        Self { protocol: "tcp".into(), first: port, last: port, source: Source::Network(source.clone()), why }
    }
}

/// Each rule once: AWS refuses a call that holds one twice.
pub(crate) fn distinct(rules: Vec<Rule>) -> Vec<Rule> {
    let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
    for rule in rules {
        if !kept.iter().any(|other| other.is_the_same_as(&rule)) {
            kept.push(rule);
        }
    }
    kept
}

/// What whoever works with the host needs: SSH, the engine, and the swarm's port on a manager.
pub(crate) fn for_callers(ssh_port: u16, manager: bool, sources: &[Cidr]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for source in sources {
        rules.push(Rule::tcp(ssh_port, source, "SSH"));
        rules.push(Rule::tcp(ENGINE_PORT, source, "Engine API over TLS"));
        if manager {
            rules.push(Rule::tcp(MANAGER_PORT, source, "Swarm API over TLS"));
        }
    }
    rules
}

/// The ports that were asked for.
pub(crate) fn for_open_ports(ports: &[OpenPort]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for port in ports {
        let sources = port.source.clone().map_or_else(|| Cidr::everybody().to_vec(), |source| vec![source]);
        rules.extend(sources.into_iter().map(|source| Rule {
            protocol: port.protocol.clone(),
            first: port.first,
            last: port.last,
            source: Source::Network(source),
            why: "Opened on request",
        }));
    }
    rules
}

/// What the members of a swarm need of one another.
pub(crate) fn for_members() -> Vec<Rule> {
    MEMBERS
        .into_iter()
        .map(|(protocol, port)| Rule {
            protocol: protocol.into(),
            first: port,
            last: port,
            source: Source::Members,
            why: "Between members of the swarm",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_lose_their_host_bits_and_addresses_stay_single() {
        let text = |text: &str| text.parse::<Cidr>().unwrap().to_string();
        assert_eq!(text("203.0.113.7"), "203.0.113.7/32");
        assert_eq!(text("203.0.113.7/24"), "203.0.113.0/24");
        assert_eq!(text("0.0.0.0/0"), "0.0.0.0/0");
        assert_eq!(text("2001:db8::1/32"), "2001:db8::/32");
        assert_eq!(text("2001:db8::1"), "2001:db8::1/128");
        for wrong in ["", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/x", "example.org"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_are_numbers_ranges_and_sources() {
        let text = |text: &str| text.parse::<OpenPort>().unwrap().to_string();
        assert_eq!(text("80"), "80/tcp");
        assert_eq!(text("8000-8010/udp"), "8000-8010/udp");
        assert_eq!(text("443/tcp@203.0.113.9/24"), "443/tcp@203.0.113.0/24");
        for wrong in ["", "http", "0", "65536", "9-8", "80/icmp", "80/", "80@", "-1"] {
            assert!(wrong.parse::<OpenPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_but_the_caller_reaches_a_plain_host() {
        let me: Cidr = "198.51.100.4".parse().unwrap();
        let rules = for_callers(22, false, std::slice::from_ref(&me));
        assert_eq!(rules.iter().map(|rule| rule.first).collect::<Vec<_>>(), [22, 2376]);
        assert!(rules.iter().all(|rule| rule.source == Source::Network(me.clone())));
        assert_eq!(for_callers(22, true, std::slice::from_ref(&me)).len(), 3);
    }

    #[test]
    fn a_rule_that_is_named_twice_is_there_once() {
        let ports: Vec<OpenPort> =
            ["80", "80/tcp", "22/tcp@198.51.100.4"].map(|t| t.parse().unwrap()).to_vec();
        let mut rules = for_callers(22, false, &["198.51.100.4".parse().unwrap()]);
        rules.extend(for_open_ports(&ports));
        assert_eq!(distinct(rules).len(), 4);
    }

    #[test]
    fn members_let_only_members_in() {
        assert!(for_members().iter().all(|rule| rule.source == Source::Members));
    }

    #[test]
    fn a_port_without_a_source_is_open_to_everybody() {
        let rules = for_open_ports(&["80".parse().unwrap()]);
        let sources: Vec<String> = rules
            .iter()
            .map(|rule| match &rule.source {
                Source::Network(network) => network.to_string(),
                Source::Members => "members".into(),
            })
            .collect();
        assert_eq!(sources, ["0.0.0.0/0", "::/0"]);
    }
}
