//! What can be wrong with a configuration, and what to do about it.

use std::io;
use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("Could not read the configuration `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("The configuration `{}` is not a JSON object", path.display())]
    NotJson { path: PathBuf, source: serde_json::Error },
    #[error("the following directives don't match any configuration option: {}", keys.join(", "))]
    UnknownKeys { keys: Vec<String> },
    #[error(
        "the following directives are specified both as a flag and in the configuration file: {}",
        keys.join(", ")
    )]
    Twice { keys: Vec<String> },
    #[error("The value of `{key}` is not right: {reason}")]
    Value { key: String, reason: String },
    #[error("The host `{host}` cannot be listened on: {reason}")]
    Host { host: String, reason: String },
    #[error("`{host}` would serve the API without encryption and without authentication")]
    Plain { host: String },
}

impl ConfigError {
    /// What the user may do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Twice { .. } => Some("Keep each of them in one place only"),
            Self::Plain { .. } => Some(
                "Set `tlsverify` with `tlscacert`, `tlscert` and `tlskey`; on a loopback address `\"tlsverify\": false` \
                 allows it",
            ),
            Self::Host { .. } => Some(
                "Hosts look like `unix:///var/run/docker.sock` or `tcp://0.0.0.0:2376`, with an IP address",
            ),
            _ => None,
        }
    }

    pub(super) fn value(key: &str, reason: impl Into<String>) -> Self {
        Self::Value { key: key.to_owned(), reason: reason.into() }
    }
}
