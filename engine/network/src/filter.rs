//! The packet filter's tables `ip engine` and, where there are networks with it, `ip6 engine`: everything the engine asks of nf_tables.
//!
//! ```text
//! prerouting   to an address of this host: `published`; but TCP from a bridge of ours is left alone (the proxy answers)
//! output       the same, but 127.0.0.0/8 and ::1 are left alone (the proxy answers)
//! published    rewrites the destination by two maps: (address, protocol, port) and (protocol, port) → container
//! postrouting  masquerades what leaves a bridge, and what comes back into it because of `published`: the container there
//!              would answer its neighbour directly, who does not expect that
//! forward      into a bridge: replies, its own containers, and what `published` has rewritten; nothing else
//! ```
//!
//! What there is of each bridge lies in `from_bridges`, `out_of_internal`, `into_bridges` and `postrouting`, its rules with the
//! interface's name as their comment. A port that is published or withdrawn is an element of a map, a network that comes or
//! goes is its own rules: only those are added and deleted (`table`), each time in one transaction. Rules of different networks do
//! not depend on their order. Rules of others are left alone.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use engine_kernel::netlink::{FLAG_APPEND, FLAG_CREATE, FLAG_DUMP, Message, Socket, attribute, text};

use super::addresses::{Subnet, octets};
use super::{Protocol, PublishedPort};

mod family;
mod inside;
mod others;
mod removals;
mod rule;
mod table;
mod tables;

pub(super) use family::Family;
pub(super) use inside::lead_questions;
pub(super) use others::drop_forwarded;
pub(super) use removals::Removals;
pub(super) use tables::Tables;

use rule::{ACCEPT, DROP, FORWARD, JUMP, OUTPUT, POSTROUTING, PREROUTING, PROTOCOL_KEY, RETURN, Rule};

const TABLE: &str = "engine";
const BY_ADDRESS: &str = "published_on_address";
const BY_PORT: &str = "published";

/// A network as the packet filter sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) interface: String,
    pub(super) subnets: Vec<Subnet>,
    /// Nothing goes in or out.
    pub(super) internal: bool,
    pub(super) masquerade: bool,
    /// Containers of this network may talk with each other.
    pub(super) among_themselves: bool,
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) protocol: Protocol,
    /// Any address of the host when absent.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// A published port, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) source: Source,
    pub(super) target: SocketAddr,
}

impl Redirection {
    /// How the packet filter leads to a published port; what it does not, such as a port of IPv6 of a container without, is left to
    /// the proxy.
    pub(super) fn of(port: PublishedPort, container: IpAddr) -> Option<Self> {
        let address = port.host_ip;
        let source = Source {
            protocol: port.protocol,
            address: (!address.is_unspecified()).then_some(address),
            port: port.host_port,
        };
        let target = SocketAddr::new(container, port.container_port);
        let is_led = address.is_ipv4() == container.is_ipv4() && !address.is_loopback();
        is_led.then_some(Self { source, target })
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.target.ip())
    }
}

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;

/// An element takes at most 64 bytes, and a list of them at most 65535.
const ELEMENTS_AT_ONCE: usize = 800;

impl Family {
    fn message(self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
        message.raw(&[self.number(), 0, 0, 0]);
        message
    }

    fn table(self, kind: u16, flags: u16) -> Message {
        let mut message = self.message(kind, flags);
        message.text(1, TABLE);
        message
    }

    fn chain(self, name: &str) -> Message {
        let mut message = self.message(NEW_CHAIN, FLAG_CREATE);
        message.text(1, TABLE).text(3, name);
        message
    }

    fn base_chain(self, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
        let mut message = self.chain(name);
        message
            .nest(4, |inside| {
                inside.network_number(1, hook).network_number(2, priority.cast_unsigned());
            })
            .network_number(5, ACCEPT.cast_unsigned())
            .text(7, kind);
        message
    }

    fn rule(self, chain: &str, write: impl FnOnce(&mut Rule<'_>)) -> Message {
        let mut message = self.message(NEW_RULE, FLAG_CREATE | FLAG_APPEND);
        message.text(RULE_TABLE, TABLE).text(RULE_CHAIN, chain).nest(RULE_EXPRESSIONS, |inside| {
            write(&mut Rule { message: inside, family: self });
        });
        message
    }
}

fn batch(kind: u16) -> Message {
    let mut message = Message::new(kind, 0);
    let [high, low] = SUBSYSTEM.to_be_bytes();
    message.raw(&[0, 0, high, low]);
    message
}

/// Notes beside a rule what it is for. User data is a list of (kind, length, value); a comment is of kind 0.
fn note(message: &mut Message, comment: &str) {
    let mut data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(0)];
    data.extend(comment.as_bytes());
    data.push(0);
    message.bytes(RULE_USER_DATA, &data);
}

