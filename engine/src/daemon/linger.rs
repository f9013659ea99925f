//! A connection that is closed without losing what was said last.
//!
//! A socket that is closed while the client's bytes are unread is reset, and takes the answer with it. So, after our
//! half of the connection is closed, what still comes is read, within bounds, until the client closes its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a client may take to close its half: enough for a round trip around the world and a slow reader.
const LONGEST: Duration = Duration::from_secs(2);
/// How much is read in that time.
const MOST_BYTES: usize = 64 << 20;
const PIECE: usize = 16 * 1024;

/// Says of a connection that it has become the stream of a process, whose ends are its own business.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenOver(Arc<AtomicBool>);

impl TakenOver {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream that lingers when it is shut down.
#[derive(Debug)]
pub(super) struct Lingering<S> {
    stream: S,
    taken_over: TakenOver,
    closing: Closing,
    /// The client has closed its half.
    ended: bool,
}

#[derive(Debug)]
enum Closing {
    NotYet,
    Reading { left: usize, until: Pin<Box<Sleep>> },
    Done,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S, taken_over: TakenOver) -> Self {
        Self { stream, taken_over, closing: Closing::NotYet, ended: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.ended |= result.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0);
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.closing, Closing::NotYet) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.closing = if this.ended || this.taken_over.get() {
                Closing::Done
            } else {
                Closing::Reading { left: MOST_BYTES, until: Box::pin(tokio::time::sleep(LONGEST)) }
            };
        }
        if let Closing::Reading { left, until } = &mut this.closing {
            let mut piece = [0; PIECE];
            while *left > 0 && until.as_mut().poll(context).is_pending() {
                let mut buffer = ReadBuf::new(&mut piece);
                // Whatever is wrong with the stream now, there is nothing more to lose.
                if ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)).is_err() {
                    break;
                }
                let count = buffer.filled().len();
                if count == 0 {
                    break;
                }
                *left = left.saturating_sub(count);
            }
            this.closing = Closing::Done;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A shutdown has read what the client still sent, and ends when the client closes.
    #[tokio::test]
    async fn what_still_comes_is_read() {
        let (client, server) = tokio::io::duplex(64);
        let mut server = Lingering::new(server, TakenOver::default());
        let talking = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(client);
            writer.write_all(&vec![7; 100_000]).await.unwrap();
            let mut answer = String::new();
            reader.read_to_string(&mut answer).await.unwrap();
            writer.shutdown().await.unwrap();
            answer
        });
        server.write_all(b"no").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(talking.await.unwrap(), "no");
    }

    /// A client that stays costs a bounded wait; a stream of a process costs none.
    #[tokio::test]
    async fn a_client_that_stays_is_left() {
        let (client, server) = tokio::io::duplex(64);
        Lingering::new(server, TakenOver::default()).shutdown().await.unwrap();
        drop(client);
        let (client, server) = tokio::io::duplex(64);
        let taken_over = TakenOver::default();
        taken_over.set();
        let mut server = Lingering::new(server, taken_over);
        let mut closing = std::pin::pin!(server.shutdown());
        let at_once = std::future::poll_fn(|context| Poll::Ready(closing.as_mut().poll(context).is_ready()));
        assert!(at_once.await);
        drop(client);
    }
}
