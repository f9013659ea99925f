//! Who may reach what: ports, sources, and the rules of a host's security groups. Nothing here asks AWS.

use std::{collections::BTreeSet, fmt, str::FromStr};

use aws_sdk_ec2::types::{IpPermission, IpRange, Ipv6Range, UserIdGroupPair};
use machine_driver::{DriverError, Network, Protocol, Rule, Source};
use serde::{Deserialize, Serialize};

/// The engine's port.
pub(crate) const ENGINE_PORT: u16 = 2376;
/// Where a swarm's managers answer as one.
const MANAGER_PORT: u16 = 3376;
/// What members of a swarm need of one another: management, gossip, and overlay networks plain and encrypted.
/// <https://docs.docker.com/engine/swarm/swarm-tutorial/#open-protocols-and-ports-between-the-hosts>
const MEMBERS: [(Protocol, u16); 5] = [
    (Protocol::Tcp, 2377),
    (Protocol::Tcp, 7946),
    (Protocol::Udp, 7946),
    (Protocol::Udp, 4789),
    (Protocol::Esp, 0),
];

/// Reads an address or a network.
pub(crate) fn network(text: &str) -> Result<Network, DriverError> {
    text.trim().parse().map_err(|error| {
        DriverError::invalid(format!("`{}` is neither an address nor a network", text.escape_debug()))
            .with_hint("Write it like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32")
            .with_source(error)
    })
}

/// Every address of both kinds.
fn everybody() -> Vec<Network> {
    ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse().ok()).collect()
}

/// A port, or a range, that is to be open: `80`, `8000-8010/udp`, `443/tcp@203.0.113.0/24`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct OpenPort {
    protocol: Protocol,
    ports: (u16, u16),
    /// `None`: everybody.
    source: Option<Network>,
}

impl fmt::Display for OpenPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ports;
        write!(formatter, "{first}")?;
        if last != first {
            write!(formatter, "-{last}")?;
        }
        write!(formatter, "/{}", word(self.protocol))?;
        self.source.map_or(Ok(()), |source| write!(formatter, "@{source}"))
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
            Some((rest, source)) => (rest, Some(network(source)?)),
            None => (text, None),
        };
        let (ports, protocol) = rest.split_once('/').unwrap_or((rest, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let (first, last) = match ports.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(ports)?, number(ports)?),
        };
        if first > last {
            return Err(wrong());
        }
        Ok(Self { protocol, ports: (first, last), source })
    }
}

/// EC2's word for a protocol.
fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Esp => "50",
    }
}

fn one(protocol: Protocol, port: u16, from: Source) -> Rule {
    Rule { protocol, ports: (port, port), from }
}

/// What whoever works with a manager of a swarm needs, besides what every host is reached by.
pub(crate) fn for_managers() -> Vec<Rule> {
    vec![one(Protocol::Tcp, MANAGER_PORT, Source::Caller)]
}

/// What earlier versions let their callers in on by themselves.
pub(crate) fn for_callers_once(ssh_port: u16, manager: bool) -> Vec<Rule> {
    let ports = [Some(ssh_port), Some(ENGINE_PORT), manager.then_some(MANAGER_PORT)];
    ports.into_iter().flatten().map(|port| one(Protocol::Tcp, port, Source::Caller)).collect()
}

/// The ports that were asked for.
pub(crate) fn for_open_ports(ports: &[OpenPort]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for port in ports {
        let sources = port.source.map_or_else(everybody, |source| vec![source]);
        rules.extend(sources.into_iter().map(|source| Rule {
            protocol: port.protocol,
            ports: port.ports,
            from: Source::Network(source),
        }));
    }
    rules
}

/// What the members of a swarm need of one another.
pub(crate) fn for_members(swarm: &str) -> Vec<Rule> {
    MEMBERS.map(|(protocol, port)| one(protocol, port, Source::Members(swarm.to_owned()))).to_vec()
}

/// Rules about networks only, each once: whoever calls is at these addresses. What is for members of a cluster is not
/// among them.
pub(crate) fn from_networks(rules: &[Rule], callers: &[Network]) -> BTreeSet<Rule> {
    let mut resolved = BTreeSet::new();
    for rule in rules {
        let networks = match &rule.from {
            Source::Caller => callers.to_vec(),
            Source::Network(network) => vec![*network],
            Source::Members(_) => Vec::new(),
        };
        let with = |network| Rule { from: Source::Network(network), ..rule.clone() };
        resolved.extend(networks.into_iter().map(with));
    }
    resolved
}

/// The rules for the members of one cluster.
pub(crate) fn of_members(rules: &[Rule], cluster: &str) -> BTreeSet<Rule> {
    let is_its = |rule: &&Rule| matches!(&rule.from, Source::Members(name) if name == cluster);
    rules.iter().filter(is_its).cloned().collect()
}

/// What a rule is for, as people read it in AWS' console.
fn description(rule: &Rule) -> &'static str {
    match (&rule.from, rule.ports) {
        (Source::Members(_), _) => "Between members of the swarm",
        (_, (ENGINE_PORT, ENGINE_PORT)) => "Engine API over TLS",
        (_, (MANAGER_PORT, MANAGER_PORT)) => "Swarm API over TLS",
        (_, (22, 22)) => "SSH",
        _ => "Opened by machine",
    }
}

