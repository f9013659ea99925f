//! The table `ip engine` in a container's network namespace: what asks for names at its loopback's port 53 is led to where the
//! engine listens there, so that the port itself stays free for the container's own programs.

use std::io;
use std::net::SocketAddrV4;

use engine_kernel::etc::EMBEDDED;

use super::rule::OUTPUT;
use super::{DELETE_TABLE, FLAG_CREATE, Family, NEW_TABLE, Protocol, carry_out, protocol_number};

const DOMAIN: u16 = 53;
/// The resolver has an address of IPv4 alone.
const FAMILY: Family = Family::Ipv4;

/// Leads questions for names in the calling thread's network namespace to these listeners, in place of others before.
pub(in super::super) fn lead_questions(udp: SocketAddrV4, tcp: SocketAddrV4) -> io::Result<()> {
    let mut messages = vec![
        // Made in case it is not there, so that deleting it cannot fail.
        FAMILY.table(NEW_TABLE, FLAG_CREATE),
        FAMILY.table(DELETE_TABLE, 0),
        FAMILY.table(NEW_TABLE, FLAG_CREATE),
        FAMILY.base_chain("output", "nat", OUTPUT, -100),
    ];
    for (protocol, target) in [(Protocol::Udp, udp), (Protocol::Tcp, tcp)] {
        messages.push(FAMILY.rule("output", |rule| {
            rule.goes_to_address(EMBEDDED.into())
                .goes_to_port(protocol_number(protocol), DOMAIN)
                .redirect_to(target.into());
        }));
    }
    carry_out(messages)
}
