//! Carries traffic to published ports that the packet filter does not redirect: from the host's own loopback,
//! from other containers (TCP), and over IPv6.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, splice};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections of one port at once; further ones wait in the listener's queue.
const MOST_CONNECTIONS: usize = if cfg!(test) { 4 } else { 4096 };
/// Senders of one UDP port at once; the one that has been silent longest makes room.
const MOST_SENDERS: usize = if cfg!(test) { 4 } else { 1024 };
/// A container that does not answer by then is taken for absent.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// As long as connection tracking remembers a UDP exchange.
const SILENCE: Duration = Duration::from_mins(2);
/// Out of file descriptors, say: nothing gets better by trying again at once.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Bytes that a connection holds at most for each of its directions before it is taken for a transfer.
const BUFFER: usize = 8 * 1024;
/// Bytes in a pipe, as the kernel makes it.
const PIPE: usize = 64 * 1024;
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
    let ((from_client, to_client), (from_container, to_container)) = (client.split(), container.split());
    let _ = tokio::try_join!(pass_on(from_client, to_container), pass_on(from_container, to_client));
}

/// Passes on all that comes, and its end.
async fn pass_on(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        from.readable().await?;
        match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all(&buffer[..read]).await?;
                // There is more than fits: a transfer, which is worth a pipe if there is one to be had.
                if read == buffer.len()
                    && let Ok(pipe) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
                {
                    move_on(from.as_ref(), to.as_ref(), &pipe).await?;
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    to.shutdown().await
}

/// Moves all that comes by way of a pipe, within the kernel (splice(2)).
async fn move_on(from: &TcpStream, to: &TcpStream, (out, into): &(OwnedFd, OwnedFd)) -> io::Result<()> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let step =
        |from: BorrowedFd<'_>, to: BorrowedFd<'_>, most| Ok(splice(from, None, to, None, most, flags)?);
    loop {
        // The pipe is empty: it is the socket that there is nothing in.
        let taken = || step(from.as_fd(), into.as_fd(), PIPE);
        let mut left = from.async_io(Interest::READABLE, taken).await?;
        if left == 0 {
            return Ok(());
        }
        while left > 0 {
            match to.async_io(Interest::WRITABLE, || step(out.as_fd(), to.as_fd(), left)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                moved => left -= moved,
            }
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt;

    use super::*;

    const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Starts a proxy to a listener; gives the proxy's address, the listener, and how to stop it.
    async fn tcp_proxy() -> (SocketAddr, TcpListener, CancellationToken, tokio::task::JoinHandle<()>) {
        let behind = TcpListener::bind(ANY_PORT).await.unwrap();
        let front = TcpListener::bind(ANY_PORT).await.unwrap();
        let address = front.local_addr().unwrap();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(tcp(front, behind.local_addr().unwrap(), stop.clone()));
        (address, behind, stop, worker)
    }

    #[tokio::test]
    async fn the_end_of_one_direction_is_passed_on() {
        let (address, behind, _stop, _worker) = tcp_proxy().await;
        let server = tokio::spawn(async move {
            let (mut connection, _) = behind.accept().await.unwrap();
            let mut question = String::new();
            connection.read_to_string(&mut question).await.unwrap();
            connection.write_all(question.to_uppercase().as_bytes()).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, "HELLO");
        server.await.unwrap();
    }

    /// More than fits in the buffers on the way, in both directions at once, at both of whose ends somebody takes their time.
    #[tokio::test]
    async fn transfers_are_whole_in_both_directions() {
        async fn exchange(mut stream: TcpStream, gives: Vec<u8>) -> Vec<u8> {
            let (mut read, mut write) = stream.split();
            let send = async {
                for (number, piece) in gives.chunks(77_777).enumerate() {
                    write.write_all(piece).await.unwrap();
                    if number == 3 {
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                write.shutdown().await.unwrap();
            };
            let receive = async {
                sleep(Duration::from_millis(100)).await;
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.unwrap();
                got
            };
            tokio::join!(send, receive).1
        }
        let content = |salt: u32| -> Vec<u8> {
            (0..5_000_000_u32)
                .map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 24) as u8)
                .collect()
        };
        let (address, behind, _stop, _worker) = tcp_proxy().await;
        let server =
            tokio::spawn(async move { exchange(behind.accept().await.unwrap().0, content(1)).await });
        let client = TcpStream::connect(address).await.unwrap();
        let got = timeout(PATIENCE * 3, exchange(client, content(2))).await.unwrap();
        assert!(got == content(1), "{} bytes", got.len());
        let got = timeout(PATIENCE, server).await.unwrap().unwrap();
        assert!(got == content(2), "{} bytes", got.len());
    }

    /// One answers when the other has said all: a transfer's end is passed on by itself.
    #[tokio::test]
    async fn the_end_of_a_transfer_is_passed_on() {
        let (address, behind, _stop, _worker) = tcp_proxy().await;
        let server = tokio::spawn(async move {
            let mut stream = behind.accept().await.unwrap().0;
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            stream.write_all(&got).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let sent = vec![7; 1_000_000];
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut got)).await.unwrap().unwrap();
        assert!(got == sent, "{} bytes", got.len());
        server.await.unwrap();
    }

    #[tokio::test]
    async fn connections_are_bounded_and_cut_when_it_stops() {
        let (address, behind, stop, worker) = tcp_proxy().await;
        let mut clients = Vec::new();
        let mut carried = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            clients.push(TcpStream::connect(address).await.unwrap());
            carried.push(timeout(PATIENCE, behind.accept()).await.unwrap().unwrap());
        }
        let waiting = TcpStream::connect(address).await.unwrap();
        assert!(timeout(Duration::from_millis(200), behind.accept()).await.is_err());
        drop(clients.pop());
        drop(carried.pop());
        // One has gone, so the next is let in.
        let next = timeout(PATIENCE, behind.accept()).await.unwrap().unwrap();
        stop.cancel();
        timeout(PATIENCE, worker).await.unwrap().unwrap();
        for mut client in clients.into_iter().chain([waiting]) {
            let mut rest = Vec::new();
            // Ended or reset: either is the end.
            let _ = timeout(PATIENCE, client.read_to_end(&mut rest)).await.unwrap();
        }
        drop(next);
        TcpListener::bind(address).await.unwrap();
    }

    #[tokio::test]
    async fn an_absent_container_ends_the_connection() {
        let (address, behind, _stop, _worker) = tcp_proxy().await;
        drop(behind);
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn each_sender_of_datagrams_gets_its_own_answers() {
        let behind = UdpSocket::bind(ANY_PORT).await.unwrap();
        let front = UdpSocket::bind(ANY_PORT).await.unwrap();
        let address = front.local_addr().unwrap();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(udp(front, behind.local_addr().unwrap(), stop.clone()));
        tokio::spawn(async move {
            let mut buffer = [0; 100];
            loop {
                let (length, from) = behind.recv_from(&mut buffer).await.unwrap();
                behind.send_to(&buffer[..length], from).await.unwrap();
            }
        });
        // More senders than are remembered at once; each is served again, although the first had to make room.
        let mut senders = Vec::new();
        for _ in 0..MOST_SENDERS * 2 {
            let sender = UdpSocket::bind(ANY_PORT).await.unwrap();
            sender.connect(address).await.unwrap();
            senders.push(sender);
        }
        for round in 0..2_u8 {
            for (number, sender) in (0_u8..).zip(&senders) {
                let question = [round, number];
                sender.send(&question).await.unwrap();
                let mut answer = [0; 100];
                let length = timeout(PATIENCE, sender.recv(&mut answer)).await.unwrap().unwrap();
                assert_eq!(answer[..length], question);
            }
        }
        stop.cancel();
        timeout(PATIENCE, worker).await.unwrap().unwrap();
        UdpSocket::bind(address).await.unwrap();
    }
}
