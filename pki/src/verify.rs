//! Whether an issued certificate is still good for its purpose.

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;

use crate::inspect::{check_authority, check_dates, subject, unreadable};
use crate::{PkiError, pem};

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
    let authority_der = pem::certificate(authority_pem)?;
    let authority = pem::parse(&authority_der)?;
    let der = pem::certificate(certificate_pem)?;
    let certificate = pem::parse(&der)?;
    let key = pem::key(key_pem)?;
    check_authority(&authority)?;
    check_dates(&authority, now)?;
    check_issuer(&authority, &certificate)?;
    check_dates(&certificate, now)?;
    check_usage(&certificate, usage)?;
    if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err(PkiError::KeyMismatch { subject: subject(&certificate) });
    }
    Ok(())
}

/// Whether the authority signed the certificate. When either is valid is not asked; what cannot be read did not sign.
pub fn is_issued_by(authority_pem: &str, certificate_pem: &str) -> bool {
    let signed = || {
        let (authority, certificate) = (pem::certificate(authority_pem)?, pem::certificate(certificate_pem)?);
        check_issuer(&pem::parse(&authority)?, &pem::parse(&certificate)?)
    };
    signed().is_ok()
}

fn check_issuer(authority: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> Result<(), PkiError> {
    let named = certificate.issuer().as_raw() == authority.subject().as_raw();
    let signed = certificate.verify_signature(Some(authority.public_key())).is_ok();
    if named && signed {
        return Ok(());
    }
    Err(PkiError::NotIssuedBy { subject: subject(certificate), authority: subject(authority) })
}

/// Without an extended key usage a certificate is good for everything.
fn check_usage(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), PkiError> {
    let Some(extension) = certificate.extended_key_usage().map_err(unreadable)? else {
        return Ok(());
    };
    let (allowed, name) = match usage {
        Usage::Server => (extension.value.server_auth, "server"),
        Usage::Client => (extension.value.client_auth, "client"),
    };
    if allowed || extension.value.any {
        return Ok(());
    }
    Err(PkiError::WrongUsage { subject: subject(certificate), usage: name })
}
