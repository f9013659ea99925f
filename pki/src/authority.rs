//! An authority: made here or brought along, it signs the certificates of engines and clients.

use crate::PkiError;

/// A certificate with the key that belongs to it, both as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

/// A certificate authority that was found fit to sign.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
}

impl Authority {
    /// Makes a new one, valid for ten years.
    pub fn generate(organization: &str) -> Result<Self, PkiError> {
        todo!("{organization}")
    }

    /// Takes an existing one, after checking that it can sign: the key is that of the certificate, the certificate is
    /// that of an authority, and its time has come and has not gone.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        todo!("{certificate_pem}{key_pem}")
    }

    /// Issues the certificate of an engine that is reached by the names, each a DNS name or an IP address.
    pub fn issue_server(&self, organization: &str, names: &[String]) -> Result<Issued, PkiError> {
        todo!("{organization}{names:?}")
    }

    /// Issues the certificate of a client.
    pub fn issue_client(&self, organization: &str) -> Result<Issued, PkiError> {
        todo!("{organization}")
    }

    /// The certificate, as it was given.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, as it was given.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}
