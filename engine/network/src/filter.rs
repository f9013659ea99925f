//! The packet filter's table `ip engine`: everything the engine asks of nf_tables.
//!
//! ```text
//! prerouting   to an address of this host: published; but TCP from a bridge of ours is left alone (the proxy answers)
//! output       the same, but 127.0.0.0/8 is left alone (the proxy answers)
//! published    rewrites the destination by two maps: (address, protocol, port) and (protocol, port) → container
//! postrouting  masquerades what leaves a bridge, and what comes back into it because of `published`: the container there
//!              would answer its neighbour directly, who does not expect that
//! forward      into a bridge: replies, its own containers, and what `published` has rewritten; nothing else
//! ```
//!
//! The table is always written anew as a whole, in one transaction, from what is wanted. Rules of others are left alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use engine_kernel::netlink::{FLAG_APPEND, FLAG_CREATE, Message, Socket};

use super::Protocol;
use super::addresses::Subnet;

mod others;

pub(super) use others::{drop_forwarded, let_through};

const TABLE: &str = "engine";
const BY_ADDRESS: &str = "published_on_address";
const BY_PORT: &str = "published";

/// A network as the packet filter sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) interface: String,
    pub(super) subnet: Subnet,
    /// Nothing goes in or out.
    pub(super) internal: bool,
    pub(super) masquerade: bool,
    /// Containers of this network may talk with each other.
    pub(super) among_themselves: bool,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) protocol: Protocol,
    /// Any address of the host when absent.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) port: u16,
    pub(super) target: SocketAddrV4,
}

const IPV4: u8 = 2;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

/// Registers of 32 bits each; a concatenation lies in several of them.
const REGISTER: [u32; 3] = [8, 9, 10];
const VERDICT_REGISTER: u32 = 0;

const INCOMING_INTERFACE: u32 = 6;
const OUTGOING_INTERFACE: u32 = 7;
const PROTOCOL_KEY: u32 = 16;

const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const RETURN: i32 = -5;

/// An element takes about 44 bytes, and a list of them at most 65535.
const ELEMENTS_AT_ONCE: usize = 1000;

fn message(kind: u16, flags: u16) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
    message.raw(&[IPV4, 0, 0, 0]);
    message
}

fn batch(kind: u16) -> Message {
    let mut message = Message::new(kind, 0);
    let [high, low] = SUBSYSTEM.to_be_bytes();
    message.raw(&[0, 0, high, low]);
    message
}

fn table(kind: u16, flags: u16) -> Message {
    let mut message = message(kind, flags);
    message.text(1, TABLE);
    message
}

fn chain(name: &str) -> Message {
    let mut message = message(NEW_CHAIN, FLAG_CREATE);
    message.text(1, TABLE).text(3, name);
    message
}

fn base_chain(name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let mut message = chain(name);
    message
        .nest(4, |inside| {
            inside.network_number(1, hook).network_number(2, priority.cast_unsigned());
        })
        .network_number(5, ACCEPT.cast_unsigned())
        .text(7, kind);
    message
}

/// A rule while it is written: expressions, each of which may end it.
struct Rule<'a>(&'a mut Message);

