//! The engine's own resolver: answers a container on user-defined networks that asks for names at 127.0.0.11.
//!
//! ```text
//! container's network namespace                              the engine
//! program ── 127.0.0.11:53 ── packet filter ── 127.0.0.11:PORT ── question ─┬─ names of its networks
//!                                                                           └─ upstream: the host's servers, or its own
//! ```
//!
//! The sockets are made inside the container's network namespace and answered by tasks of the daemon, so that nothing of the engine
//! runs in there. A container that floods its resolver has its own tasks wait, and nobody else's.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine_kernel::etc::{DnsRequest, EMBEDDED, Embedded};
use engine_kernel::{etc, namespace};
use engine_model::Naming;
use hickory_proto::op::ResponseCode;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::error::failed;
use super::names::Names;
use super::{NetworkError, conntrack, filter, inside};

mod question;
#[cfg(test)]
mod tests;
mod upstream;

use question::{Asker, Outcome, Question, Transport};
use upstream::{Place, Upstream, read_message, write_message};

/// Nobody asks at such length by datagram; what is cut off there is malformed.
const LARGEST_QUESTION: usize = 4096;
/// Connections of one container at once; further ones wait in the listener's queue.
const MOST_CONNECTIONS: usize = 64;
/// A connection on which nothing is asked for so long is closed.
const SILENCE: Duration = Duration::from_secs(10);
/// Out of file descriptors, say: nothing gets better by trying again at once.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
const DOMAIN: u16 = 53;

/// A container's resolver at work, until it is dropped.
#[derive(Debug)]
pub(super) struct Resolver {
    stop: CancellationToken,
    namespace: (u64, u64),
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Resolver {
    /// Whether it answers in this network namespace.
    pub(super) fn is_in(&self, namespace: &Path) -> bool {
        number(namespace).is_ok_and(|number| number == self.namespace)
    }

    /// Begins to answer.
    pub(super) fn start(opened: Opened, container: String, names: Arc<Names>) -> io::Result<Self> {
        let Opened { udp, tcp, namespace, number, embedded } = opened;
        let Embedded { servers, has_dots, .. } = embedded;
        let desk = Arc::new(Desk {
            container,
            names,
            has_dots,
            upstream: Upstream::new(servers, Arc::new(namespace)),
            stop: CancellationToken::new(),
        });
        let udp = Arc::new(tokio::net::UdpSocket::from_std(udp)?);
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let stop = desk.stop.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(datagrams(udp, Arc::clone(&desk))));
        tokio::spawn(stop.clone().run_until_cancelled_owned(connections(tcp, desk)));
        Ok(Self { stop, namespace: number })
    }
}

