//! What a supervising process understands, which may be of another version than the daemon.

use crate::protocol::{self, Request};

/// The version of a supervising process's protocol, and the requests in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    version: u32,
    requests: Vec<String>,
    is_own_program: bool,
}

impl Dialect {
    /// What this program speaks, and so whoever it has started itself.
    pub fn own() -> Self {
        Self::of(protocol::VERSION, protocol::REQUESTS.map(str::to_owned).to_vec(), true)
    }

    /// What was spoken before there was a hello.
    pub fn first() -> Self {
        Self::of(1, protocol::FIRST_REQUESTS.map(str::to_owned).to_vec(), false)
    }

    pub(crate) fn of(version: u32, requests: Vec<String>, is_own_program: bool) -> Self {
        Self { version, requests, is_own_program }
    }

    /// Whether it is this very program that speaks, and not one of another version that happens to speak the same.
    pub(crate) fn is_own_program(&self) -> bool {
        self.is_own_program
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether a request would be understood.
    pub fn knows(&self, request: &Request) -> bool {
        self.requests.iter().any(|known| known == request.name())
    }
}