/// A rule as it lies in the kernel, with what is noted beside it.
struct Present {
    family: Family,
    chain: String,
    /// The kernel's number for it.
    handle: Vec<u8>,
    comment: String,
}

impl Present {
    fn removal(&self, table: &str) -> Message {
        let mut message = self.family.message(DELETE_RULE, 0);
        message.text(RULE_TABLE, table).text(RULE_CHAIN, &self.chain).bytes(RULE_HANDLE, &self.handle);
        message
    }
}

/// The rules of a table, or of one of its chains, that have a comment.
fn commented(family: Family, table: &str, chain: Option<&str>) -> io::Result<Vec<Present>> {
    let mut request = family.message(GET_RULE, FLAG_DUMP);
    request.text(RULE_TABLE, table);
    if let Some(chain) = chain {
        request.text(RULE_CHAIN, chain);
    }
    let mut rules = Vec::new();
    Socket::netfilter()?.query(request, |_, body| {
        let content = body.get(4..).unwrap_or_default();
        let named = |kind| attribute(content, kind).and_then(text).unwrap_or_default();
        let comment = match attribute(content, RULE_USER_DATA) {
            Some([0, length, rest @ ..]) => rest.get(..usize::from(*length)).and_then(text),
            _ => None,
        };
        // An old kernel gives more than was asked for.
        if named(RULE_TABLE) == table
            && chain.is_none_or(|chain| named(RULE_CHAIN) == chain)
            && let (Some(handle), Some(comment)) = (attribute(content, RULE_HANDLE), comment)
        {
            let (handle, comment) = (handle.to_vec(), comment.to_owned());
            rules.push(Present { family, chain: named(RULE_CHAIN).to_owned(), handle, comment });
        }
    })?;
    Ok(rules)
}

// Numbers by which the `nft` command knows the types of a map's parts; the kernel does not care.
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// A map to an address and a port of a container. Of the key's parts, the types and the lengths in bytes.
fn map(family: Family, name: &str, identifier: u32, key: &[(u32, u32)]) -> Message {
    const IS_MAP: u32 = 8;
    let joined = |types: &[u32]| types.iter().fold(0, |all, one| all << 6 | one);
    let types: Vec<u32> = key.iter().map(|(kind, _)| *kind).collect();
    let mut message = family.message(NEW_SET, FLAG_CREATE);
    message
        .text(1, TABLE)
        .text(2, name)
        .network_number(3, IS_MAP)
        .network_number(4, joined(&types))
        .network_number(5, key.iter().map(|(_, length)| length).sum())
        .network_number(6, joined(&[family.address_type(), TYPE_PORT]))
        .network_number(7, family.length() + 4)
        .network_number(10, identifier);
    message
}

fn elements(family: Family, kind: u16, flags: u16, map: &str, redirections: &[&Redirection]) -> Message {
    let port = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [high, low, 0, 0]
    };
    let mut message = family.message(kind, flags);
    message.text(1, TABLE).text(2, map).nest(3, |list| {
        for Redirection { source, target } in redirections {
            let mut key = source.address.map(octets).unwrap_or_default();
            key.extend([protocol_number(source.protocol), 0, 0, 0]);
            key.extend(port(source.port));
            let mut data = octets(target.ip());
            data.extend(port(target.port()));
            list.nest(1, |element| {
                element
                    .nest(1, |inside| {
                        inside.bytes(1, &key);
                    })
                    .nest(2, |inside| {
                        inside.bytes(1, &data);
                    });
            });
        }
    });
    message
}

/// Messages that add these elements to the maps, or delete them.
fn redirect(family: Family, kind: u16, flags: u16, redirections: &[Redirection]) -> Vec<Message> {
    let (by_address, by_port): (Vec<_>, Vec<_>) =
        redirections.iter().partition(|one| one.source.address.is_some());
    let mut messages = Vec::new();
    for (name, list) in [(BY_ADDRESS, by_address), (BY_PORT, by_port)] {
        messages.extend(list.chunks(ELEMENTS_AT_ONCE).map(|part| elements(family, kind, flags, name, part)));
    }
    messages
}

const TCP: u8 = 6;

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => 17,
    }
}

