//! Whom the engine and its client believe over TLS, and what they show of themselves.

mod verify;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use verify::{Anyone, Named};

/// Whose certificates are believed.
#[derive(Debug)]
pub enum Trust {
    /// Everybody's.
    Anyone,
    /// Those of these authorities; and these themselves, shown by who has their key, for the names in them.
    These(Vec<CertificateDer<'static>>),
}

/// What is shown to who asks for it: a chain, and the key of its first certificate.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The configuration of a client. Fails if none of the authorities can be used, or if the key is not the certificate's.
pub fn client(trust: Trust, identity: Option<Identity>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))),
        Trust::These(certificates) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            let verifier = Named { verifier, certificates };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Whether a certificate can be believed as an authority's.
pub fn is_usable(certificate: &CertificateDer<'_>) -> bool {
    RootCertStore::empty().add(certificate.clone().into_owned()).is_ok()
}

/// The host's authorities, or Mozilla's where it has none.
pub fn authorities() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "Some of the host's certificates of authorities could not be read");
    }
    let mut certificates = found.certs;
    if certificates.is_empty() {
        certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
    }
    certificates
}
