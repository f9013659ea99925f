//! Where certificates lie: the authorities of a store, each with its client, and the copies in each host's folder.
//!
//! ```text
//! certs/                                the store's own authority
//!   ca.pem ca-key.pem cert.pem key.pem
//!   HEX/                                another one that hosts of this store are pinned to, by its fingerprint
//!     cert.pem key.pem                  its client, made by us
//!     ca.pem ca-key.pem                 only where it was the store's own once
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use machine_driver::HostName;
use machine_pki::{Fingerprint, Issued};

use super::{HostLock, Store, StoreError, StoreLock, leftovers, together};

/// Files are renamed into their places within moments, unless whoever does it was stopped in the middle.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The files that the user named instead of the store's own.
#[derive(Debug, Clone, Default)]
pub struct NamedFiles {
    pub authority: Option<PathBuf>,
    pub authority_key: Option<PathBuf>,
    pub client: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
}

/// The folder `certs/`, and the files that the user named instead.
#[derive(Debug, Clone)]
pub struct Certificates {
    store: Store,
    named: NamedFiles,
}

/// A certificate and its key, in the files of one folder or wherever the user keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl PairFiles {
    /// What is in them; `None` if neither is there.
    pub fn read(&self) -> Result<Option<Issued>, StoreError> {
        match together::read([&self.certificate, &self.key])? {
            [Some(certificate_pem), Some(key_pem)] => Ok(Some(Issued { certificate_pem, key_pem })),
            [None, None] => Ok(None),
            [Some(_), None] => {
                Err(StoreError::HalfPair { present: self.certificate.clone(), absent: self.key.clone() })
            }
            [None, Some(_)] => {
                Err(StoreError::HalfPair { present: self.key.clone(), absent: self.certificate.clone() })
            }
        }
    }
}

/// The PEM texts that a client needs. The key is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Every authority whose engines are believed.
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
#[derive(Clone, PartialEq, Eq)]
pub struct HostFiles {
    /// Every authority whose clients are let in.
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
        Self { store: store.clone(), named: NamedFiles::default() }
    }

    /// Uses these files instead of the store's own, where given.
    #[must_use]
    pub fn with_files(self, named: NamedFiles) -> Self {
        Self { named, ..self }
    }

    /// The folder of the store's own files.
    pub fn folder(&self) -> PathBuf {
        self.store.root().join("certs")
    }

    /// Where the authority lies that signs for new hosts.
    pub fn authority(&self) -> PairFiles {
        let own = self.own_authority();
        PairFiles {
            certificate: self.named.authority.clone().unwrap_or(own.certificate),
            key: self.named.authority_key.clone().unwrap_or(own.key),
        }
    }

    /// Whether the user named another authority than the store's own.
    pub fn names_authority(&self) -> bool {
        self.named.authority.is_some() || self.named.authority_key.is_some()
    }

    /// The client that the user named, if so.
    pub fn named_client(&self) -> Option<PairFiles> {
        let NamedFiles { client, client_key, .. } = &self.named;
        if client.is_none() && client_key.is_none() {
            return None;
        }
        let own = self.own_client();
        Some(PairFiles {
            certificate: client.clone().unwrap_or(own.certificate),
            key: client_key.clone().unwrap_or(own.key),
        })
    }

    /// The store's own authority.
    pub fn own_authority(&self) -> PairFiles {
        in_folder(&self.folder(), "ca.pem", "ca-key.pem")
    }

    /// The client of the store's own authority.
    pub fn own_client(&self) -> PairFiles {
        in_folder(&self.folder(), "cert.pem", "key.pem")
    }

    /// An authority that was the store's own once.
    pub fn kept_authority(&self, fingerprint: &Fingerprint) -> PairFiles {
        in_folder(&self.kept(fingerprint), "ca.pem", "ca-key.pem")
    }

    /// The client that was made here with an authority that is not the store's own.
    pub fn kept_client(&self, fingerprint: &Fingerprint) -> PairFiles {
        in_folder(&self.kept(fingerprint), "cert.pem", "key.pem")
    }

    fn kept(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.folder().join(fingerprint.digits())
    }

    /// Takes the lock that guards everything below `certs/`, and finishes what a killed process had begun there.
    pub fn lock(&self) -> Result<StoreLock, StoreError> {
        let folder = self.folder();
        super::make_folder(&folder)?;
        let lock = self.store.lock_shared()?;
        for folder in self.folders()? {
            together::finish(&folder)?;
            leftovers::sweep(&folder);
        }
        Ok(lock)
    }

    /// Removes what dead processes have left below `certs/`, one of which may be an authority's key. What cannot be read
    /// now is swept the next time.
    pub(super) fn sweep(&self) {
        self.folders().unwrap_or_default().iter().for_each(|folder| leftovers::sweep(folder));
    }

    /// `certs/`, and the folders of the authorities that are kept in it.
    fn folders(&self) -> Result<Vec<PathBuf>, StoreError> {
        let folder = self.folder();
        let failed = |source| StoreError::Read { path: folder.clone(), source };
        let mut folders = vec![folder.clone()];
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_kept = entry.file_name().to_str().is_some_and(|name| name.len() == 64);
            if is_kept && entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
        Ok(folders)
    }

    /// Makes this authority and its client the store's own. Those before stay in their place by their fingerprint.
    pub fn replace_own(&self, _: &StoreLock, authority: &Issued, client: &Issued) -> Result<(), StoreError> {
        if let Some(before) = self.own_authority().read()? {
            let fingerprint = Fingerprint::of(&before.certificate_pem).map_err(|source| {
                StoreError::Certificates { path: self.own_authority().certificate, source }
            })?;
            let mut files = vec![
                ("ca.pem", before.certificate_pem.as_str(), 0o644),
                ("ca-key.pem", before.key_pem.as_str(), 0o600),
            ];
            let client_before = self.own_client().read()?;
            if let Some(client) = &client_before {
                files.extend(pair("cert.pem", "key.pem", client));
            }
            self.replace_kept(&fingerprint, &files)?;
        }
        let mut files = pair("ca.pem", "ca-key.pem", authority).to_vec();
        files.extend(pair("cert.pem", "key.pem", client));
        together::replace(&self.folder(), &files)
    }

    /// Replaces the client of the store's own authority.
    pub fn replace_own_client(&self, _: &StoreLock, client: &Issued) -> Result<(), StoreError> {
        together::replace(&self.folder(), &pair("cert.pem", "key.pem", client))
    }

    /// Replaces the client of another authority.
    pub fn replace_kept_client(
        &self,
        _: &StoreLock,
        fingerprint: &Fingerprint,
        client: &Issued,
    ) -> Result<(), StoreError> {
        self.replace_kept(fingerprint, &pair("cert.pem", "key.pem", client))
    }

    fn replace_kept(
        &self,
        fingerprint: &Fingerprint,
        files: &[together::NewFile<'_>],
    ) -> Result<(), StoreError> {
        let folder = self.kept(fingerprint);
        super::make_folder(&folder)?;
        together::replace(&folder, files)
    }
}