impl Rule<'_> {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nest(1, |inside| {
            inside.text(1, name).nest(2, data);
        });
        self
    }

    fn compare(&mut self, register: u32, equal: bool, value: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.network_number(1, register).network_number(2, u32::from(!equal)).nest(3, |inside| {
                inside.bytes(1, value);
            });
        })
    }

    fn meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.network_number(1, register).network_number(2, key);
        })
    }

    fn interface(&mut self, key: u32, name: &str, equal: bool) -> &mut Self {
        let mut padded = [0; 16];
        let length = name.len().min(15);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        // A name takes a whole register of 128 bits.
        self.meta(key, 1).compare(1, equal, &padded)
    }

    fn comes_from(&mut self, interface: &str) -> &mut Self {
        self.interface(INCOMING_INTERFACE, interface, true)
    }

    fn goes_to(&mut self, interface: &str) -> &mut Self {
        self.interface(OUTGOING_INTERFACE, interface, true)
    }

    fn goes_elsewhere_than(&mut self, interface: &str) -> &mut Self {
        self.interface(OUTGOING_INTERFACE, interface, false)
    }

    /// `base`: 1 the IP header, 2 the transport header.
    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.network_number(1, register)
                .network_number(2, base)
                .network_number(3, offset)
                .network_number(4, length);
        })
    }

    fn masked(&mut self, register: u32, mask: [u8; 4]) -> &mut Self {
        self.expression("bitwise", |data| {
            data.network_number(1, register)
                .network_number(2, register)
                .network_number(3, 4)
                .nest(4, |inside| {
                    inside.bytes(1, &mask);
                })
                .nest(5, |inside| {
                    inside.bytes(1, &[0; 4]);
                });
        })
    }

    fn address_in(&mut self, offset: u32, subnet: Subnet) -> &mut Self {
        self.payload(1, 1, offset, 4).masked(1, subnet.mask().octets()).compare(
            1,
            true,
            &subnet.first().octets(),
        )
    }

    fn comes_from_subnet(&mut self, subnet: Subnet) -> &mut Self {
        self.address_in(12, subnet)
    }

    fn goes_to_subnet(&mut self, subnet: Subnet) -> &mut Self {
        self.address_in(16, subnet)
    }

    /// The destination is an address of this host.
    fn goes_to_this_host(&mut self) -> &mut Self {
        const RESULT_KIND: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const KIND_LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.network_number(1, 1).network_number(2, RESULT_KIND).network_number(3, BY_DESTINATION);
        })
        .compare(1, true, &KIND_LOCAL.to_ne_bytes())
    }

    /// Some of these bits are set in what connection tracking knows under `key`.
    fn tracked(&mut self, key: u32, bits: u32) -> &mut Self {
        self.expression("ct", |data| {
            data.network_number(1, 1).network_number(2, key);
        })
        .masked(1, bits.to_ne_bytes())
        .compare(1, false, &[0; 4])
    }

    fn is_reply(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        const ESTABLISHED: u32 = 2;
        const RELATED: u32 = 4;
        self.tracked(STATE, ESTABLISHED | RELATED)
    }

    fn was_redirected(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        const DESTINATION_REWRITTEN: u32 = 1 << 5;
        self.tracked(STATUS, DESTINATION_REWRITTEN)
    }

    fn redirect_by(&mut self, map: &str, identifier: u32) {
        const DESTINATION: u32 = 1;
        self.expression("lookup", |data| {
            data.text(1, map)
                .network_number(2, REGISTER[0])
                .network_number(3, REGISTER[0])
                .network_number(4, identifier);
        })
        .expression("nat", |data| {
            data.network_number(1, DESTINATION)
                .network_number(2, u32::from(IPV4))
                .network_number(3, REGISTER[0])
                .network_number(5, REGISTER[1]);
        });
    }

    fn masquerade(&mut self) {
        self.expression("masq", |_| ());
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |data| {
            data.network_number(1, VERDICT_REGISTER).nest(2, |inside| {
                inside.nest(2, |inside| {
                    inside.network_number(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        inside.text(2, chain);
                    }
                });
            });
        });
    }
}

