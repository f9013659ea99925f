//! The TLS half of a connection to a daemon on the network.

use std::path::Path;
use std::sync::Arc;

use engine_trust::{Trust, is_usable};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::endpoint::TlsFiles;
use super::failure::{Failure, Outcome};

fn unreadable(what: &str, path: &Path, cause: impl std::fmt::Display) -> Failure {
    Failure::Setting(format!("could not read the {what} `{}`: {cause}", path.display()))
}

/// A client configuration with these certificates.
pub(crate) fn configure(files: &TlsFiles) -> Outcome<Arc<ClientConfig>> {
    let trust = if files.verify {
        let authorities = CertificateDer::pem_file_iter(&files.authority)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable("CA certificate", &files.authority, error))?;
        if authorities.is_empty() {
            return Err(unreadable("CA certificate", &files.authority, "there is no certificate in it"));
        }
        if !authorities.iter().all(is_usable) {
            return Err(unreadable(
                "CA certificate",
                &files.authority,
                "there is one in it that is no authority's",
            ));
        }
        Trust::These(authorities)
    } else {
        Trust::Anyone
    };
    // Without --tlsverify the client's certificate is optional.
    let identity = if !files.verify && !files.certificate.exists() && !files.key.exists() {
        None
    } else {
        let chain = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable("certificate", &files.certificate, error))?;
        let key =
            PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable("key", &files.key, error))?;
        Some((chain, key))
    };
    let config = engine_trust::client(trust, identity);
    config.map(Arc::new).map_err(|error| unreadable("certificate", &files.certificate, error))
}
