//! From PEM text, which may come from anywhere, to certificates and keys.

use rcgen::KeyPair;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;

use crate::PkiError;

/// No certificate and no key that anybody uses comes near.
const MAXIMUM_TEXT: usize = 256 * 1024;

/// The first certificate in the text.
pub(crate) fn certificate(text: &str) -> Result<CertificateDer<'static>, PkiError> {
    if text.len() > MAXIMUM_TEXT {
        return Err(PkiError::Certificate { reason: format!("it is longer than {MAXIMUM_TEXT} bytes") });
    }
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => PkiError::NoCertificate,
        other => PkiError::Certificate { reason: other.to_string() },
    })
}

/// Every certificate in the text, each as PEM of its own. At least one.
pub fn certificates(text: &str) -> Result<Vec<String>, PkiError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let Some(length) = rest[begin..].find(END) else { break };
        let end = begin + length + END.len();
        let one = format!("{}\n", &rest[begin..end]);
        parse(&certificate(&one)?)?;
        found.push(one);
        rest = &rest[end..];
    }
    if found.is_empty() {
        // The error of the first one: too long, none, or damaged.
        parse(&certificate(text)?)?;
        return Err(PkiError::NoCertificate);
    }
    Ok(found)
}

/// What the certificate says.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(PkiError::Certificate { reason: "something follows it".to_owned() }),
        Err(error) => Err(PkiError::Certificate { reason: error.to_string() }),
    }
}

/// The first private key in the text: PKCS#8, PKCS#1 (RSA) or SEC1 (elliptic curves).
pub(crate) fn key(text: &str) -> Result<KeyPair, PkiError> {
    if text.len() > MAXIMUM_TEXT {
        return Err(PkiError::Key { reason: format!("it is longer than {MAXIMUM_TEXT} bytes") });
    }
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(PkiError::KeyEncrypted);
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| PkiError::Key {
        reason: match error {
            pem::Error::NoItemsFound => "there is none in the text, which must be PEM".to_owned(),
            other => other.to_string(),
        },
    })?;
    match KeyPair::try_from(&der) {
        // What it signs could not be verified here, so it is not offered either.
        Ok(key) if key.algorithm() != &rcgen::PKCS_ECDSA_P521_SHA512 => Ok(key),
        _ => Err(PkiError::Key {
            reason: "it is not an ECDSA (P-256, P-384), Ed25519 or RSA (2048 bits or more) key".to_owned(),
        }),
    }
}