fn rule(chain: &str, write: impl FnOnce(&mut Rule<'_>)) -> Message {
    let mut message = message(NEW_RULE, FLAG_CREATE | FLAG_APPEND);
    message.text(1, TABLE).text(2, chain).nest(4, |inside| write(&mut Rule(inside)));
    message
}

// Numbers by which the `nft` command knows the types of a map's parts; the kernel does not care.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// A map to an address and a port of a container.
fn map(name: &str, identifier: u32, key: &[u32]) -> Message {
    const IS_MAP: u32 = 8;
    let joined = |types: &[u32]| types.iter().fold(0, |all, one| all << 6 | one);
    let mut message = message(NEW_SET, FLAG_CREATE);
    message
        .text(1, TABLE)
        .text(2, name)
        .network_number(3, IS_MAP)
        .network_number(4, joined(key))
        .network_number(5, u32::try_from(key.len() * 4).unwrap_or(0))
        .network_number(6, joined(&[TYPE_ADDRESS, TYPE_PORT]))
        .network_number(7, 8)
        .network_number(10, identifier);
    message
}

fn elements(map: &str, redirections: &[&Redirection]) -> Message {
    let port = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [high, low, 0, 0]
    };
    let mut message = message(NEW_ELEMENTS, FLAG_CREATE);
    message.text(1, TABLE).text(2, map).nest(3, |list| {
        for redirection in redirections {
            let mut key = Vec::with_capacity(12);
            key.extend(redirection.address.iter().flat_map(Ipv4Addr::octets));
            key.extend([protocol_number(redirection.protocol), 0, 0, 0]);
            key.extend(port(redirection.port));
            let mut data = redirection.target.ip().octets().to_vec();
            data.extend(port(redirection.target.port()));
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

const TCP: u8 = 6;

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => 17,
    }
}

fn compile(bridges: &[Bridge], redirections: &[Redirection]) -> Vec<Message> {
    let mut messages = vec![
        // Made in case it is not there, so that deleting it cannot fail.
        table(NEW_TABLE, FLAG_CREATE),
        table(DELETE_TABLE, 0),
        table(NEW_TABLE, FLAG_CREATE),
        map(BY_ADDRESS, 1, &[TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT]),
        map(BY_PORT, 2, &[TYPE_PROTOCOL, TYPE_PORT]),
        chain("published"),
        base_chain("prerouting", "nat", PREROUTING, -100),
        base_chain("output", "nat", OUTPUT, -100),
        base_chain("postrouting", "nat", POSTROUTING, 100),
        base_chain("forward", "filter", FORWARD, 0),
    ];
    let (by_address, by_port): (Vec<_>, Vec<_>) = redirections.iter().partition(|one| one.address.is_some());
    for (name, list) in [(BY_ADDRESS, by_address), (BY_PORT, by_port)] {
        messages.extend(list.chunks(ELEMENTS_AT_ONCE).map(|part| elements(name, part)));
    }

    messages.push(rule("published", |rule| {
        rule.payload(REGISTER[0], 1, 16, 4)
            .meta(PROTOCOL_KEY, REGISTER[1])
            .payload(REGISTER[2], 2, 2, 2)
            .redirect_by(BY_ADDRESS, 1);
    }));
    messages.push(rule("published", |rule| {
        rule.meta(PROTOCOL_KEY, REGISTER[0]).payload(REGISTER[1], 2, 2, 2).redirect_by(BY_PORT, 2);
    }));

    for bridge in bridges {
        // Where bridges hand their packets to the packet filter, a container could not reach itself otherwise. For UDP the
        // proxy will not do: its answers would come from an address that was not asked.
        messages.push(rule("prerouting", |rule| {
            rule.comes_from(&bridge.interface)
                .meta(PROTOCOL_KEY, 1)
                .compare(1, true, &[TCP])
                .verdict(RETURN, None);
        }));
    }
    messages.push(rule("prerouting", |rule| rule.goes_to_this_host().verdict(JUMP, Some("published"))));
    if let Some(loopback) = Subnet::of(Ipv4Addr::LOCALHOST, 8) {
        messages.push(rule("output", |rule| rule.goes_to_subnet(loopback).verdict(RETURN, None)));
    }
    messages.push(rule("output", |rule| rule.goes_to_this_host().verdict(JUMP, Some("published"))));

    for bridge in bridges.iter().filter(|bridge| bridge.masquerade && !bridge.internal) {
        messages.push(rule("postrouting", |rule| {
            rule.comes_from_subnet(bridge.subnet).goes_elsewhere_than(&bridge.interface).masquerade();
        }));
    }
    for bridge in bridges {
        messages.push(rule("postrouting", |rule| {
            rule.comes_from_subnet(bridge.subnet).goes_to(&bridge.interface).was_redirected().masquerade();
        }));
    }

    for bridge in bridges.iter().filter(|bridge| bridge.internal) {
        messages.push(rule("forward", |rule| {
            rule.comes_from(&bridge.interface).goes_elsewhere_than(&bridge.interface).verdict(DROP, None);
        }));
    }
    messages.push(rule("forward", |rule| rule.is_reply().verdict(ACCEPT, None)));
    for bridge in bridges {
        let among = if bridge.among_themselves { ACCEPT } else { DROP };
        messages.push(rule("forward", |rule| {
            rule.comes_from(&bridge.interface).goes_to(&bridge.interface).verdict(among, None);
        }));
        if !bridge.internal {
            messages.push(rule("forward", |rule| {
                rule.goes_to(&bridge.interface).was_redirected().verdict(ACCEPT, None);
            }));
        }
        messages.push(rule("forward", |rule| rule.goes_to(&bridge.interface).verdict(DROP, None)));
    }
    messages
}

/// Puts the table in place of the one before, if there was one.
pub(super) fn apply(bridges: &[Bridge], redirections: &[Redirection]) -> io::Result<()> {
    Socket::netfilter()?.transaction(batch(BATCH_BEGIN), compile(bridges, redirections), batch(BATCH_END))
}

/// Whether the table is there: somebody may have removed all rules of the host.
pub(super) fn is_there() -> io::Result<bool> {
    match Socket::netfilter()?.request(table(GET_TABLE, 0)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        result => result.map(|()| true),
    }
}
