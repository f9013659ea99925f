//! Whom to reach, as whom, and how long to wait for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::host_key::OfferedKey;

/// A login: where, as whom, proven how, and whom to expect there.
#[derive(Debug, Clone)]
pub struct Target {
    /// A DNS name or an address.
    pub host: String,
    /// Usually 22.
    pub port: u16,
    /// The name of the account.
    pub user: String,
    /// What proves that we are the user.
    pub key: Key,
    /// What opens a key file that is encrypted and not in the agent.
    pub passphrase: Passphrase,
    /// What proves that the server is the host.
    pub host_key: HostKeyPolicy,
}

/// What proves that we are the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A private key in a file that only its owner can read.
    File(PathBuf),
    /// The agent that `$SSH_AUTH_SOCK` names, then `~/.ssh/id_ed25519`, `id_ecdsa` and `id_rsa`.
    Agent,
}

/// Where passphrases come from.
#[derive(Clone)]
pub struct Passphrase(Arc<AskPassphrase>);

type AskPassphrase = dyn Fn(&Path) -> Option<String> + Send + Sync;

impl Passphrase {
    /// It is called with the path of the key file, on a thread of its own, and may ask a person; no answer means that nobody
    /// gives one.
    pub fn from(ask: impl Fn(&Path) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Nobody is asked.
    pub fn none() -> Self {
        Self::from(|_| None)
    }

    pub(super) fn ask(&self, key_file: &Path) -> Option<String> {
        (self.0)(key_file)
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Passphrase")
    }
}

/// Which host keys are accepted.
#[derive(Clone)]
pub enum HostKeyPolicy {
    /// One of these, each a line `ssh-ed25519 AAAA…` or a fingerprint `SHA256:…`.
    Pinned(Vec<String>),
    /// Whatever the closure says yes to. It is called on a thread of its own and may ask a person.
    Ask(Arc<dyn Fn(&OfferedKey) -> bool + Send + Sync>),
}

impl fmt::Debug for HostKeyPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(lines) => formatter.debug_tuple("Pinned").field(lines).finish(),
            Self::Ask(_) => formatter.write_str("Ask"),
        }
    }
}

/// How long each layer of a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Looking up the name and connecting to the port.
    pub connect: Duration,
    /// From the connection to the line `SSH-2.0-…`.
    pub banner: Duration,
    /// Agreeing on keys. A person who is asked about the host key may take longer.
    pub key_exchange: Duration,
    /// The login.
    pub authentication: Duration,
    /// Opening a channel and starting the command on it.
    pub channel: Duration,
    /// How long a silent peer is taken for alive. Silence is normal as long as the keepalives in it are answered.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            banner: Duration::from_secs(15),
            key_exchange: Duration::from_secs(20),
            // A guest in software emulation on a loaded machine can stand still for half a minute and more.
            authentication: Duration::from_secs(60),
            channel: Duration::from_secs(60),
            idle: Duration::from_secs(90),
        }
    }
}