/// A rule as EC2 takes it. Members are those who have `group` themselves.
pub(crate) fn permission(rule: &Rule, group: &str) -> IpPermission {
    let port = |port: u16| if rule.protocol == Protocol::Esp { -1 } else { i32::from(port) };
    let why = description(rule);
    let permission = IpPermission::builder()
        .ip_protocol(word(rule.protocol))
        .from_port(port(rule.ports.0))
        .to_port(port(rule.ports.1));
    match &rule.from {
        Source::Network(network) if network.address().is_ipv4() => {
            permission.ip_ranges(IpRange::builder().cidr_ip(network.to_string()).description(why).build())
        }
        Source::Network(network) => permission
            .ipv6_ranges(Ipv6Range::builder().cidr_ipv6(network.to_string()).description(why).build()),
        Source::Members(_) | Source::Caller => permission
            .user_id_group_pairs(UserIdGroupPair::builder().group_id(group).description(why).build()),
    }
    .build()
}

/// Whether a group has a rule, among what AWS says of it. AWS may have joined it with others that differ in their
/// sources only.
pub(crate) fn has(permissions: &[IpPermission], rule: &Rule, group: &str) -> bool {
    let wanted = permission(rule, group);
    permissions.iter().any(|found| {
        let ports = |permission: &IpPermission| match rule.protocol {
            Protocol::Esp => None,
            _ => Some((permission.from_port(), permission.to_port())),
        };
        found.ip_protocol() == wanted.ip_protocol()
            && ports(found) == ports(&wanted)
            && match &rule.from {
                Source::Network(network) => {
                    let text = network.to_string();
                    found.ip_ranges().iter().any(|range| range.cidr_ip() == Some(text.as_str()))
                        || found.ipv6_ranges().iter().any(|range| range.cidr_ipv6() == Some(text.as_str()))
                }
                Source::Members(_) | Source::Caller => {
                    found.user_id_group_pairs().iter().any(|pair| pair.group_id() == Some(group))
                }
            }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| network(text).unwrap()).collect()
    }

    #[test]
    fn ports_are_numbers_ranges_and_sources() {
        let text = |text: &str| text.parse::<OpenPort>().unwrap().to_string();
        assert_eq!(text("80"), "80/tcp");
        assert_eq!(text("8000-8010/udp"), "8000-8010/udp");
        assert_eq!(text("443/tcp@203.0.113.0/24"), "443/tcp@203.0.113.0/24");
        for wrong in ["", "http", "0", "65536", "9-8", "80/icmp", "80/", "80@", "-1"] {
            assert!(wrong.parse::<OpenPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_for_the_caller_is_for_nobody_else() {
        let me = networks(&["198.51.100.4"]);
        let rules = from_networks(&for_callers_once(22, false), &me);
        assert_eq!(rules.iter().map(|rule| rule.ports.0).collect::<Vec<_>>(), [22, 2376]);
        assert!(rules.iter().all(|rule| rule.from == Source::Network(me[0])));
        assert_eq!(for_callers_once(22, true).len(), 3);
    }

    /// AWS refuses a call that holds one twice.
    #[test]
    fn a_rule_that_is_named_twice_is_there_once() {
        let ports: Vec<OpenPort> =
            ["80", "80/tcp", "22/tcp@198.51.100.4"].map(|t| t.parse().unwrap()).to_vec();
        let mut rules = for_callers_once(22, false);
        rules.extend(for_open_ports(&ports));
        assert_eq!(from_networks(&rules, &networks(&["198.51.100.4"])).len(), 4);
    }

    #[test]
    fn members_let_only_members_in() {
        let rules = for_members("prod");
        assert!(from_networks(&rules, &networks(&["198.51.100.4"])).is_empty());
        assert_eq!(of_members(&rules, "prod").len(), 5);
        assert!(of_members(&rules, "test").is_empty());
    }

    #[test]
    fn a_port_without_a_source_is_open_to_everybody() {
        let rules = for_open_ports(&["80".parse().unwrap()]);
        let expected = networks(&["0.0.0.0/0", "::/0"]);
        assert_eq!(
            rules.iter().map(|rule| rule.from.clone()).collect::<Vec<_>>(),
            expected.into_iter().map(Source::Network).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_rule_is_found_among_what_aws_has_joined() {
        let mut rules: Vec<Rule> =
            from_networks(&for_callers_once(22, false), &networks(&["198.51.100.4", "2001:db8::/32"]))
                .into_iter()
                .collect();
        rules.extend(for_members("prod"));
        let joined = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(22)
            .to_port(22)
            .ip_ranges(IpRange::builder().cidr_ip("203.0.113.0/24").build())
            .ip_ranges(IpRange::builder().cidr_ip("198.51.100.4/32").build())
            .build();
        let esp = IpPermission::builder()
            .ip_protocol("50")
            .user_id_group_pairs(UserIdGroupPair::builder().group_id("sg-1").build())
            .build();
        let there: Vec<bool> =
            rules.iter().map(|rule| has(&[joined.clone(), esp.clone()], rule, "sg-1")).collect();
        assert_eq!(there, [true, false, false, false, false, false, false, false, true]);
    }
}
