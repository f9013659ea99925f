//! Whose certificates are believed: the host's authorities, Mozilla's where it has none, and a registry's own folder.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, Identity};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::RegistryError;

/// What is believed of a registry, and shown to it.
#[derive(Default)]
pub(crate) struct Trust {
    pub(crate) roots: Vec<Certificate>,
    pub(crate) identity: Option<Identity>,
}

/// Everything for one registry, called `host[:port]`.
pub(crate) fn of(folders: &[PathBuf], registry: &str) -> Result<Trust, RegistryError> {
    let mut trust = Trust { roots: system(), identity: None };
    // A name from outside must not lead elsewhere.
    if registry.contains('/') || registry.starts_with('.') {
        return Ok(trust);
    }
    for folder in folders {
        read_folder(&folder.join(registry), &mut trust)?;
    }
    Ok(trust)
}

/// The host's authorities, or Mozilla's.
pub fn authorities() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "Some of the host's certificates of authorities could not be read");
    }
    let mut ders = found.certs;
    if ders.is_empty() {
        ders = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
    }
    ders
}

pub(crate) fn system() -> Vec<Certificate> {
    authorities().into_iter().filter_map(|der| usable(&der)).collect()
}

/// One bad certificate among the host's is no reason to do without the others.
fn usable(der: &CertificateDer<'_>) -> Option<Certificate> {
    RootCertStore::empty().add(der.clone().into_owned()).ok()?;
    Certificate::from_der(der).ok()
}

fn read_folder(folder: &Path, trust: &mut Trust) -> Result<(), RegistryError> {
    let failed = |path: &Path, reason: &dyn ToString| RegistryError::Certificate {
        path: path.display().to_string(),
        reason: reason.to_string(),
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(folder, &error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| failed(folder, &error))?.path());
    }
    paths.sort();
    let with = |ending: &str| {
        let ending = ending.to_owned();
        paths.iter().filter(move |path| path.extension().is_some_and(|found| *found == *ending))
    };
    for path in with("crt") {
        let bytes = fs::read(path).map_err(|error| failed(path, &error))?;
        for der in CertificateDer::pem_slice_iter(&bytes) {
            let der = der.map_err(|error| failed(path, &error))?;
            trust.roots.push(usable(&der).ok_or_else(|| failed(path, &"it is no authority's"))?);
        }
    }
    for path in with("cert") {
        let key = path.with_extension("key");
        let mut both = fs::read(path).map_err(|error| failed(path, &error))?;
        both.push(b'\n');
        both.extend(fs::read(&key).map_err(|error| failed(&key, &error))?);
        trust.identity = Some(Identity::from_pem(&both).map_err(|error| failed(path, &error))?);
    }
    Ok(())
}
