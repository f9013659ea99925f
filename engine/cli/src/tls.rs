//! The TLS half of a connection to a daemon on the network.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::endpoint::TlsFiles;
use super::failure::{Failure, Outcome};

fn unreadable(what: &str, path: &Path, cause: impl std::fmt::Display) -> Failure {
    Failure::Setting(format!("could not read the {what} `{}`: {cause}", path.display()))
}

/// A client configuration with these certificates.
pub(crate) fn configure(files: &TlsFiles) -> Outcome<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Setting(error.to_string()))?;
    let builder = if files.verify {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(&files.authority)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable("CA certificate", &files.authority, error))?;
        if certificates.is_empty() {
            return Err(unreadable("CA certificate", &files.authority, "there is no certificate in it"));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| unreadable("CA certificate", &files.authority, error))?;
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer { provider }))
    };
    // Without --tlsverify the client's certificate is optional.
    if !files.verify && !files.certificate.exists() && !files.key.exists() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("certificate", &files.certificate, error))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable("key", &files.key, error))?;
    let config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| unreadable("certificate", &files.certificate, error))?;
    Ok(Arc::new(config))
}

/// Takes any certificate, which is what `--tls` without `--tlsverify` asks for.
#[derive(Debug)]
struct AnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
