//! Decides whether the server is the host that it should be, and remembers why not.

/// The host key that a server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedKey {
    /// The key as a line `ssh-ed25519 AAAA…`, ready to be pinned.
    pub line: String,
    /// `SHA256:…`, as other tools print it.
    pub fingerprint: String,
}
