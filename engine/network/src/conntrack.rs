//! Forgetting exchanges of datagrams that go by where a port led before.
//!
//! Connection tracking decides once for each pair of addresses and ports where packets go. A sender that keeps sending from
//! one port would never reach a container that publishes the port later, or would reach an address that is another's by now.

use std::io;

use engine_kernel::netlink::{FLAG_DUMP, Message, Socket, attribute};

use super::Protocol;
use super::filter::protocol_number;

/// Entries of all families.
const ANY_FAMILY: u8 = 0;
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const ORIGINAL: u16 = 1;
const TRANSPORT: u16 = 2;
const NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;

fn message(kind: u16, flags: u16, family: u8) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, flags);
    message.raw(&[family, 0, 0, 0]);
    message
}

/// The first packet's direction of an exchange, if it was UDP to one of these ports.
fn matching<'a>(entry: &'a [u8], ports: &[u16]) -> Option<&'a [u8]> {
    let original = attribute(entry.get(4..)?, ORIGINAL)?;
    let transport = attribute(original, TRANSPORT)?;
    let port = u16::from_be_bytes(attribute(transport, DESTINATION_PORT)?.get(..2)?.try_into().ok()?);
    let is_udp = attribute(transport, NUMBER)?.first() == Some(&protocol_number(Protocol::Udp));
    (is_udp && ports.contains(&port)).then_some(original)
}

/// Forgets every exchange of UDP to one of these ports of the host.
pub(super) fn forget(ports: &[u16]) -> io::Result<()> {
    let mut stale = Vec::new();
    Socket::netfilter()?.query(message(GET, FLAG_DUMP, ANY_FAMILY), |_, body| {
        let family = body.first().copied().unwrap_or(ANY_FAMILY);
        stale.extend(matching(body, ports).map(|original| (family, original.to_vec())));
    })?;
    let mut socket = Socket::netfilter()?;
    for (family, original) in stale {
        let mut request = message(DELETE, 0, family);
        request.nest(ORIGINAL, |inside| {
            inside.raw(&original);
        });
        match socket.request(request) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
