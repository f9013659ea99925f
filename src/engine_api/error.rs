//! How far a question to the engine came, and what stopped it there.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

/// Why an engine did not answer; one variant for each layer and cause.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What was given is no address of an engine.
    #[error("`{url}` is not the address of an engine, such as `tcp://192.0.2.1:2376`")]
    Url { url: String },
    /// A file of ours is damaged.
    #[error("Could not read {what}: {reason}")]
    Pem { what: &'static str, reason: String },
    /// A file of ours cannot be used.
    #[error("Could not use {what}")]
    Unusable { what: &'static str, source: rustls::Error },
    /// The name has no address.
    #[error("The address `{host}` does not resolve")]
    Address { host: String, source: io::Error },
    /// Nobody listens, or the way there is closed.
    #[error("Could not connect to port {port} of `{host}`")]
    Connect { host: String, port: u16, source: io::Error },
    /// There is no such socket, or nobody listens at it.
    #[cfg_attr(not(unix), expect(dead_code, reason = "such sockets are asked on Unix alone"))]
    #[error("Could not connect to the socket `{}`", path.display())]
    Socket { path: std::path::PathBuf, source: io::Error },
    /// Nobody answered at all.
    #[error("Port {port} of `{host}` did not answer within {} s", after.as_secs())]
    ConnectTimeout { host: String, port: u16, after: Duration },
    /// The connection is there, and the handshake does not come to an end.
    #[error("{address} accepts connections, but did not finish the TLS handshake within {} s", after.as_secs())]
    HandshakeTimeout { address: String, after: Duration },
    /// The server speaks something else.
    #[error("Port {port} of `{host}` does not speak TLS")]
    NotTls { host: String, port: u16, source: rustls::Error },
    /// The certificate is for other names.
    #[error("The certificate of the engine is not valid for `{host}`{}", presented(names))]
    WrongName { host: String, names: Vec<String> },
    /// The certificate is of an authority that is not ours.
    #[error("The certificate that `{host}` shows is not of our authority")]
    UnknownIssuer { host: String, source: rustls::Error },
    /// The certificate is too old.
    #[error("The certificate of the engine on `{host}` has expired")]
    Expired { host: String, source: rustls::Error },
    /// The certificate is from the future, or our clock is wrong.
    #[error("The certificate of the engine on `{host}` is not valid yet")]
    NotYetValid { host: String, source: rustls::Error },
    /// The certificate is wrong in another way.
    #[error("The certificate of the engine on `{host}` cannot be trusted")]
    Certificate { host: String, source: rustls::Error },
    /// The engine does not want us.
    #[error("The engine on `{host}` refused our certificate")]
    ClientRefused { host: String, source: rustls::Error },
    /// TLS failed in another way.
    #[error("The TLS handshake with `{host}` failed")]
    Tls { host: String, source: rustls::Error },
    /// The server speaks something else.
    #[error("{address} does not speak HTTP")]
    NotHttp { address: String, source: hyper::Error },
    /// The connection ended before the answer did.
    #[error("The connection to {address} broke")]
    Broken { address: String, source: Box<dyn Error + Send + Sync> },
    /// The request is there, and no answer comes.
    #[error("The engine on {address} did not answer within {} s", after.as_secs())]
    AnswerTimeout { address: String, after: Duration },
    /// More than any engine says.
    #[error("The answer of {address} is longer than {limit} bytes")]
    TooLong { address: String, limit: usize },
    /// The engine answered, with an error.
    #[error("The engine on {address} answered with status {status}{}", after_colon(message))]
    Status { address: String, status: u16, message: String },
    /// The answer is not what it should be.
    #[error("The answer of {address} is not that of an engine")]
    Answer { address: String, source: serde_json::Error },
}

/// Some answers have no text.
fn after_colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn presented(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(", only for {}", names.join(", ")) }
}

impl EngineError {
    pub(super) fn from_tls(host: &str, port: u16, source: rustls::Error) -> Self {
        let host = host.to_owned();
        match &source {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::NotValidForName => Self::WrongName { host, names: Vec::new() },
                CertificateError::NotValidForNameContext { presented, .. } => Self::WrongName {
                    host,
                    names: presented.iter().take(8).map(|name| printable(name)).collect(),
                },
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownIssuer { host, source }
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired { host, source }
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid { host, source }
                }
                _ => Self::Certificate { host, source },
            },
            rustls::Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::CertificateRequired,
            ) => Self::ClientRefused { host, source },
            rustls::Error::InvalidMessage(_) => Self::NotTls { host, port, source },
            _ => Self::Tls { host, source },
        }
    }

    /// Whether asking again cannot help. An engine that is still starting refuses connections, breaks them, or
    /// answers that it is not ready.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Socket { .. }
            | Self::HandshakeTimeout { .. }
            | Self::Broken { .. }
            | Self::AnswerTimeout { .. }
            | Self::Tls { .. } => false,
            Self::Status { status, .. } => *status < 500,
            _ => true,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::WrongName { .. } => {
                "The host's address has changed, or it is reached by another name: `machine regenerate-certs` issues a \
                 certificate for where it is now; `--tls-san` at its creation adds names"
            }
            Self::UnknownIssuer { .. } => {
                "Another authority has issued it, or something else answers there; `machine regenerate-certs` installs one of ours"
            }
            Self::Expired { .. } | Self::Certificate { .. } => "Renew it: `machine regenerate-certs`",
            Self::NotYetValid { .. } => "Compare the clock of this computer with that of the host",
            Self::ClientRefused { .. } => {
                "The client's certificate is too old or of another authority: `machine regenerate-certs --client-certs` renews it"
            }
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                "The engine does not run: look at its log on the host, or run `machine provision`"
            }
            Self::Socket { .. } => "Does the engine of this machine run, and may you use its socket?",
            Self::Connect { .. } | Self::ConnectTimeout { .. } => {
                "Is the host running, and does a firewall between here and there let the port through?"
            }
            Self::Pem { .. } | Self::Unusable { .. } => {
                "The files in the store are damaged: `machine regenerate-certs --client-certs` makes new ones"
            }
            Self::NotTls { .. } | Self::NotHttp { .. } | Self::Answer { .. } => {
                "Something else listens on that port"
            }
            Self::HandshakeTimeout { .. } | Self::AnswerTimeout { .. } => {
                "The host is overloaded or the engine hangs: look at its log on the host"
            }
            Self::Url { .. }
            | Self::Address { .. }
            | Self::Tls { .. }
            | Self::Broken { .. }
            | Self::TooLong { .. }
            | Self::Status { .. } => return None,
        };
        Some(text.to_owned())
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(256).collect()
}
