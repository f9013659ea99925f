//! Carries traffic to published ports that the packet filter does not redirect: from the host's own loopback,
//! from other containers (TCP), and over IPv6.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections of one port at once; further ones wait in the listener's queue.
const MOST_CONNECTIONS: usize = 4096;
/// Senders of one UDP port at once; the one that has been silent longest makes room.
const MOST_SENDERS: usize = 1024;
/// A container that does not answer by then is taken for absent.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// As long as connection tracking remembers a UDP exchange.
const SILENCE: Duration = Duration::from_mins(2);
/// Out of file descriptors, say: nothing gets better by trying again at once.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
const LARGEST_DATAGRAM: usize = 65_535;

/// Accepts and carries connections until told to stop; then all are cut and the port is free.
pub(super) async fn tcp(listener: TcpListener, target: SocketAddr, stop: CancellationToken) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            accepted = listener.accept(), if sessions.len() < MOST_CONNECTIONS => match accepted {
                Ok((client, _)) => {
                    sessions.spawn(carry(client, target));
                }
                Err(error) => {
                    debug!(%error, "Could not accept a connection to a published port");
                    sleep(AFTER_FAILURE).await;
                }
            },
        }
    }
    drop(listener);
    sessions.shutdown().await;
}

async fn carry(mut client: TcpStream, target: SocketAddr) {
    let connected = timeout(CONNECT_PATIENCE, TcpStream::connect(target)).await;
    let mut container = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(container) => container,
        Err(error) => {
            debug!(%error, %target, "Could not reach a container for a connection to a published port");
            return;
        }
    };
    let _ = client.set_nodelay(true);
    let _ = container.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut container).await;
}

struct Sender {
    socket: Arc<UdpSocket>,
    last_heard: Arc<AtomicU64>,
    answers: AbortHandle,
}

/// Passes datagrams on until told to stop, with a socket for each sender, so that answers find their way back.
pub(super) async fn udp(front: UdpSocket, target: SocketAddr, stop: CancellationToken) {
    let front = Arc::new(front);
    let started = Instant::now();
    let mut senders: HashMap<SocketAddr, Sender> = HashMap::new();
    let mut readers = JoinSet::new();
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    let mut cleaning = tokio::time::interval(SILENCE / 8);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = readers.join_next(), if !readers.is_empty() => {}
            _ = cleaning.tick() => {
                let oldest = age(started).saturating_sub(milliseconds(SILENCE));
                senders.retain(|_, sender| {
                    let heard = sender.last_heard.load(Ordering::Relaxed) >= oldest && !sender.answers.is_finished();
                    if !heard {
                        sender.answers.abort();
                    }
                    heard
                });
            }
            received = front.recv_from(&mut buffer) => {
                let (length, from) = match received {
                    Ok(received) => received,
                    Err(error) => {
                        debug!(%error, "Could not receive a datagram on a published port");
                        sleep(AFTER_FAILURE).await;
                        continue;
                    }
                };
                if senders.get(&from).is_none_or(|sender| sender.answers.is_finished()) {
                    make_room(&mut senders);
                    match connect(target).await {
                        Ok(socket) => {
                            let socket = Arc::new(socket);
                            let last_heard = Arc::new(AtomicU64::new(age(started)));
                            let answers = readers.spawn(answer(
                                front.clone(), socket.clone(), from, last_heard.clone(), started,
                            ));
                            senders.insert(from, Sender { socket, last_heard, answers });
                        }
                        Err(error) => {
                            debug!(%error, %target, "Could not reach a container for a published port");
                            continue;
                        }
                    }
                }
                if let Some(sender) = senders.get(&from) {
                    sender.last_heard.store(age(started), Ordering::Relaxed);
                    // Like any datagram on its way, it may be lost.
                    let _ = sender.socket.try_send(&buffer[..length]);
                }
            }
        }
    }
    readers.shutdown().await;
}

fn age(started: Instant) -> u64 {
    milliseconds(started.elapsed())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn make_room(senders: &mut HashMap<SocketAddr, Sender>) {
    if senders.len() < MOST_SENDERS {
        return;
    }
    let silent = senders.iter().min_by_key(|(_, sender)| sender.last_heard.load(Ordering::Relaxed));
    if let Some(sender) = silent.map(|(address, _)| *address).and_then(|address| senders.remove(&address)) {
        sender.answers.abort();
    }
}

async fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    // Wait until it can be written, so that the first datagram is not lost for nothing.
    socket.writable().await?;
    Ok(socket)
}

async fn answer(
    front: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    last_heard: Arc<AtomicU64>,
    started: Instant,
) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                last_heard.store(age(started), Ordering::Relaxed);
                let _ = front.send_to(&buffer[..length], to).await;
            }
            // Nobody listens in the container, or not yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}
