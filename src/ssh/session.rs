//! One login on a host.

use super::{SshError, Target, Timeouts};

/// One login on a host. Commands, copies and forwards are channels on it.
pub struct Session {
    host_key: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Connects and logs in, once.
    pub async fn connect(target: &Target, timeouts: &Timeouts) -> Result<Self, SshError> {
        todo!("{target:?}{timeouts:?}")
    }

    /// The host key that the server showed, as a line `ssh-ed25519 AAAA…`.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }

    /// Says goodbye.
    pub async fn close(self) {}
}
