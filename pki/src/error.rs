//! What can be wrong with a certificate, a key, or a wish for one.

use jiff::Timestamp;

/// Why a certificate was not made, not accepted or not understood.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The text holds no certificate.
    #[error("There is no certificate in the text, which must be PEM with a `BEGIN CERTIFICATE` line")]
    NoCertificate,
    /// The certificate is there, and cannot be read.
    #[error("Could not read the certificate: {reason}")]
    Certificate { reason: String },
    /// The text holds no private key of a kind that is known.
    #[error("Could not read the private key: {reason}")]
    Key { reason: String },
    /// The key is encrypted, and nobody is there to ask.
    #[error("The private key is encrypted")]
    KeyEncrypted,
    /// The key is of another certificate.
    #[error("The private key does not belong to the certificate of `{subject}`")]
    KeyMismatch { subject: String },
    /// The certificate cannot sign others, because it is not one of an authority.
    #[error(
        "The certificate of `{subject}` is not one of an authority (basic constraints without `CA:TRUE`)"
    )]
    NotAuthority { subject: String },
    /// The certificate is one of an authority that may not sign certificates.
    #[error("The authority `{subject}` may not sign certificates (key usage without `keyCertSign`)")]
    MayNotSign { subject: String },
    /// The certificate is too old.
    #[error("The certificate of `{subject}` expired at {at}")]
    Expired { subject: String, at: Timestamp },
    /// The certificate is too young.
    #[error("The certificate of `{subject}` is not valid before {from}")]
    NotYetValid { subject: String, from: Timestamp },
    /// The certificate was signed by somebody else.
    #[error("The certificate of `{subject}` was not issued by `{authority}`")]
    NotIssuedBy { subject: String, authority: String },
    /// The name of the authority would read otherwise in the certificates that it signs.
    #[error("The authority `{subject}` has a name of an unusual form, under which nothing can be issued")]
    UnusualName { subject: String },
    /// The certificate may not be used so.
    #[error("The certificate of `{subject}` may not be used as that of a {usage}")]
    WrongUsage { subject: String, usage: &'static str },
    /// The name is neither an address nor one that DNS could carry.
    #[error("`{name}` is neither a DNS name nor an IP address")]
    Name { name: String },
    /// A server without a name cannot be verified by anybody.
    #[error("A server certificate needs at least one DNS name or IP address")]
    NoNames,
    /// The key or the signature could not be made.
    #[error("Could not make the {what}")]
    Generate { what: &'static str, source: rcgen::Error },
}

impl PkiError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Expired { .. } => "Replace it by a new one, and renew what it signed",
            Self::NotYetValid { .. } => "Compare the clock of this machine with the right time",
            Self::KeyMismatch { .. } => "Give the key that was made together with the certificate",
            Self::KeyEncrypted => "Decrypt it first, for example with `openssl pkey -in KEY -out PLAIN`",
            Self::NotAuthority { .. } | Self::MayNotSign { .. } => {
                "Give the certificate of an authority, made with `CA:TRUE` and `keyCertSign`"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
