//! The way to the engine: a socket of this machine, or address, port and TLS.

use std::fmt;
use std::io;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::EngineError;

/// The port that engines listen on for clients with a certificate.
const DEFAULT_PORT: u16 = 2376;

/// How an engine is reached that speaks without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Tcp(Address),
    /// A socket of this machine, by its path.
    #[cfg(unix)]
    Socket(PathBuf),
}

impl Way {
    /// Reads `unix://PATH`, or what [`Address::parse`] does.
    pub(super) fn parse(url: &str) -> Result<Self, EngineError> {
        #[cfg(unix)]
        if let Some(path) = url.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Self::Socket(path.into()));
        }
        Address::parse(url).map(Self::Tcp)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            #[cfg(unix)]
            Self::Socket(path) => write!(formatter, "`{}`", path.display()),
        }
    }
}

/// Where an engine is reached over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// Reads `tcp://HOST[:PORT]`; `http://` and `https://` mean the same to us.
    pub(super) fn parse(url: &str) -> Result<Self, EngineError> {
        Self::split(url).ok_or_else(|| EngineError::Url { url: url.to_owned() })
    }

    fn split(url: &str) -> Option<Self> {
        let rest = ["tcp://", "https://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = port.map_or(Ok(DEFAULT_PORT), str::parse).ok().filter(|port| *port > 0)?;
        ServerName::try_from(host).ok()?;
        Some(Self { host: host.to_owned(), port })
    }
}

/// Trusts this authority and no other, and shows this certificate.
pub(super) fn client_config(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<ClientConfig, EngineError> {
    let malformed = |what: &'static str| {
        move |error: rustls_pki_types::pem::Error| EngineError::Pem { what, reason: error.to_string() }
    };
    let unusable = |what: &'static str| move |source: rustls::Error| EngineError::Unusable { what, source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(malformed("the authority's certificate"))?;
        roots.add(certificate).map_err(unusable("the authority's certificate"))?;
    }
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(malformed("the client's certificate"))?;
    if chain.is_empty() {
        return Err(EngineError::Pem {
            what: "the client's certificate",
            reason: "it holds none".to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(malformed("the client's key"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().map_err(
            |error| EngineError::Pem { what: "the authority's certificate", reason: error.to_string() },
        )?;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable("the TLS library"))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(unusable("the client's certificate"))
}

pub(super) async fn connect(address: &Address, limit: Duration) -> Result<TcpStream, EngineError> {
    let Address { host, port } = address;
    let attempt = async {
        let resolved = lookup_host((host.as_str(), *port))
            .await
            .map_err(|source| EngineError::Address { host: host.clone(), source })?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in resolved {
            match TcpStream::connect(candidate).await {
                Ok(stream) => {
                    // A question is one small packet; nothing is gained by waiting for more.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(EngineError::Connect { host: host.clone(), port: *port, source: failure })
    };
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        Err(EngineError::ConnectTimeout { host: host.clone(), port: *port, after: limit })
    })
}

#[cfg(unix)]
pub(super) async fn connect_socket(
    path: &Path,
    limit: Duration,
) -> Result<tokio::net::UnixStream, EngineError> {
    let failed = |source| EngineError::Socket { path: path.to_owned(), source };
    match timeout(limit, tokio::net::UnixStream::connect(path)).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

pub(super) async fn handshake(
    address: &Address,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    stream: TcpStream,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, EngineError> {
    let connector = TlsConnector::from(Arc::clone(config));
    match timeout(limit, connector.connect(name.clone(), stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(from_io(address, error)),
        Err(_) => Err(EngineError::HandshakeTimeout { address: address.to_string(), after: limit }),
    }
}

/// Finds the TLS error in an I/O error.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}

fn from_io(address: &Address, error: io::Error) -> EngineError {
    match tls_error(&error) {
        Some(tls) => EngineError::from_tls(&address.host, address.port, tls.clone()),
        None => EngineError::Broken { address: address.to_string(), source: error.into() },
    }
}

/// What hyper met on the way; the server's judgement of our certificate arrives here.
pub(super) fn from_hyper(way: &Way, error: hyper::Error, encrypted: bool) -> EngineError {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(tls) = cause.downcast_ref::<io::Error>().and_then(tls_error) {
            match way {
                Way::Tcp(address) => return EngineError::from_tls(&address.host, address.port, tls.clone()),
                #[cfg(unix)]
                Way::Socket(_) => {}
            }
        }
        source = cause.source();
    }
    if error.is_parse() && !encrypted {
        return EngineError::NotHttp { address: way.to_string(), source: error };
    }
    EngineError::Broken { address: way.to_string(), source: error.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_are_read() {
        for (url, host, port, shown) in [
            ("tcp://127.0.0.1:2376", "127.0.0.1", 2376, "127.0.0.1:2376"),
            ("tcp://mc1.example.org", "mc1.example.org", 2376, "mc1.example.org:2376"),
            ("https://10.0.0.1:3376/", "10.0.0.1", 3376, "10.0.0.1:3376"),
            ("tcp://[fd00::1]:2376", "fd00::1", 2376, "[fd00::1]:2376"),
            ("tcp://[::1]", "::1", 2376, "[::1]:2376"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{url}");
            assert_eq!(address.to_string(), shown);
        }
    }

    #[cfg(unix)]
    #[test]
    fn sockets_are_read() {
        assert_eq!(
            Way::parse("unix:///var/run/docker.sock").unwrap(),
            Way::Socket("/var/run/docker.sock".into())
        );
        assert!(Way::parse("unix://docker.sock").is_err());
        assert!(
            matches!(Way::parse("tcp://127.0.0.1:2375").unwrap(), Way::Tcp(address) if address.port == 2375)
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in [
            "",
            "tcp://",
            "127.0.0.1:2376",
            "unix:///var/run/docker.sock",
            "tcp://:2376",
            "tcp://a:0",
            "tcp://a:65536",
            "tcp://a:b",
            "tcp://a b:1",
            "tcp://[::1",
            "tcp://[x]:1",
            "tcp://a/b",
            "tcp://user@a:1",
            "tcp://::1:2376",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
