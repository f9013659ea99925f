//! Connections that the host makes for us, and ports of ours that lead to them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, select_all};
use futures_util::stream::FuturesUnordered;
use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::session::Facts;
use super::{Session, SshError};

/// How long nobody is let in after that has failed; as a rule there are too many already.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A port of ours that leads somewhere through the host: what `ssh -L` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    bind: Bind,
    port: u16,
    to: Destination,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bind {
    /// This computer alone, in both families.
    Loopback,
    /// Whoever can reach us.
    Everybody,
    Address(String),
}

/// Where a forward leads to, as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    Tcp(String, u16),
    Unix(String),
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => formatter.write_str(path),
        }
    }
}

impl Forward {
    /// Reads `[BIND:]PORT:HOST:PORT` or `[BIND:]PORT:/SOCKET`, with addresses of IPv6 in brackets. Port 0 is any free one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while parts.last().is_none_or(|part: &&str| !part.starts_with('/')) {
            let (part, more) = if let Some(bracketed) = rest.strip_prefix('[') {
                let (address, more) = bracketed.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                (address, Some(more.strip_prefix(':')).filter(|_| !more.is_empty()))
            } else if rest.starts_with('/') {
                (rest, None)
            } else {
                match rest.split_once(':') {
                    Some((part, more)) => (part, Some(Some(more))),
                    None => (rest, None),
                }
            };
            parts.push(part);
            match more {
                Some(more) => rest = more?,
                None => break,
            }
        }
        let (bind, port, to) = match parts[..] {
            [port, socket] if socket.starts_with('/') => (None, port, Destination::Unix(socket.to_owned())),
            [bind, port, socket] if socket.starts_with('/') => {
                (Some(bind), port, Destination::Unix(socket.to_owned()))
            }
            [port, host, remote] => (None, port, Self::tcp(host, remote)?),
            [bind, port, host, remote] => (Some(bind), port, Self::tcp(host, remote)?),
            _ => return None,
        };
        let bind = match bind {
            None | Some("localhost") => Bind::Loopback,
            Some("" | "*") => Bind::Everybody,
            Some(address) => Bind::Address(address.to_owned()),
        };
        Some(Self { bind, port: port.parse().ok()?, to })
    }

    fn tcp(host: &str, port: &str) -> Option<Destination> {
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| Destination::Tcp(host.to_owned(), port))
    }

    /// Listens. Nobody gets through before somebody passes it on.
    pub async fn listen(&self) -> Result<Listener, SshError> {
        let failed = |address: &str, source| SshError::Listen { address: address.to_owned(), source };
        let port = self.port;
        let (first, second) = match &self.bind {
            Bind::Loopback => (Ipv4Addr::LOCALHOST.to_string(), Some(Ipv6Addr::LOCALHOST)),
            Bind::Everybody => (Ipv4Addr::UNSPECIFIED.to_string(), Some(Ipv6Addr::UNSPECIFIED)),
            Bind::Address(address) => (address.clone(), None),
        };
        let named = format!("{first}:{port}");
        let listener =
            TcpListener::bind((first.as_str(), port)).await.map_err(|source| failed(&named, source))?;
        let address = listener.local_addr().map_err(|source| failed(&named, source))?;
        let mut sockets = vec![listener];
        if let Some(second) = second {
            // The same port. A computer without IPv6 does without; a port that another program has is no port of ours.
            match TcpListener::bind((second, address.port())).await {
                Ok(listener) => sockets.push(listener),
                Err(error) if lacks_family(&error) => {}
                Err(source) => return Err(failed(&format!("[{second}]:{}", address.port()), source)),
            }
        }
        Ok(Listener { sockets, address, to: self.to.clone() })
    }
}

fn lacks_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// A port that is listened to.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    address: SocketAddr,
    to: Destination,
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} leads to {}", self.address, self.to)
    }
}

