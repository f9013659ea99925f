//! The chain in which iptables keeps rules for forwarded packets: a firewall of the host may drop there what it does not
//! know, and what we accept in our own table is not accepted in others'.
//!
//! Two rules for each bridge go to its beginning, as Docker does it; what may come into a bridge is still decided in our
//! table. They have the very form that iptables itself writes, so that it goes on understanding its chain.

use std::collections::BTreeSet;
use std::io;

use engine_kernel::netlink::{FLAG_CREATE, FLAG_DUMP, Socket, attribute, text};

use super::{
    ACCEPT, BATCH_BEGIN, BATCH_END, DROP, FORWARD, INCOMING_INTERFACE, Message, NEW_CHAIN, NEW_RULE,
    NEW_TABLE, OUTGOING_INTERFACE, Rule, batch, message,
};

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// Comments of our rules begin so.
const MARK: &str = "engine ";

const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_KIND: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;

/// A packet that comes from, or goes to, an interface.
fn comment(key: u32, interface: &str) -> String {
    let direction = if key == INCOMING_INTERFACE { "from" } else { "to" };
    format!("{MARK}{direction} {interface}")
}

fn is(content: &[u8], kind: u16, wanted: &str) -> bool {
    attribute(content, kind).and_then(text) == Some(wanted)
}

fn exists() -> io::Result<bool> {
    let mut found = false;
    Socket::netfilter()?.query(message(GET_CHAIN, FLAG_DUMP), |_, body| {
        let content = body.get(4..).unwrap_or_default();
        found |= is(content, CHAIN_TABLE, TABLE)
            && is(content, CHAIN_NAME, CHAIN)
            && attribute(content, CHAIN_HOOK).is_some();
    })?;
    Ok(found)
}

/// Our rules there: the kernel's number for each, and its comment.
fn ours() -> io::Result<Vec<(Vec<u8>, String)>> {
    let mut request = message(GET_RULE, FLAG_DUMP);
    request.text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN);
    let mut rules = Vec::new();
    Socket::netfilter()?.query(request, |_, body| {
        let content = body.get(4..).unwrap_or_default();
        if !is(content, RULE_TABLE, TABLE) || !is(content, RULE_CHAIN, CHAIN) {
            return;
        }
        // User data is a list of (kind, length, value); a comment is of kind 0.
        let comment = match attribute(content, RULE_USER_DATA) {
            Some([0, length, rest @ ..]) => rest.get(..usize::from(*length)).and_then(text),
            _ => None,
        };
        if let (Some(handle), Some(comment)) = (attribute(content, RULE_HANDLE), comment)
            && comment.starts_with(MARK)
        {
            rules.push((handle.to_vec(), comment.to_owned()));
        }
    })?;
    Ok(rules)
}

fn removal(handle: &[u8]) -> Message {
    let mut message = message(DELETE_RULE, 0);
    message.text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN).bytes(RULE_HANDLE, handle);
    message
}

fn acceptance(key: u32, interface: &str) -> Message {
    let mut name = interface.as_bytes().to_vec();
    name.push(0);
    let mut note = comment(key, interface).into_bytes();
    note.push(0);
    let mut user_data = vec![0, u8::try_from(note.len()).unwrap_or(0)];
    user_data.extend(note);
    // Without the flag to append, a rule goes to the beginning.
    let mut message = message(NEW_RULE, FLAG_CREATE);
    message
        .text(RULE_TABLE, TABLE)
        .text(RULE_CHAIN, CHAIN)
        .nest(RULE_EXPRESSIONS, |inside| {
            let mut rule = Rule(inside);
            rule.meta(key, 1).compare(1, true, &name).expression("counter", |_| ()).verdict(ACCEPT, None);
        })
        .bytes(RULE_USER_DATA, &user_data);
    message
}

/// Has packets dropped that the chain lets run to its end; makes the chain, as iptables would, if it is not there.
pub(in super::super) fn drop_forwarded() -> io::Result<()> {
    let mut table = message(NEW_TABLE, FLAG_CREATE);
    table.text(1, TABLE);
    let mut chain = message(NEW_CHAIN, FLAG_CREATE);
    chain
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, CHAIN)
        .nest(CHAIN_HOOK, |inside| {
            inside.network_number(1, FORWARD).network_number(2, 0);
        })
        .network_number(CHAIN_POLICY, DROP.cast_unsigned())
        .text(CHAIN_KIND, "filter");
    Socket::netfilter()?.transaction(batch(BATCH_BEGIN), vec![table, chain], batch(BATCH_END))
}

/// Lets packets from and to these bridges pass the chain, if it is there, and takes back what is for bridges of before.
pub(in super::super) fn let_through(interfaces: &[String]) -> io::Result<()> {
    if !exists()? {
        return Ok(());
    }
    let wanted: Vec<(u32, &String)> = interfaces
        .iter()
        .flat_map(|interface| [(INCOMING_INTERFACE, interface), (OUTGOING_INTERFACE, interface)])
        .collect();
    let present = ours()?;
    let is_right = present.len() == wanted.len()
        && present.iter().map(|(_, comment)| comment.clone()).collect::<BTreeSet<_>>()
            == wanted.iter().map(|(key, interface)| comment(*key, interface)).collect();
    if is_right {
        return Ok(());
    }
    let mut messages: Vec<Message> = present.iter().map(|(handle, _)| removal(handle)).collect();
    messages.extend(wanted.into_iter().map(|(key, interface)| acceptance(key, interface)));
    Socket::netfilter()?.transaction(batch(BATCH_BEGIN), messages, batch(BATCH_END))
}
