//! Connections that the host makes for us.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::Facts;
use super::{Session, SshError};

/// A connection that the host made: bytes in, bytes out. It ends with its session, and when that was lost it ends with an
/// error instead of an end of file.
pub struct ForwardedStream {
    stream: ChannelStream<Msg>,
    facts: Arc<Facts>,
}

impl fmt::Debug for ForwardedStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ForwardedStream").finish_non_exhaustive()
    }
}

impl Session {
    /// Lets the host connect to a TCP port.
    pub async fn open_tcp(&self, host: &str, port: u16) -> Result<ForwardedStream, SshError> {
        let what = format!("a connection to port {port} of `{host}`");
        let channel = self.open_tcp_channel(&what, host, port).await?;
        Ok(ForwardedStream { stream: channel.into_stream(), facts: self.facts().clone() })
    }

    /// Lets the host connect to a unix socket.
    pub async fn open_unix(&self, path: &str) -> Result<ForwardedStream, SshError> {
        let channel = self.open_unix_channel(&format!("a connection to the socket `{path}`"), path).await?;
        Ok(ForwardedStream { stream: channel.into_stream(), facts: self.facts().clone() })
    }
}

impl ForwardedStream {
    fn lost(&self) -> Option<io::Error> {
        let reason = self.facts.lost()?;
        Some(io::Error::new(io::ErrorKind::ConnectionReset, format!("The SSH connection was lost: {reason}")))
    }
}

impl AsyncRead for ForwardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() == before
            && buffer.remaining() > 0
            && let Some(error) = self.lost()
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ForwardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
