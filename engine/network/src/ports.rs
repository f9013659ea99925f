//! Holding ports of the host: a published port is always a real listening socket, so that nobody else gets it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};

use engine_model::task::vital;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::filter::Redirection;
use super::{Endpoint, NetworkError, PortRequest, Protocol, PublishedPort, ipv6, proxy};

/// Where ports are chosen from: Linux's own range for outgoing connections, as clients of Docker expect.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
const WAITING_CONNECTIONS: i32 = 1024;

/// A port of the host that is ours, with nobody answering yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) port: PublishedPort,
    descriptor: OwnedFd,
}

/// The next port to try when any will do.
#[derive(Debug)]
pub(super) struct Ephemeral {
    next: AtomicU16,
}

impl Default for Ephemeral {
    fn default() -> Self {
        Self { next: (*EPHEMERAL.start()).into() }
    }
}

impl Ephemeral {
    fn take(&self) -> u16 {
        let after = |port: u16| if port >= *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| Some(after(port)))
            .unwrap_or_else(|port| port)
    }
}

fn address_family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn open(port: PublishedPort) -> io::Result<Held> {
    let (kind, protocol) = match port.protocol {
        Protocol::Tcp => (SocketType::STREAM, rustix::net::ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, rustix::net::ipproto::UDP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let descriptor = socket_with(address_family(port.host_ip), kind, flags, Some(protocol))?;
    if port.host_ip.is_ipv6() {
        // The IPv4 side has a socket of its own.
        set_ipv6_v6only(&descriptor, true)?;
    }
    if port.protocol == Protocol::Tcp {
        // Connections of a predecessor that have not faded yet are no obstacle; another listener still is.
        set_socket_reuseaddr(&descriptor, true)?;
    }
    bind(&descriptor, &SocketAddr::new(port.host_ip, port.host_port))?;
    if port.protocol == Protocol::Tcp {
        listen(&descriptor, WAITING_CONNECTIONS)?;
    }
    Ok(Held { port, descriptor })
}

fn is_absent_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// Takes hold of the same port on every address that is wished for.
fn hold_port(request: &PortRequest, host_port: u16) -> Result<Vec<Held>, (PublishedPort, io::Error)> {
    let port = |host_ip| PublishedPort {
        protocol: request.protocol,
        container_port: request.container_port,
        host_ip,
        host_port,
    };
    let on = |host_ip: IpAddr| open(port(host_ip)).map_err(|error| (port(host_ip), error));
    let Some(address) = request.host_ip else {
        let mut held = vec![on(Ipv4Addr::UNSPECIFIED.into())?];
        if !ipv6::is_enabled() {
            return Ok(held);
        }
        match on(Ipv6Addr::UNSPECIFIED.into()) {
            Ok(second) => held.push(second),
            Err((_, error)) if is_absent_family(&error) => {}
            Err(failure) => return Err(failure),
        }
        return Ok(held);
    };
    Ok(vec![on(address)?])
}

/// Takes hold of the port that is wished for, or of any. `endpoint` is who it is for, as errors show it.
pub(super) fn hold(
    endpoint: &str,
    request: &PortRequest,
    ephemeral: &Ephemeral,
) -> Result<Vec<Held>, NetworkError> {
    if let Some(wish) = request.host_port.filter(|port| *port != 0) {
        let last = request.last_host_port.unwrap_or(wish).max(wish);
        for host_port in wish..last {
            match hold_port(request, host_port) {
                Ok(held) => return Ok(held),
                Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err((port, error)) => return Err(refused(endpoint, port, error)),
            }
        }
        return hold_port(request, last).map_err(|(port, source)| refused(endpoint, port, source));
    }
    for _ in EPHEMERAL {
        match hold_port(request, ephemeral.take()) {
            Ok(held) => return Ok(held),
            Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err((port, error)) => return Err(refused(endpoint, port, error)),
        }
    }
    Err(NetworkError::NoPortLeft { endpoint: endpoint.to_owned() })
}

/// Takes hold of a port that was published before.
pub(super) fn hold_again(endpoint: &str, port: PublishedPort) -> Result<Held, NetworkError> {
    open(port).map_err(|source| refused(endpoint, port, source))
}

fn refused(endpoint: &str, port: PublishedPort, source: io::Error) -> NetworkError {
    let endpoint = endpoint.to_owned();
    let PublishedPort { protocol, host_ip: address, host_port, .. } = port;
    if source.kind() == io::ErrorKind::AddrInUse {
        return NetworkError::PortTaken { endpoint, address, port: host_port };
    }
    NetworkError::Listen { endpoint, protocol, address, port: host_port, source }
}

/// A published port at work.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) port: PublishedPort,
    pub(super) target: SocketAddr,
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

impl Publication {
    /// Begins to answer.
    pub(super) fn start(held: Held, endpoint: &Endpoint) -> Self {
        let Held { port, descriptor } = held;
        let target = SocketAddr::new(endpoint.behind(port.host_ip), port.container_port);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let worker = vital(async move {
            let failure = match port.protocol {
                Protocol::Tcp => match tokio::net::TcpListener::from_std(descriptor.into()) {
                    Ok(listener) => return proxy::tcp(listener, target, stopped).await,
                    Err(error) => error,
                },
                Protocol::Udp => match tokio::net::UdpSocket::from_std(descriptor.into()) {
                    Ok(socket) => return proxy::udp(socket, target, stopped).await,
                    Err(error) => error,
                },
            };
            warn!(error = %failure, port = port.host_port, "The proxy of a published port could not start");
        });
        Self { port, target, stop, worker }
    }

    /// How the packet filter leads to it, as far as it does.
    pub(super) fn redirection(&self) -> Option<Redirection> {
        Redirection::of(self.port, self.target.ip())
    }

    /// Cuts all connections and lets the port go; both have happened when this returns.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.worker.await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn request(host_ip: Option<&str>, host_port: Option<u16>) -> PortRequest {
        PortRequest {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            last_host_port: None,
        }
    }

    #[test]
    fn of_a_range_the_first_free_port_is_taken() {
        let ephemeral = Ephemeral::default();
        let first = hold("web", &request(Some("127.0.0.1"), None), &ephemeral).unwrap();
        let taken = first[0].port.host_port;
        let range =
            |last| PortRequest { last_host_port: Some(last), ..request(Some("127.0.0.1"), Some(taken)) };
        let next = hold("web", &range(taken + 20), &ephemeral).unwrap();
        assert!((taken + 1..=taken + 20).contains(&next[0].port.host_port));
        assert!(matches!(hold("web", &range(taken), &ephemeral), Err(NetworkError::PortTaken { .. })));
    }

    #[test]
    fn any_port_is_one_of_the_ephemeral_range_and_ours_alone() {
        let ephemeral = Ephemeral::default();
        let held = hold("web", &request(Some("127.0.0.1"), None), &ephemeral).unwrap();
        assert!(EPHEMERAL.contains(&held[0].port.host_port));
        let again = request(Some("127.0.0.1"), Some(held[0].port.host_port));
        let error = hold("web", &again, &ephemeral).unwrap_err();
        let expected = format!(
            "driver failed programming external connectivity on endpoint web: Bind for 127.0.0.1:{} failed: port is already allocated",
            held[0].port.host_port
        );
        assert_eq!(error.to_string(), expected);
        drop(held);
        assert_eq!(hold("web", &again, &ephemeral).unwrap().len(), 1);
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let wish = request(Some("192.0.2.1"), Some(40_000));
        let error = hold("web", &wish, &Ephemeral::default()).unwrap_err();
        assert!(matches!(error, NetworkError::Listen { .. }));
        assert!(error.to_string().ends_with("on endpoint web: listen tcp 192.0.2.1:40000"));
    }

    #[test]
    fn the_ephemeral_range_begins_again_at_its_end() {
        let ephemeral = Ephemeral { next: (*EPHEMERAL.end()).into() };
        assert_eq!(ephemeral.take(), 60_999);
        assert_eq!(ephemeral.take(), 32_768);
    }
}
