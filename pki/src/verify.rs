//! Whether an issued certificate is still good for its purpose.

use jiff::Timestamp;

use crate::PkiError;

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// An engine shows it to its clients.
    Server,
    /// A client shows it to an engine.
    Client,
}

/// Checks that the authority signed the certificate, that the key belongs to it, that it may be used so, and that
/// both are valid now. An error means that a new one should be issued.
pub fn verify_issued(
    authority_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
    usage: Usage,
    now: Timestamp,
) -> Result<(), PkiError> {
    todo!("{authority_pem}{certificate_pem}{key_pem}{usage:?}{now}")
}
