//! Others who are asked for what the engine does not know: the host's servers, or those that a container names.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use engine_kernel::etc::Server;
use engine_kernel::namespace;
use engine_model::id;
use hickory_proto::op::ResponseCode;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::debug;

use super::question::{Question, Transport};

/// How long one server is waited for, as with Docker.
const PATIENCE: Duration = Duration::from_secs(4);
/// Questions of one container that wait for others at once, as with Docker.
const MOST_OF_ONE: usize = 1024;
const DOMAIN: u16 = 53;
const LARGEST: usize = 65_535;
/// Sockets that are made at once where that takes a thread in the container's network namespace.
const MADE_AT_ONCE: usize = 8;

/// Questions of all containers that wait for others at once. Each takes a file descriptor, of which a quarter is theirs.
static ALL: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(most_of_all()));

fn most_of_all() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(65_536);
    usize::try_from(limit / 4).unwrap_or(MOST_OF_ONE).clamp(64, 16 * MOST_OF_ONE)
}

/// No container takes them all.
fn most_of_one() -> usize {
    MOST_OF_ONE.min(most_of_all() / 8)
}

/// Who one container's questions are passed on to.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<Server>,
    namespace: Arc<File>,
    /// Sockets in the container's network namespace that nobody uses yet.
    spare: Mutex<HashMap<bool, Vec<OwnedFd>>>,
    waiting: Arc<Semaphore>,
}

/// A place among the questions that wait for others.
#[derive(Debug)]
pub(super) struct Place {
    _of_one: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'static>,
}

/// Why a server has not answered.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("it cannot be reached")]
    Unreachable(#[from] io::Error),
    #[error("it has not answered in time")]
    TimedOut(#[from] tokio::time::error::Elapsed),
    #[error("it has answered {0}")]
    Refused(ResponseCode),
}

impl Upstream {
    pub(super) fn new(servers: Vec<Server>, namespace: Arc<File>) -> Self {
        Self { servers, namespace, spare: Mutex::default(), waiting: Arc::new(Semaphore::new(most_of_one())) }
    }

    /// Takes a place, if there is one.
    pub(super) fn admit(&self) -> Option<Place> {
        let of_one = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
        Some(Place { _of_one: of_one, _of_all: ALL.try_acquire().ok()? })
    }

    /// Asks one server after the other, and gives back what the first of them says that knows anything. `leads_out`: the
    /// container has a way to the outside; without one, only servers that it can reach by itself are asked.
    pub(super) async fn ask(
        &self,
        bytes: &[u8],
        question: &Question,
        transport: Transport,
        leads_out: bool,
    ) -> Option<Vec<u8>> {
        for server in self.servers.iter().filter(|server| leads_out || server.inside) {
            match self.exchange(server, bytes, question, transport).await {
                Ok(answer) => return Some(answer),
                Err(error) => debug!(server = %server.address, %error, "A name server was of no use"),
            }
        }
        question.failure(ResponseCode::ServFail)
    }

    async fn exchange(
        &self,
        server: &Server,
        bytes: &[u8],
        question: &Question,
        transport: Transport,
    ) -> Result<Vec<u8>, Silence> {
        // A number of our own: what a container chooses may be known to others.
        let mut number = [0; 2];
        id::random(&mut number);
        let mut request = bytes.to_vec();
        request[..2].copy_from_slice(&number);
        let number = u16::from_be_bytes(number);
        let (code, mut answer) = match transport {
            Transport::Udp => {
                timeout(PATIENCE, self.by_datagram(server, &request, question, number)).await??
            }
            Transport::Tcp => timeout(PATIENCE, self.by_stream(server, &request, question, number)).await??,
        };
        if matches!(code, ResponseCode::ServFail | ResponseCode::Refused) {
            return Err(Silence::Refused(code));
        }
        answer[..2].copy_from_slice(&question.number().to_be_bytes());
        Ok(answer)
    }

    async fn by_datagram(
        &self,
        server: &Server,
        request: &[u8],
        question: &Question,
        number: u16,
    ) -> io::Result<(ResponseCode, Vec<u8>)> {
        let socket = if server.inside {
            let descriptor = self.socket_inside(server.address).await?;
            UdpSocket::from_std(std::net::UdpSocket::from(descriptor))?
        } else {
            UdpSocket::bind((any(server.address), 0)).await?
        };
        socket.connect((server.address, DOMAIN)).await?;
        socket.send(request).await?;
        loop {
            socket.readable().await?;
            let mut answer = Vec::with_capacity(LARGEST);
            match socket.try_recv_buf(&mut answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    // What is an answer to something else may come from somebody who guesses.
                    if let Some(code) = question.is_answered_by(&answer, number) {
                        answer.shrink_to_fit();
                        return Ok((code, answer));
                    }
                }
            }
        }
    }

    async fn by_stream(
        &self,
        server: &Server,
        request: &[u8],
        question: &Question,
        number: u16,
    ) -> io::Result<(ResponseCode, Vec<u8>)> {
        let address = SocketAddr::new(server.address, DOMAIN);
        let mut stream = if server.inside {
            let descriptor = self.make_inside(server.address, SocketType::STREAM, 1).await?.pop();
            let descriptor = descriptor.ok_or(io::ErrorKind::NotFound)?;
            TcpSocket::from_std_stream(std::net::TcpStream::from(descriptor)).connect(address).await?
        } else {
            TcpStream::connect(address).await?
        };
        write_message(&mut stream, request).await?;
        let answer = read_message(&mut stream).await?;
        let code = question.is_answered_by(&answer, number).ok_or(io::ErrorKind::InvalidData)?;
        Ok((code, answer))
    }

    /// A socket for datagrams in the container's network namespace.
    async fn socket_inside(&self, address: IpAddr) -> io::Result<OwnedFd> {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = spare().get_mut(&address.is_ipv4()).and_then(Vec::pop) {
            return Ok(socket);
        }
        let mut made = self.make_inside(address, SocketType::DGRAM, MADE_AT_ONCE).await?;
        let first = made.pop().ok_or(io::ErrorKind::NotFound)?;
        let mut spare = spare();
        let kept = spare.entry(address.is_ipv4()).or_default();
        if kept.is_empty() {
            *kept = made;
        }
        Ok(first)
    }

    async fn make_inside(&self, address: IpAddr, kind: SocketType, count: usize) -> io::Result<Vec<OwnedFd>> {
        let namespace = Arc::clone(&self.namespace);
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let make = move || {
            namespace::inside(&namespace, || {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                (0..count).map(|_| Ok(socket_with(family, kind, flags, None)?)).collect()
            })
        };
        tokio::task::spawn_blocking(make).await.map_err(io::Error::other)?
    }
}

fn any(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Reads one message from a stream: its length in two bytes, and itself.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(message.len() + 2);
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    stream.write_all(&bytes).await
}
