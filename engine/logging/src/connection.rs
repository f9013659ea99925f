//! Connections to log servers: UDP, TCP, TLS and unix sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};

use crate::driver::{CONNECTING, DriverError};

/// `scheme://host:port` or `scheme:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: String,
    pub(crate) place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host { name: String, port: u16 },
    Path(PathBuf),
}

impl Address {
    /// `port` is taken where none is given; 0: there has to be one.
    pub(crate) fn parse(text: &str, port: u16, schemes: &[&str]) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("it has to be SCHEME://HOST:PORT")?;
        if !schemes.contains(&scheme) {
            return Err(format!("the scheme is none of {}", schemes.join(", ")));
        }
        let scheme = scheme.to_owned();
        if matches!(scheme.as_str(), "unix" | "unixgram") {
            if !rest.starts_with('/') {
                return Err("the path of a socket has to be absolute".to_owned());
            }
            return Ok(Self { scheme, place: Place::Path(rest.into()) });
        }
        let (name, given) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, "")) => (name, None),
            Some((name, after)) => (name, Some(after.strip_prefix(':').ok_or("it has to be [HOST]:PORT")?)),
            None => match rest.rsplit_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (rest, None),
            },
        };
        if name.is_empty() || name.contains(['/', ' ', '?', '#', '@']) {
            return Err("it has to be SCHEME://HOST:PORT".to_owned());
        }
        let port = match given {
            Some(text) => text.parse().map_err(|_| format!("`{text}` is no port"))?,
            None => port,
        };
        if port == 0 {
            return Err("the port is missing".to_owned());
        }
        Ok(Self { scheme, place: Place::Host { name: name.to_owned(), port } })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Host { name, port } if name.contains(':') => {
                write!(formatter, "{}://[{name}]:{port}", self.scheme)
            }
            Place::Host { name, port } => write!(formatter, "{}://{name}:{port}", self.scheme),
            Place::Path(path) => write!(formatter, "{}://{}", self.scheme, path.display()),
        }
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection.
pub(crate) enum Connection {
    Udp(UdpSocket),
    UnixDatagram(UnixDatagram),
    Stream(Box<dyn Stream>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Udp(_) => "Udp",
            Self::UnixDatagram(_) => "UnixDatagram",
            Self::Stream(_) => "Stream",
        })
    }
}

impl Connection {
    /// With TLS if there is a configuration of it.
    pub(crate) async fn open(address: &Address, tls: Option<Arc<ClientConfig>>) -> Result<Self, DriverError> {
        let failed =
            |error: &dyn std::fmt::Display| DriverError::new(format!("Could not reach {address}: {error}"));
        Self::dial(address, tls).await.map_err(|error| failed(&error))
    }

    async fn dial(address: &Address, tls: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let (name, port) = match &address.place {
            Place::Path(path) if address.scheme == "unixgram" => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                return Ok(Self::UnixDatagram(socket));
            }
            Place::Path(path) => return Ok(Self::Stream(Box::new(UnixStream::connect(path).await?))),
            Place::Host { name, port } => (name, *port),
        };
        let mut hosts = engine_registry::look_up(name).await.map_err(io::Error::other)?;
        // A name such as localhost has an address of IPv6 that servers of logs seldom listen at, and UDP cannot tell.
        hosts.sort_by_key(IpAddr::is_ipv6);
        let share = CONNECTING / u32::try_from(hosts.len().max(1)).unwrap_or(1);
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for host in hosts {
            let dialled = Self::dial_one(address, SocketAddr::new(host, port), name, tls.clone());
            result = tokio::time::timeout(share, dialled)
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    async fn dial_one(
        address: &Address,
        at: SocketAddr,
        name: &str,
        tls: Option<Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        if address.scheme == "udp" {
            let any: SocketAddr = if at.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(at).await?;
            return Ok(Self::Udp(socket));
        }
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(Self::Stream(Box::new(stream))) };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?;
        Ok(Self::Stream(Box::new(stream)))
    }

    /// Whether the other side is still there, as far as that can be told. A stream that a server has closed takes what is
    /// written next, and loses it.
    pub(crate) async fn is_open(&mut self) -> bool {
        let Self::Stream(stream) = self else { return true };
        let mut ignored = [0; 256];
        tokio::select! {
            biased;
            read = stream.read(&mut ignored) => matches!(read, Ok(count) if count > 0),
            () = std::future::ready(()) => true,
        }
    }

    /// However long the server takes: that the container waits for it is what was asked for.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => match socket.send(bytes).await {
                // That tells of an earlier one, for which nobody was there, and this one is not sent yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    socket.send(bytes).await.map(drop)
                }
                sent => sent.map(drop),
            },
            Self::UnixDatagram(socket) => socket.send(bytes).await.map(drop),
            Self::Stream(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Some of what the server says.
    pub(crate) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.read(buffer).await,
            Self::Udp(_) | Self::UnixDatagram(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Address::parse(text, 514, &["udp", "tcp", "unix"]).map(|it| it.to_string());
        for (text, expected) in [
            ("udp://logs.example", "udp://logs.example:514"),
            ("tcp://10.0.0.1:601", "tcp://10.0.0.1:601"),
            ("tcp://[::1]:601", "tcp://[::1]:601"),
            ("tcp://[::1]", "tcp://[::1]:514"),
            ("unix:///dev/log", "unix:///dev/log"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected));
        }
        for text in [
            "",
            "udp",
            "udp://",
            "udp://:1",
            "http://a",
            "unix://dev/log",
            "tcp://a:b",
            "tcp://a:0",
            "tcp://[::1]x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(Address::parse("tcp://a", 0, &["tcp"]).is_err());
    }
}
