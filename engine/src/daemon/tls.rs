//! Mutual TLS for the remote API: our certificate to clients, and only clients that our CA signed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Tls;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("Could not read the certificate `{}`", path.display())]
    Certificate { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("There is no certificate in `{}`", path.display())]
    Empty { path: PathBuf },
    #[error("Could not read the private key `{}`", path.display())]
    Key { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("`{}` is not usable as a CA", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("Clients cannot be verified against `{}`", path.display())]
    Verifier { path: PathBuf, source: rustls::server::VerifierBuilderError },
    #[error("`{}` and `{}` do not belong together", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// The configuration for new connections. A reload does not touch those that are open.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<RwLock<Arc<ServerConfig>>>);

impl Acceptor {
    pub fn new(files: &Tls) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(server_config(files)?)))))
    }

    /// Reads the files again. When they are not right, the old certificates stay.
    pub fn reload(&self, files: &Tls) -> Result<(), TlsError> {
        let config = Arc::new(server_config(files)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub fn current(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn server_config(files: &Tls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: files.ca.clone(), source })?;
    }
    let verifier: Arc<dyn ClientCertVerifier> =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Verifier { path: files.ca.clone(), source })?;
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::Key { path: files.key.clone(), source })?;
    warn_if_open(&files.key);
    let pair =
        |source| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), source };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Certificate { path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}

fn warn_if_open(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode: io::Result<u32> = std::fs::metadata(key).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        tracing::warn!(key = %key.display(), "Others than its owner may read the private key");
    }
}
