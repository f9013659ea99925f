//! What a supervising process understands, which may be of another version than the daemon.

use crate::protocol::{self, Request};

/// The version of a supervising process's protocol, and the requests in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    version: u32,
    requests: Vec<String>,
}

impl Dialect {
    /// What this program speaks, and so whoever it has started itself.
    pub fn own() -> Self {
        Self::of(protocol::VERSION, protocol::REQUESTS.map(str::to_owned).to_vec())
    }

    /// What was spoken before there was a hello.
    pub fn first() -> Self {
        Self::of(1, protocol::FIRST_REQUESTS.map(str::to_owned).to_vec())
    }

    pub(crate) fn of(version: u32, requests: Vec<String>) -> Self {
        Self { version, requests }
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether a request would be understood.
    pub fn knows(&self, request: &Request) -> bool {
        self.requests.iter().any(|known| known == request.name())
    }
}