fn number(namespace: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(namespace)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What a resolver listens with, in the container's network namespace.
#[derive(Debug)]
pub(super) struct Opened {
    udp: UdpSocket,
    tcp: TcpListener,
    namespace: File,
    number: (u64, u64),
    embedded: Embedded,
}

/// Opens a container's resolver and has the container ask it. What has been answered by a daemon before is forgotten.
pub(super) fn open(path: &Path, naming: &Naming) -> Result<Opened, NetworkError> {
    let wishes = &naming.wishes;
    let request = DnsRequest {
        servers: wishes.servers.clone(),
        search: wishes.search.clone(),
        options: wishes.options.clone(),
    };
    let embedded = etc::embedded(&request);
    let number = number(path).map_err(|source| NetworkError::Namespace { path: path.to_owned(), source })?;
    let namespace = inside::open_namespace(path)?;
    let sockets = namespace::inside(&namespace, || {
        let udp = UdpSocket::bind((EMBEDDED, 0))?;
        let tcp = TcpListener::bind((EMBEDDED, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        filter::lead_questions(at(udp.local_addr()?)?, at(tcp.local_addr()?)?)?;
        // Who goes on asking from one port would be led to where nobody listens any more.
        if let Err(error) = conntrack::forget(&[DOMAIN]) {
            debug!(%error, "Some questions for names may get lost for a while");
        }
        Ok((udp, tcp))
    });
    let (udp, tcp) = sockets.map_err(failed("have the container's questions for names answered"))?;
    let write = |current: &str| {
        if etc::is_untouched(current, &request) { embedded.text.clone() } else { current.to_owned() }
    };
    etc::change(&naming.resolver_file, write)
        .map_err(failed(format!("write `{}`", naming.resolver_file.display())))?;
    Ok(Opened { udp, tcp, namespace, number, embedded })
}

fn at(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// What answers all questions of one container.
#[derive(Debug)]
struct Desk {
    container: String,
    names: Arc<Names>,
    has_dots: bool,
    upstream: Upstream,
    stop: CancellationToken,
}

impl Desk {
    /// A panic at a message that somebody has thought out costs the answer to that.
    fn consider(&self, bytes: &[u8], transport: Transport) -> Outcome {
        let asker = Asker { container: &self.container, names: &self.names, has_dots: self.has_dots };
        catch_unwind(AssertUnwindSafe(|| question::consider(bytes, transport, &asker))).unwrap_or_else(|_| {
            error!(container = %self.container, "A question for a name could not be looked at");
            Outcome::Nothing
        })
    }

    /// A question is passed on only if not too many of them wait already.
    fn admit(&self, question: &Question) -> Result<Place, Option<Vec<u8>>> {
        self.upstream.admit().ok_or_else(|| {
            debug!(container = %self.container, "Too many questions for names wait for others");
            question.failure(ResponseCode::Refused)
        })
    }

    async fn ask_others(
        &self,
        _place: Place,
        bytes: &[u8],
        question: &Question,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let leads_out = self.names.leads_out(&self.container);
        self.upstream.ask(bytes, question, transport, leads_out).await
    }
}

async fn datagrams(socket: Arc<tokio::net::UdpSocket>, desk: Arc<Desk>) {
    let mut buffer = vec![0; LARGEST_QUESTION];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "Could not receive a question for a name");
                sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let bytes = &buffer[..length];
        match desk.consider(bytes, Transport::Udp) {
            Outcome::Nothing => {}
            Outcome::Answer(answer) => {
                // Whoever has gone is not waited for.
                let _ = socket.send_to(&answer, from).await;
            }
            Outcome::Forward(question) => {
                let place = match desk.admit(&question) {
                    Ok(place) => place,
                    Err(refusal) => {
                        if let Some(refusal) = refusal {
                            let _ = socket.send_to(&refusal, from).await;
                        }
                        continue;
                    }
                };
                let (bytes, desk, socket) = (bytes.to_vec(), Arc::clone(&desk), Arc::clone(&socket));
                let stop = desk.stop.clone();
                tokio::spawn(stop.run_until_cancelled_owned(async move {
                    if let Some(answer) = desk.ask_others(place, &bytes, &question, Transport::Udp).await {
                        let _ = socket.send_to(&answer, from).await;
                    }
                }));
            }
        }
    }
}

async fn connections(listener: tokio::net::TcpListener, desk: Arc<Desk>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = Arc::clone(&desk);
                let stop = desk.stop.clone();
                tokio::spawn(stop.run_until_cancelled_owned(async move {
                    converse(stream, &desk).await;
                    drop(place);
                }));
            }
            Err(error) => {
                debug!(%error, "Could not accept a connection for names");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Answers on one connection, one question after the other.
async fn converse(mut stream: TcpStream, desk: &Desk) {
    while let Ok(Ok(bytes)) = timeout(SILENCE, read_message(&mut stream)).await {
        let answer = match desk.consider(&bytes, Transport::Tcp) {
            Outcome::Nothing => return,
            Outcome::Answer(answer) => Some(answer),
            Outcome::Forward(question) => match desk.admit(&question) {
                Ok(place) => desk.ask_others(place, &bytes, &question, Transport::Tcp).await,
                Err(refusal) => refusal,
            },
        };
        let Some(answer) = answer else { return };
        if !matches!(timeout(SILENCE, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}
