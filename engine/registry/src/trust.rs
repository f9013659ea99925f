//! Whose certificates are believed of a registry: the host's authorities', and those in its own folder.

use std::fs;
use std::path::{Path, PathBuf};

use engine_trust::{Identity, authorities, is_usable};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::RegistryError;

/// What is believed of a registry, and shown to it.
#[derive(Default)]
pub(crate) struct Trust {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) identity: Option<Identity>,
}

/// Everything for one registry, called `host[:port]`.
pub(crate) fn of(folders: &[PathBuf], registry: &str) -> Result<Trust, RegistryError> {
    let mut trust = Trust { roots: authorities(), identity: None };
    // A name from outside must not lead elsewhere.
    if registry.contains('/') || registry.starts_with('.') {
        return Ok(trust);
    }
    for folder in folders {
        read_folder(&folder.join(registry), &mut trust)?;
    }
    Ok(trust)
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
            if !is_usable(&der) {
                return Err(failed(path, &"it is no authority's"));
            }
            trust.roots.push(der);
        }
    }
    for path in with("cert") {
        let key = path.with_extension("key");
        let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| failed(&key, &error))?;
        trust.identity = Some((chain.map_err(|error| failed(path, &error))?, secret));
    }
    Ok(())
}