/// The rules of one network in a family's table, in their order.
fn rules_of(family: Family, bridge: &Bridge) -> Vec<Message> {
    let Bridge { interface, .. } = bridge;
    // Where bridges hand their packets to the packet filter, a container could not reach itself otherwise. For UDP the
    // proxy will not do: its answers would come from an address that was not asked.
    let mut messages = vec![family.rule("from_bridges", |rule| {
        rule.comes_from(interface).meta(PROTOCOL_KEY, 1).compare(1, true, &[TCP]).verdict(ACCEPT, None);
    })];
    for subnet in bridge.subnets.iter().copied().filter(|subnet| family.has(*subnet)) {
        if bridge.masquerade && !bridge.internal {
            messages.push(family.rule("postrouting", |rule| {
                rule.comes_from_subnet(subnet).goes_elsewhere_than(interface).masquerade();
            }));
        }
        messages.push(family.rule("postrouting", |rule| {
            rule.comes_from_subnet(subnet).goes_to(interface).was_redirected().masquerade();
        }));
    }
    if bridge.internal {
        messages.push(family.rule("out_of_internal", |rule| {
            rule.comes_from(interface).goes_elsewhere_than(interface).verdict(DROP, None);
        }));
    }
    let among = if bridge.among_themselves { ACCEPT } else { DROP };
    messages.push(family.rule("into_bridges", |rule| {
        rule.comes_from(interface).goes_to(interface).verdict(among, None);
    }));
    if !bridge.internal {
        messages.push(family.rule("into_bridges", |rule| {
            rule.goes_to(interface).was_redirected().verdict(ACCEPT, None);
        }));
    }
    messages.push(family.rule("into_bridges", |rule| rule.goes_to(interface).verdict(DROP, None)));
    for message in &mut messages {
        note(message, interface);
    }
    messages
}

/// The whole table, in place of the one that is there.
fn compile(family: Family, bridges: &[Bridge], redirections: &[Redirection]) -> Vec<Message> {
    let address = (family.address_type(), family.length());
    let mut messages = vec![
        // Made in case it is not there, so that deleting it cannot fail.
        family.table(NEW_TABLE, FLAG_CREATE),
        family.table(DELETE_TABLE, 0),
        family.table(NEW_TABLE, FLAG_CREATE),
        map(family, BY_ADDRESS, 1, &[address, (TYPE_PROTOCOL, 4), (TYPE_PORT, 4)]),
        map(family, BY_PORT, 2, &[(TYPE_PROTOCOL, 4), (TYPE_PORT, 4)]),
        family.chain("published"),
        family.chain("from_bridges"),
        family.chain("out_of_internal"),
        family.chain("into_bridges"),
        family.base_chain("prerouting", "nat", PREROUTING, -100),
        family.base_chain("output", "nat", OUTPUT, -100),
        family.base_chain("postrouting", "nat", POSTROUTING, 100),
        family.base_chain("forward", "filter", FORWARD, 0),
    ];
    messages.extend(redirect(family, NEW_ELEMENTS, FLAG_CREATE, redirections));

    let [first, second, third] = family.registers();
    messages.push(family.rule("published", |rule| {
        rule.load_destination(first)
            .meta(PROTOCOL_KEY, second)
            .payload(third, 2, 2, 2)
            .redirect_by(BY_ADDRESS, 1);
    }));
    messages.push(family.rule("published", |rule| {
        rule.meta(PROTOCOL_KEY, first).payload(first + 1, 2, 2, 2).redirect_by(BY_PORT, 2);
    }));

    let to_this_host =
        |chain: &str| family.rule(chain, |rule| rule.goes_to_this_host().verdict(JUMP, Some("published")));
    messages.push(family.rule("prerouting", |rule| rule.verdict(JUMP, Some("from_bridges"))));
    // An answer to an address that counts on one link alone would not be passed on to it: the proxy answers.
    let of_link = Subnet::of(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).filter(|one| family.has(*one));
    let from_link = |chain: &str| {
        of_link.map(|link| family.rule(chain, |rule| rule.comes_from_subnet(link).verdict(RETURN, None)))
    };
    messages.extend(from_link("prerouting"));
    messages.push(to_this_host("prerouting"));
    let (loopback, prefix) = family.loopback();
    messages.push(family.rule("output", |rule| {
        match Subnet::of(loopback, prefix) {
            Some(subnet) => rule.goes_to_subnet(subnet),
            None => rule.goes_to_address(loopback),
        }
        .verdict(RETURN, None);
    }));
    messages.extend(from_link("output"));
    messages.push(to_this_host("output"));

    messages.push(family.rule("forward", |rule| rule.verdict(JUMP, Some("out_of_internal"))));
    messages.push(family.rule("forward", |rule| rule.is_reply().verdict(ACCEPT, None)));
    messages.push(family.rule("forward", |rule| rule.verdict(JUMP, Some("into_bridges"))));
    messages.extend(bridges.iter().flat_map(|bridge| rules_of(family, bridge)));
    messages
}

/// Has the kernel carry these out together or not at all.
fn carry_out(messages: Vec<Message>) -> io::Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    Socket::netfilter()?.transaction(batch(BATCH_BEGIN), messages, batch(BATCH_END))
}
