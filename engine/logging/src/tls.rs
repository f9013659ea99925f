//! What is believed of a log server, and shown to it.

use std::path::Path;
use std::sync::Arc;

use engine_trust::{Trust, authorities, is_usable};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::driver::DriverError;

/// The files that the options name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Files<'a> {
    /// Authorities to believe beside the host's.
    pub(crate) authorities: Option<&'a str>,
    pub(crate) certificate: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    /// Whoever it is, it is believed.
    pub(crate) anyone: bool,
}

pub(crate) fn client(files: Files<'_>) -> Result<Arc<ClientConfig>, DriverError> {
    let trust = match files.authorities {
        _ if files.anyone => Trust::Anyone,
        None => Trust::These(authorities()),
        Some(path) => {
            let named = certificates(path)?;
            if !named.iter().all(is_usable) {
                return Err(failed(path, &"there is a certificate in it that is no authority's"));
            }
            Trust::These(authorities().into_iter().chain(named).collect())
        }
    };
    let (shown, identity) = match (files.certificate, files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let secret = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| failed(key, &error))?;
            (certificate, Some((chain, secret)))
        }
        _ => ("the host's authorities", None),
    };
    let config = engine_trust::client(trust, identity);
    config.map(Arc::new).map_err(|error| failed(shown, &error))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, DriverError> {
    let read =
        CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| failed(path, &error))?;
    if found.is_empty() { Err(failed(path, &"there is no certificate in it")) } else { Ok(found) }
}

fn failed(path: &str, error: &dyn std::fmt::Display) -> DriverError {
    DriverError::new(format!("Could not use `{path}` for TLS: {error}"))
}