/// What lies in a host's folder. Its record says what it has to be.
#[derive(Debug, Clone, Default)]
pub struct HostCopies {
    pub ca_pem: Option<String>,
    pub client: Option<Issued>,
    pub server: Option<Issued>,
}

impl Store {
    /// The certificates in a host's folder. Half a pair counts for none here: it is one of ours, and is issued again.
    pub fn host_copies(&self, name: &HostName) -> Result<HostCopies, StoreError> {
        let [ca_pem, cert_pem, key_pem, server_pem, server_key_pem] =
            self.host_files(name, ["ca.pem", "cert.pem", "key.pem", "server.pem", "server-key.pem"])?;
        let whole = |certificate: Option<String>, key: Option<String>| {
            certificate.zip(key).map(|(certificate_pem, key_pem)| Issued { certificate_pem, key_pem })
        };
        Ok(HostCopies { ca_pem, client: whole(cert_pem, key_pem), server: whole(server_pem, server_key_pem) })
    }

    /// The client's files in a host's folder, or which of them is missing.
    pub fn host_client(&self, name: &HostName) -> Result<ClientFiles, StoreError> {
        let files = ["ca.pem", "cert.pem", "key.pem"];
        let texts = self.host_files(name, files)?;
        let absent = texts.iter().position(Option::is_none).map(|index| files[index]);
        match texts {
            [Some(ca_pem), Some(cert_pem), Some(key_pem)] => Ok(ClientFiles { ca_pem, cert_pem, key_pem }),
            _ => Err(StoreError::Absent {
                path: self.folder(name).join(absent.unwrap_or_default()),
                name: name.clone(),
            }),
        }
    }

    /// What is in these files of a host's folder, of one moment.
    fn host_files<const N: usize>(
        &self,
        name: &HostName,
        files: [&str; N],
    ) -> Result<[Option<String>; N], StoreError> {
        let paths = files.map(|file| self.folder(name).join(file));
        together::read(paths.each_ref().map(PathBuf::as_path))
    }

    /// Sees to it that the certificates in a host's folder are those that were committed last, for programs that read
    /// them by themselves. Takes the host's lock only if somebody has not finished replacing them, and waits a moment for
    /// one who is still at it.
    pub fn settle(&self, name: &HostName) -> Result<(), StoreError> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        while together::is_unfinished(&self.folder(name)) {
            match self.lock(name) {
                // Taking it has finished what there was.
                Ok(_) => {}
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => {
                    thread::sleep(LOOK_EVERY);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Replaces the certificates in a host's folder, all at once.
    pub fn replace_host_copies(
        &self,
        lock: &HostLock,
        name: &HostName,
        client: &ClientFiles,
        server: Option<&HostFiles>,
    ) -> Result<(), StoreError> {
        lock.assert_for(name);
        let mut files = vec![
            ("ca.pem", client.ca_pem.as_str(), 0o644),
            ("cert.pem", client.cert_pem.as_str(), 0o644),
            ("key.pem", client.key_pem.as_str(), 0o600),
        ];
        if let Some(server) = server {
            files.push(("server.pem", server.server_pem.as_str(), 0o644));
            files.push(("server-key.pem", server.server_key_pem.as_str(), 0o600));
        }
        together::replace(&self.folder(name), &files)
    }
}

fn pair<'a>(certificate: &'a str, key: &'a str, issued: &'a Issued) -> [together::NewFile<'a>; 2] {
    [(certificate, issued.certificate_pem.as_str(), 0o644), (key, issued.key_pem.as_str(), 0o600)]
}

fn in_folder(folder: &Path, certificate: &str, key: &str) -> PairFiles {
    PairFiles { certificate: folder.join(certificate), key: folder.join(key) }
}
