//! Tells the others on a link who has an address of IPv6 now: until it is told, who had to do with its holder before sends to that one.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;
use std::time::Duration;

use engine_kernel::namespace;
use engine_kernel::netlink::Socket;
use rustix::net::sockopt::set_ipv6_multicast_hops;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with};
use tracing::debug;

use super::error::failed;
use super::links::{self, HardwareAddress};
use super::{Endpoint, NetworkError, blocking, bridge, inside};

/// As dockerd does it. A bridge takes a moment until it passes on what comes from an interface that has just come up.
const TIMES: usize = 3;
const BETWEEN: Duration = Duration::from_millis(100);

/// Announces a container's address of IPv6, if it has one, some times in the background.
pub(super) fn in_background(namespace: &Path, endpoint: &Endpoint) {
    let Some(place) = endpoint.ipv6 else { return };
    let (namespace, interface) = (namespace.to_owned(), endpoint.interface.clone());
    let mac_address = endpoint.mac_address.clone();
    let once = move || -> Result<(), NetworkError> {
        let hardware_address = bridge::parse_hardware_address(&mac_address)?;
        let namespace = inside::open_namespace(&namespace)?;
        namespace::inside(&namespace, || {
            let link = links::find(&mut Socket::route()?, &interface)?.ok_or(io::ErrorKind::NotFound)?;
            announce(link.index, place.address, hardware_address)
        })
        .map_err(failed("announce a container's address"))
    };
    tokio::spawn(async move {
        for _ in 0..TIMES {
            if let Err(error) = blocking(once.clone()).await {
                // The container has ended, perhaps.
                debug!(error = engine_model::chain(&error), "An address of IPv6 is not announced");
                return;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    });
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What comes from farther away is not believed.
const FROM_THIS_LINK: u32 = 255;

/// Sends a neighbour advertisement (RFC 4861) that nobody has asked for, by an interface of the calling thread's network namespace.
fn announce(interface: u32, address: Ipv6Addr, hardware_address: HardwareAddress) -> io::Result<()> {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_HARDWARE_ADDRESS: [u8; 2] = [2, 1];
    let socket =
        socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6))?;
    set_ipv6_multicast_hops(&socket, FROM_THIS_LINK)?;
    bind(&socket, &SocketAddrV6::new(address, 0, 0, interface))?;
    // The kernel fills in the checksum.
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend(TARGET_HARDWARE_ADDRESS);
    message.extend(hardware_address);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrV6::new(ALL_NODES, 0, 0, interface))?;
    Ok(())
}
