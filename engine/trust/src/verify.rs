//! How a server's certificate is looked at.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Believes authorities, and certificates that were named themselves, whoever has signed them. One that openssl makes for a
/// server, signed by nobody but itself, is an authority's by default, which webpki takes from no server.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
}

/// What webpki says, after it has looked at its time, of a certificate that is an authority's, or that none of those known
/// has signed.
fn is_for_want_of_an_authority(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            matches!(cause.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.verifier.verify_server_cert(certificate, chain, name, ocsp, now) {
            Err(error) if is_for_want_of_an_authority(&error) && self.certificates.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Looks at nothing: not at the certificate, which may be of any age and form, and so not at the key in it either.
#[derive(Debug)]
pub(crate) struct Anyone(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.extend([SignatureScheme::ECDSA_SHA1_Legacy, SignatureScheme::RSA_PKCS1_SHA1]);
        schemes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::RootCertStore;
    use rustls::crypto::aws_lc_rs;

    use super::*;

    /// A certificate that is its own authority, of `registry.test` in 2026.
    fn own() -> CertificateDer<'static> {
        let mut parameters = CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_named_certificate_is_believed_by_its_name_in_its_time() {
        let (named, other) = (own(), own());
        let mut roots = RootCertStore::empty();
        roots.add(named.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = Named { verifier, certificates: vec![named.clone()] };
        let look = |certificate: &CertificateDer<'_>, name: &str, year: u64| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            // The middle of a year.
            let time = Duration::from_secs((year - 1970) * 31_556_952 + 15_778_476);
            let looked =
                verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::since_unix_epoch(time));
            looked.map(drop)
        };
        look(&named, "registry.test", 2026).unwrap();
        let wrong = look(&named, "other.test", 2026).unwrap_err().to_string();
        assert!(wrong.contains("other.test"), "{wrong}");
        let late = look(&named, "registry.test", 2027).unwrap_err().to_string();
        assert!(late.contains("expired"), "{late}");
        let early = look(&named, "registry.test", 2025).unwrap_err().to_string();
        assert!(early.contains("not valid yet"), "{early}");
        let other = look(&other, "registry.test", 2026).unwrap_err();
        assert!(is_for_want_of_an_authority(&other), "{other}");
    }
}
