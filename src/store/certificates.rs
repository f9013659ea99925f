//! The store's certificates: one authority and one client certificate for all hosts, one server certificate each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use machine_driver::HostName;
use machine_pki::{Authority, PkiError};

use super::{Store, StoreError, atomic};

/// The folder `certs/`, or the files that the user named instead.
#[derive(Debug, Clone)]
pub struct Certificates {
    store: Store,
    folder: PathBuf,
    authority: PathBuf,
    authority_key: PathBuf,
    client: PathBuf,
    client_key: PathBuf,
}

/// The PEM texts that a client needs. The key is secret.
#[derive(Clone)]
pub struct ClientFiles {
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for ClientFiles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ClientFiles").finish_non_exhaustive()
    }
}

/// The PEM texts that a host's engine needs. The key is secret.
#[derive(Clone)]
pub struct HostFiles {
    pub ca_pem: String,
    pub server_pem: String,
    pub server_key_pem: String,
}

impl std::fmt::Debug for HostFiles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HostFiles").finish_non_exhaustive()
    }
}

impl Certificates {
    pub(super) fn of(store: &Store) -> Self {
        let folder = store.root().join("certs");
        Self {
            store: store.clone(),
            authority: folder.join("ca.pem"),
            authority_key: folder.join("ca-key.pem"),
            client: folder.join("cert.pem"),
            client_key: folder.join("key.pem"),
            folder,
        }
    }

    /// Uses these files instead of the store's own, where given.
    #[must_use]
    pub fn with_files(
        mut self,
        authority: Option<PathBuf>,
        authority_key: Option<PathBuf>,
        client: Option<PathBuf>,
        client_key: Option<PathBuf>,
    ) -> Self {
        self.authority = authority.unwrap_or(self.authority);
        self.authority_key = authority_key.unwrap_or(self.authority_key);
        self.client = client.unwrap_or(self.client);
        self.client_key = client_key.unwrap_or(self.client_key);
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn authority(&self) -> PathBuf {
        self.authority.clone()
    }

    pub fn authority_key(&self) -> PathBuf {
        self.authority_key.clone()
    }

    pub fn client(&self) -> PathBuf {
        self.client.clone()
    }

    pub fn client_key(&self) -> PathBuf {
        self.client_key.clone()
    }

    /// The authority, made if there is none. `made` is told the path of whatever is new.
    ///
    /// One that is there is checked (key, CA flag, dates) and never replaced.
    pub fn ensure_authority(&self, made: &mut dyn FnMut(Made<'_>)) -> Result<Authority, StoreError> {
        let (certificate, key) = (read(&self.authority)?, read(&self.authority_key)?);
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Authority::load(&certificate, &key).map_err(|source| self.unusable(source))
            }
            (None, None) => {
                made(Made::Authority(&self.authority));
                let authority =
                    Authority::generate(&organization(None)).map_err(|source| self.unusable(source))?;
                self.make_parent(&self.authority_key)?;
                self.make_parent(&self.authority)?;
                atomic::write(&self.authority_key, authority.key_pem().as_bytes(), 0o600)?;
                atomic::write(&self.authority, authority.certificate_pem().as_bytes(), 0o644)?;
                Ok(authority)
            }
            (Some(_), None) => Err(StoreError::HalfPair {
                present: self.authority.clone(),
                absent: self.authority_key.clone(),
            }),
            (None, Some(_)) => Err(StoreError::HalfPair {
                present: self.authority_key.clone(),
                absent: self.authority.clone(),
            }),
        }
    }

