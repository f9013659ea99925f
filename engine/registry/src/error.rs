//! Why something with a registry failed, in the words that docker's users know.

use std::io;

use engine_model::Kind;

/// A failed attempt with a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// What was asked for is not there.
    #[error("{message}")]
    NotFound { message: String },
    /// The registry does not let this caller do it, or says so of what does not exist.
    #[error("{message}")]
    Denied { message: String },
    #[error("Get \"{url}\": unauthorized: {message}")]
    Unauthorized { url: String, message: String },
    #[error("toomanyrequests: {message}")]
    TooMany { message: String },
    #[error("received unexpected HTTP status {status} from {url}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Status { url: String, status: u16, message: String },
    /// A file that is no registry's.
    #[error("failed to GET {url} with status {status}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Get { url: String, status: String, message: String },
    #[error("Could not reach {url}")]
    Transport { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "Get \"{url}\": http: server gave HTTP response to HTTPS client; if that is intended, name it in `insecure-registries` of daemon.json"
    )]
    PlainHttp { url: String },
    #[error("{what} of {url} is not as it should be: {reason}")]
    Answer { what: &'static str, url: String, reason: String },
    #[error("{what} of {url} is larger than {limit} bytes")]
    TooLarge { what: &'static str, url: String, limit: u64 },
    #[error("filesystem layer verification failed for digest {expected}: the content has the digest {found}")]
    Digest { expected: String, found: String },
    #[error("{url} does not answer")]
    Silent { url: String },
    #[error("{url} broke off after {done} of {total} bytes")]
    BrokenOff { url: String, done: u64, total: u64 },
    #[error("`{key}`: `{value}`: {reason}")]
    Setting { key: &'static str, value: String, reason: &'static str },
    #[error("Could not read the certificate `{path}`: {reason}")]
    Certificate { path: String, reason: String },
    #[error("X-Registry-Auth: {reason}")]
    Credentials { reason: String },
    #[error("Could not set up TLS for {registry}")]
    Tls { registry: String, source: rustls::Error },
    #[error("Could not set up the client of registries")]
    Client { source: reqwest::Error },
    #[error("Could not write the blob")]
    Write { source: io::Error },
}

impl RegistryError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Denied { .. } => Kind::NotFound,
            Self::Setting { .. } | Self::Credentials { .. } => Kind::Invalid,
            _ => Kind::Internal,
        }
    }

    /// Whether the same may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TooMany { .. } | Self::BrokenOff { .. } | Self::Silent { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            Self::Transport { source, .. } => {
                let error = source.downcast_ref::<reqwest::Error>();
                error.is_none_or(|error| !error.is_builder() && !error.is_redirect())
            }
            _ => false,
        }
    }

    /// An answer that is not as the specification has it.
    pub(crate) fn answer(what: &'static str, url: &str, reason: impl ToString) -> Self {
        Self::Answer { what, url: url.to_owned(), reason: reason.to_string() }
    }

    /// A request that got no answer.
    pub(crate) fn transport(url: &str, error: reqwest::Error) -> Self {
        if is_plain_text(&error) {
            return Self::PlainHttp { url: url.to_owned() };
        }
        // The address is said once, by us.
        Self::Transport { url: url.to_owned(), source: Box::new(error.without_url()) }
    }
}

/// Whether rustls, somewhere below, met a server that does not speak TLS.
fn is_plain_text(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        let plain = rustls::InvalidMessage::InvalidContentType;
        return matches!(error, rustls::Error::InvalidMessage(found) if *found == plain);
    }
    // The source of an I/O error that wraps another one is that one's source.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| is_plain_text(inner)) || error.source().is_some_and(is_plain_text)
}
