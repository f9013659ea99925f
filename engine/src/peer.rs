//! The client at the other end of a connection: its bytes, and whether it is still there.
//!
//! A client that has closed its half of the connection may still read; one that is gone does not. On a unix socket the
//! kernel tells these apart at once. Over TCP a client that is gone looks like one that has closed its half until the kernel
//! has asked in vain, or is told that there is no such connection: hence the keepalive.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

/// How long a TCP connection may be silent before the kernel asks, and how often it asks in vain: as dockerd.
const SILENCE: Duration = Duration::from_secs(15);
const QUESTIONS: u32 = 9;

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// One client, by its socket. Cheap to clone; the socket is closed with the last of them.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Socket>);

impl From<UnixStream> for Peer {
    fn from(stream: UnixStream) -> Self {
        Self(Arc::new(Socket::Unix(stream)))
    }
}

impl From<TcpStream> for Peer {
    fn from(stream: TcpStream) -> Self {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "Could not set the options of a connection");
        }
        Self(Arc::new(Socket::Tcp(stream)))
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Interactive sessions send single keys.
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

impl Peer {
    /// Waits until the client sends no more: it has closed its half of the connection, or is gone.
    pub async fn ended(&self) {
        // On Linux an interest in priority data is one in the end of the stream; such data itself is not asked for.
        while let Ok(ready) = self.ready(Interest::PRIORITY).await
            && !ready.is_read_closed()
        {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the client is gone.
    pub async fn gone(&self) {
        let watch = self.as_fd().try_clone_to_owned().and_then(watch_for_nothing);
        let watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(%error, "Could not watch a connection for its end");
                return std::future::pending().await;
            }
        };
        loop {
            match watch.ready(Interest::PRIORITY | Interest::ERROR).await {
                Ok(mut guard) if guard.ready().is_read_closed() || guard.ready().is_error() => {
                    guard.retain_ready();
                    return;
                }
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return,
            }
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match &*self.0 {
            Socket::Unix(stream) => stream.ready(interest).await,
            Socket::Tcp(stream) => stream.ready(interest).await,
        }
    }

    /// Tries until the socket is ready for it.
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(match &*self.0 {
                Socket::Unix(stream) => stream.poll_write_ready(context),
                Socket::Tcp(stream) => stream.poll_write_ready(context),
            })?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

/// The kernel always tells of an error, or of the end of both directions.
#[expect(unsafe_code, reason = "for the sake of descriptors that change while they are registered")]
fn watch_for_nothing(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // An interest in errors would be registered as one in reading, whose end is told when the client closes its half.
    // SAFETY: the descriptor is owned by what is made here, and stays what it is.
    unsafe { AsyncFd::register_with_interest(socket, Interest::PRIORITY) }.map_err(io::Error::from)
}

/// Waits until a client is gone, if there is a way to know.
pub async fn gone(peer: Option<&Peer>) {
    match peer {
        Some(peer) => peer.gone().await,
        None => std::future::pending().await,
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.0 {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(match &*self.0 {
                Socket::Unix(stream) => stream.poll_read_ready(context),
                Socket::Tcp(stream) => stream.poll_read_ready(context),
            })?;
            let room = buffer.initialize_unfilled();
            let read = match &*self.0 {
                Socket::Unix(stream) => stream.try_read(room),
                Socket::Tcp(stream) => stream.try_read(room),
            };
            match read {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| match socket {
            Socket::Unix(stream) => stream.try_write(bytes),
            Socket::Tcp(stream) => stream.try_write(bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| match socket {
            Socket::Unix(stream) => stream.try_write_vectored(pieces),
            Socket::Tcp(stream) => stream.try_write_vectored(pieces),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Write) {
            // It has been closed from the other side.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Lets the runtime see what the kernel has to tell.
    async fn a_while() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    #[tokio::test]
    async fn half_a_connection_is_still_one() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let mut peer = Peer::from(ours);
        let watched = peer.clone();
        let mut gone = Box::pin(watched.gone());
        client.write_all(b"last words").await.unwrap();
        a_while().await;
        assert_eq!((peer.ended().now_or_never(), gone.as_mut().now_or_never()), (None, None));
        client.shutdown().await.unwrap();
        peer.ended().await;
        a_while().await;
        assert_eq!(gone.as_mut().now_or_never(), None);
        peer.write_all(b"an answer").await.unwrap();
        let mut answer = [0; 9];
        client.read_exact(&mut answer).await.unwrap();
        drop(client);
        gone.await;
        // What it had said can be read still.
        let mut words = String::new();
        peer.read_to_string(&mut words).await.unwrap();
        assert_eq!(words, "last words");
    }

    /// A client that is not there any more resets the connection when it is asked.
    #[tokio::test]
    async fn a_reset_is_the_end_of_both_halves() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = Peer::from(listener.accept().await.unwrap().0);
        let mut gone = Box::pin(peer.gone());
        a_while().await;
        assert_eq!(gone.as_mut().now_or_never(), None);
        client.set_zero_linger().unwrap();
        drop(client);
        gone.await;
        peer.ended().await;
    }
}
