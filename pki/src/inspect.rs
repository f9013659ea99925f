//! What a certificate says about itself.

use jiff::Timestamp;

use crate::PkiError;

/// The parts of a certificate that decisions hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last moment of its validity.
    pub not_after: Timestamp,
    /// DNS names and IP addresses of the subject.
    pub names: Vec<String>,
    /// Whether it is the certificate of an authority.
    pub is_authority: bool,
    /// The organization of the subject, empty when it has none.
    pub organization: String,
}

/// Reads the first certificate in the text.
pub fn inspect(pem: &str) -> Result<CertificateFacts, PkiError> {
    todo!("{pem}")
}
