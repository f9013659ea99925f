//! What a certificate says about itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::{PkiError, pem};

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
pub fn inspect(certificate_pem: &str) -> Result<CertificateFacts, PkiError> {
    let der = pem::certificate(certificate_pem)?;
    let certificate = pem::parse(&der)?;
    Ok(CertificateFacts {
        not_before: timestamp(certificate.validity().not_before)?,
        not_after: timestamp(certificate.validity().not_after)?,
        names: names(&certificate)?,
        is_authority: is_authority(&certificate)?,
        organization: organization(&certificate),
    })
}

/// How errors call the certificate.
pub(crate) fn subject(certificate: &X509Certificate<'_>) -> String {
    printable(&certificate.subject().to_string())
}

/// Names in certificates may hold anything, and errors go to a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Refuses a certificate whose time has not come or has gone.
pub(crate) fn check_dates(certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), PkiError> {
    let from = timestamp(certificate.validity().not_before)?;
    let at = timestamp(certificate.validity().not_after)?;
    let subject = subject(certificate);
    if now < from {
        return Err(PkiError::NotYetValid { subject, from });
    }
    if now > at {
        return Err(PkiError::Expired { subject, at });
    }
    Ok(())
}

/// Refuses a certificate that is not one of an authority, or of one that may not sign certificates.
pub(crate) fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), PkiError> {
    if !is_authority(certificate)? {
        return Err(PkiError::NotAuthority { subject: subject(certificate) });
    }
    let usage = certificate.key_usage().map_err(unreadable)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(PkiError::MayNotSign { subject: subject(certificate) });
    }
    Ok(())
}

/// What an extension that breaks the rules makes of its certificate.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` wants")]
pub(crate) fn unreadable(error: x509_parser::error::X509Error) -> PkiError {
    PkiError::Certificate { reason: error.to_string() }
}

pub(crate) fn timestamp(time: ASN1Time) -> Result<Timestamp, PkiError> {
    Timestamp::from_second(time.timestamp())
        .map_err(|error| PkiError::Certificate { reason: error.to_string() })
}

fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, PkiError> {
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    Ok(constraints.is_some_and(|constraints| constraints.value.ca))
}

fn organization(certificate: &X509Certificate<'_>) -> String {
    let attribute = certificate.subject().iter_organization().next();
    attribute.and_then(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned()
}

fn names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, PkiError> {
    let Some(extension) = certificate.subject_alternative_name().map_err(unreadable)? else {
        return Ok(Vec::new());
    };
    let names = extension.value.general_names.iter();
    Ok(names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .collect())
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).to_string())
}
