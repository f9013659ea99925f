//! The chain in which iptables, or ip6tables, keeps rules for forwarded packets: a firewall of the host may drop there what it does not
//! know, and what we accept in our own table is not accepted in others'.
//!
//! Two rules for each bridge go to its beginning, as Docker does it; what may come into a bridge is still decided in our
//! table. They have the very form that iptables itself writes, so that it goes on understanding its chain.

use std::collections::BTreeMap;
use std::io;

use engine_kernel::netlink::{FLAG_CREATE, FLAG_DUMP, Socket, attribute, text};

use super::rule::{ACCEPT, DROP, FORWARD, INCOMING_INTERFACE, OUTGOING_INTERFACE, Rule};
use super::{
    Family, Message, NEW_CHAIN, NEW_RULE, NEW_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, carry_out,
    commented, note,
};

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// Comments of our rules begin so.
const MARK: &str = "engine ";

const GET_CHAIN: u16 = 4;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_KIND: u16 = 7;

/// A packet that comes from, or goes to, an interface.
fn comment(key: u32, interface: &str) -> String {
    let direction = if key == INCOMING_INTERFACE { "from" } else { "to" };
    format!("{MARK}{direction} {interface}")
}

fn is(content: &[u8], kind: u16, wanted: &str) -> bool {
    attribute(content, kind).and_then(text) == Some(wanted)
}

fn exists(family: Family) -> io::Result<bool> {
    let mut found = false;
    Socket::netfilter()?.query(family.message(GET_CHAIN, FLAG_DUMP), |_, body| {
        let content = body.get(4..).unwrap_or_default();
        found |= body.first() == Some(&family.number())
            && is(content, CHAIN_TABLE, TABLE)
            && is(content, CHAIN_NAME, CHAIN)
            && attribute(content, CHAIN_HOOK).is_some();
    })?;
    Ok(found)
}

fn acceptance(family: Family, key: u32, interface: &str) -> Message {
    let mut name = interface.as_bytes().to_vec();
    name.push(0);
    // Without the flag to append, a rule goes to the beginning.
    let mut message = family.message(NEW_RULE, FLAG_CREATE);
    message.text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN).nest(RULE_EXPRESSIONS, |inside| {
        let mut rule = Rule { message: inside, family };
        rule.meta(key, 1).compare(1, true, &name).expression("counter", |_| ()).verdict(ACCEPT, None);
    });
    note(&mut message, &comment(key, interface));
    message
}

/// Has packets dropped that the chain lets run to its end; makes the chain, as iptables would, if it is not there.
pub(in super::super) fn drop_forwarded(family: Family) -> io::Result<()> {
    let mut table = family.message(NEW_TABLE, FLAG_CREATE);
    table.text(1, TABLE);
    let mut chain = family.message(NEW_CHAIN, FLAG_CREATE);
    chain
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, CHAIN)
        .nest(CHAIN_HOOK, |inside| {
            inside.network_number(1, FORWARD).network_number(2, 0);
        })
        .network_number(CHAIN_POLICY, DROP.cast_unsigned())
        .text(CHAIN_KIND, "filter");
    carry_out(vec![table, chain])
}

/// Lets packets from and to these bridges pass the chain, if it is there, and takes back what is for bridges of before.
pub(super) fn let_through(family: Family, interfaces: &[&str]) -> io::Result<()> {
    if !exists(family)? {
        return Ok(());
    }
    let mut missing: BTreeMap<String, (u32, &str)> = BTreeMap::new();
    for interface in interfaces {
        for key in [INCOMING_INTERFACE, OUTGOING_INTERFACE] {
            missing.insert(comment(key, interface), (key, interface));
        }
    }
    let mut messages = Vec::new();
    for rule in commented(family, TABLE, Some(CHAIN))?.iter().filter(|rule| rule.comment.starts_with(MARK)) {
        if missing.remove(&rule.comment).is_none() {
            messages.push(rule.removal(TABLE));
        }
    }
    messages.extend(missing.into_values().map(|(key, interface)| acceptance(family, key, interface)));
    carry_out(messages)
}