impl Listener {
    async fn accept(&self) -> TcpStream {
        loop {
            let accepting: Vec<BoxFuture<'_, io::Result<_>>> =
                self.sockets.iter().map(|socket| Box::pin(socket.accept()) as _).collect();
            match select_all(accepting).await.0 {
                Ok((stream, _)) => return stream,
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
    }
}

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
    /// Passes on whoever comes to these ports, until this is dropped or the connection to the host is lost, and returns that
    /// loss. Those whom the host does not get through are told of.
    pub async fn forward(&self, listeners: &[Listener], on_failure: impl Fn(&SshError) + Sync) -> SshError {
        let passing = listeners.iter().map(|listener| self.pass_on(listener, &on_failure));
        tokio::select! {
            _ = futures_util::future::join_all(passing), if !listeners.is_empty() => {}
            () = self.ended() => {}
        }
        self.lost("the session")
    }

    async fn pass_on(&self, listener: &Listener, on_failure: &(impl Fn(&SshError) + Sync)) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = listener.accept() => open.push(self.connect_through(stream, &listener.to)),
                Some(ended) = open.next() => {
                    if let Err(error) = ended {
                        on_failure(&error);
                    }
                }
            }
        }
    }

    async fn connect_through(&self, mut stream: TcpStream, to: &Destination) -> Result<(), SshError> {
        let mut through = match to {
            Destination::Tcp(host, port) => self.open_tcp(host, *port).await?,
            Destination::Unix(path) => self.open_unix(path).await?,
        };
        // How it ended is a matter between the two.
        let _ = copy_bidirectional(&mut stream, &mut through).await;
        Ok(())
    }

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_in_one_family_is_taken() {
        let Ok(taken) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
            skipped::say("ipv6", "a port that is taken on ::1 is not tried, which is not there");
            return;
        };
        let port = taken.local_addr().unwrap().port();
        let outcome = Forward::parse(&format!("{port}:x:1")).unwrap().listen().await;
        assert!(matches!(outcome, Err(SshError::Listen { .. })), "{outcome:?}");
    }

    #[test]
    fn forwards_are_read_as_ssh_reads_them() {
        let tcp = |host: &str, port| Destination::Tcp(host.to_owned(), port);
        for (text, bind, port, to) in [
            ("8080:web:80", Bind::Loopback, 8080, tcp("web", 80)),
            ("0:web:80", Bind::Loopback, 0, tcp("web", 80)),
            ("localhost:8080:[::1]:80", Bind::Loopback, 8080, tcp("::1", 80)),
            ("*:8080:web:80", Bind::Everybody, 8080, tcp("web", 80)),
            (":8080:web:80", Bind::Everybody, 8080, tcp("web", 80)),
            ("[fd00::1]:8080:web:80", Bind::Address("fd00::1".to_owned()), 8080, tcp("web", 80)),
            ("192.0.2.1:8080:[fd00::2]:80", Bind::Address("192.0.2.1".to_owned()), 8080, tcp("fd00::2", 80)),
            ("2375:/run/a:b.sock", Bind::Loopback, 2375, Destination::Unix("/run/a:b.sock".to_owned())),
            ("*:2375:/run/x", Bind::Everybody, 2375, Destination::Unix("/run/x".to_owned())),
        ] {
            assert_eq!(Forward::parse(text), Some(Forward { bind, port, to }), "{text}");
        }
        for text in [
            "",
            "8080",
            "8080:80",
            "8080:web",
            "x:web:80",
            "8080:web:x",
            "8080:web:0",
            "8080::80",
            "1:2:3:4:5",
            "/here:web:80",
            "/here:/there",
            "[::1:8080:web:80",
            "[x]:8080:web:80",
            "70000:web:80",
            "8080:web:80:",
            "[::1]8080:web:80",
            "localhost:8080:::80",
        ] {
            assert_eq!(Forward::parse(text), None, "{text}");
        }
    }
}