    /// The client certificate, made if there is none or if the one there is not of this authority or has expired.
    pub fn ensure_client(
        &self,
        authority: &Authority,
        made: &mut dyn FnMut(Made<'_>),
    ) -> Result<ClientFiles, StoreError> {
        let ca_pem = authority.certificate_pem().to_owned();
        if let (Some(cert_pem), Some(key_pem)) = (read(&self.client)?, read(&self.client_key)?) {
            let usage = machine_pki::Usage::Client;
            match machine_pki::verify_issued(&ca_pem, &cert_pem, &key_pem, usage, jiff::Timestamp::now()) {
                Ok(()) => return Ok(ClientFiles { ca_pem, cert_pem, key_pem }),
                // The user's own file is not ours to replace.
                Err(source) if !self.client.starts_with(&self.folder) => return Err(self.unusable(source)),
                Err(_) => {}
            }
        }
        self.issue_client(authority, made)
    }

    /// A new client certificate in place of the old one.
    pub fn issue_client(
        &self,
        authority: &Authority,
        made: &mut dyn FnMut(Made<'_>),
    ) -> Result<ClientFiles, StoreError> {
        made(Made::Client(&self.client));
        let issued = authority
            .issue_client(&organization(Some("<bootstrap>")))
            .map_err(|source| self.unusable(source))?;
        self.make_parent(&self.client_key)?;
        self.make_parent(&self.client)?;
        atomic::write(&self.client_key, issued.key_pem.as_bytes(), 0o600)?;
        atomic::write(&self.client, issued.certificate_pem.as_bytes(), 0o644)?;
        Ok(ClientFiles {
            ca_pem: authority.certificate_pem().to_owned(),
            cert_pem: issued.certificate_pem,
            key_pem: issued.key_pem,
        })
    }

    /// A server certificate for a host, and copies of what its clients need, all in the host's folder.
    ///
    /// A certificate that is there is kept if it is of this authority, carries exactly these names, and has a
    /// month to go; `renew` replaces it in any case.
    pub fn ensure_server(
        &self,
        authority: &Authority,
        client: &ClientFiles,
        name: &HostName,
        names: &[String],
        renew: bool,
    ) -> Result<HostFiles, StoreError> {
        let folder = self.store.folder(name);
        let (server, server_key) = (folder.join("server.pem"), folder.join("server-key.pem"));
        for (file, text, mode) in [
            ("ca.pem", &client.ca_pem, 0o644),
            ("cert.pem", &client.cert_pem, 0o644),
            ("key.pem", &client.key_pem, 0o600),
        ] {
            let path = folder.join(file);
            if read(&path)?.as_ref() != Some(text) {
                atomic::write(&path, text.as_bytes(), mode)?;
            }
        }
        let ca_pem = authority.certificate_pem().to_owned();
        if !renew
            && let (Some(server_pem), Some(server_key_pem)) = (read(&server)?, read(&server_key)?)
            && still_good(&ca_pem, &server_pem, &server_key_pem, names)
        {
            return Ok(HostFiles { ca_pem, server_pem, server_key_pem });
        }
        let issued = authority
            .issue_server(&organization(Some(name.as_str())), names)
            .map_err(|source| StoreError::Certificates { path: folder.clone(), source })?;
        atomic::write(&server_key, issued.key_pem.as_bytes(), 0o600)?;
        atomic::write(&server, issued.certificate_pem.as_bytes(), 0o644)?;
        Ok(HostFiles { ca_pem, server_pem: issued.certificate_pem, server_key_pem: issued.key_pem })
    }

    /// What a client of this host presents, from the host's folder.
    pub fn client_of(&self, name: &HostName) -> Result<ClientFiles, StoreError> {
        let folder = self.store.folder(name);
        let file = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).map_err(|source| StoreError::Read { path, source })
        };
        Ok(ClientFiles { ca_pem: file("ca.pem")?, cert_pem: file("cert.pem")?, key_pem: file("key.pem")? })
    }

    fn make_parent(&self, path: &Path) -> Result<(), StoreError> {
        self.store.make_folder(path.parent().unwrap_or_else(|| Path::new(".")))
    }

    fn unusable(&self, source: PkiError) -> StoreError {
        let path = self.authority.parent().unwrap_or(&self.folder).to_owned();
        StoreError::Certificates { path, source }
    }
}

/// Something that was made anew.
#[derive(Debug, Clone, Copy)]
pub enum Made<'a> {
    Authority(&'a Path),
    Client(&'a Path),
}

/// A server certificate is renewed when less than this is left of it.
const RENEW_BEFORE: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);

fn still_good(ca_pem: &str, server_pem: &str, server_key_pem: &str, names: &[String]) -> bool {
    let soon = jiff::Timestamp::now() + RENEW_BEFORE;
    let Ok(facts) = machine_pki::inspect(server_pem) else { return false };
    let mut wanted: Vec<&String> = names.iter().collect();
    let mut found: Vec<&String> = facts.names.iter().collect();
    wanted.sort();
    wanted.dedup();
    found.sort();
    let usage = machine_pki::Usage::Server;
    wanted == found && machine_pki::verify_issued(ca_pem, server_pem, server_key_pem, usage, soon).is_ok()
}

/// The organization in a certificate's subject: `USER`, or `USER.PART`.
fn organization(part: Option<&str>) -> String {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "unknown".into());
    match part {
        Some(part) => format!("{user}.{part}"),
        None => user,
    }
}

fn read(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read { path: path.to_owned(), source }),
    }
}
