//! Private keys: made, read from files of every common format, or left in the agent.

use super::SshError;

/// A new key pair, as OpenSSH writes it.
pub struct KeyPair {
    /// PEM, `BEGIN OPENSSH PRIVATE KEY`.
    pub private: String,
    /// One line, `ssh-ed25519 AAAA… comment`.
    pub public: String,
}

/// Makes an Ed25519 key pair.
pub fn generate_key_pair(comment: &str) -> Result<KeyPair, SshError> {
    todo!("{comment}")
}
