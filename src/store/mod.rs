//! Host records on disk: where they are, how they are read and written, and who may change them.
//!
//! ```text
//! STORE/                      0700; --storage-path, MACHINE_STORAGE_PATH, ~/.docker/machine
//!   .lock                     the lock of `certs/`
//!   store-id                  the random id that owns what was made at providers
//!   certs/                    the store's authority and its client; see `certificates`
//!   cache/                    base images, shared by hosts
//!   locks/NAME                one lock for each host, with its owner's pid and command
//!   machines/NAME/            a host's folder, 0700
//!     config.json             its record (this module), 0600
//!     identity.json           who the host is, should the record be damaged
//!     config.json.bak         the record as docker-machine left it, kept when it is first rewritten
//!     id_ed25519[.pub]        the key that logs in, where `machine` made it
//!     ssh_host_ed25519_key    the host key until it has been delivered
//!     ca.pem cert.pem key.pem server.pem server-key.pem
//!     …                       whatever the driver keeps (disks, logs)
//! ```
//!
//! Files whose names begin with `.tmp-`, and folders with `.new-`, are about to get their names; those that a killed
//! process left are swept by the next one. `.commit` in a folder holds files that belong together and are on their way.
//!
//! A host exists when `machines/NAME/` exists. Readers take no lock and write nothing: a record is replaced by renaming, so
//! that it is always whole, and files that belong together are read so (see `together`).

mod atomic;
mod bounded;
mod certificates;
mod error;
mod files;
mod id;
mod journal;
mod leftovers;
mod lock;
mod migrate;
mod phase;
mod record;
mod relocate;
mod text;
mod together;
mod transport;

pub use atomic::write as write_atomically;
pub use certificates::{Certificates, ClientFiles, HostFiles, NamedFiles, PairFiles};
pub use error::StoreError;
pub use journal::RecordJournal;
pub use lock::{HostLock, StoreLock};
pub use phase::{Operation, Phase, PhaseError};
pub use record::{CONFIG_VERSION, DriverRecord, EngineOptions, HostOptions, Record, SwarmOptions};
pub use transport::Transport;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use machine_driver::{HostId, HostName};

/// A record larger than this is not one of ours. In bytes.
const RECORD_BYTES_AT_MOST: u64 = 4 << 20;

/// The store: a folder of host records.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What is written once beside the record, so that a host whose record is damaged can still be removed.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Identity {
    pub id: HostId,
    pub driver_name: String,
    /// What the driver was configured with.
    #[serde(default)]
    pub config: serde_json::Value,
}

impl Identity {
    fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// A host of the store, with its record or the reason why it cannot be read.
pub type Listed = (String, Result<Record, StoreError>);

impl Store {
    /// The store at `root`, which need not exist yet. A relative path is made absolute.
    pub fn at(root: &Path) -> Result<Self, StoreError> {
        let root =
            std::path::absolute(root).map_err(|source| StoreError::Read { path: root.to_owned(), source })?;
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The id that owns what this store's hosts consist of at providers; `None` as long as it never had one.
    pub fn id(&self) -> Result<Option<String>, StoreError> {
        id::read(&self.root)
    }

    /// The same, made if there is none.
    pub fn ensure_id(&self) -> Result<String, StoreError> {
        make_folder(&self.root)?;
        id::ensure(&self.root)
    }

    /// The folder of a host, existing or not.
    pub fn folder(&self, name: &HostName) -> PathBuf {
        self.machines().join(name.as_str())
    }

    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub fn certificates(&self) -> Certificates {
        Certificates::of(self)
    }

    fn machines(&self) -> PathBuf {
        self.root.join("machines")
    }

    fn record_path(&self, name: &HostName) -> PathBuf {
        self.folder(name).join("config.json")
    }

    /// Whether there is a host of this name. Where nobody can tell there is one, of which reading will say why not.
    pub fn exists(&self, name: &HostName) -> bool {
        let folder = self.folder(name);
        match fs::metadata(&folder) {
            Ok(metadata) => metadata.is_dir(),
            // A link that leads nowhere is there, and so may be what it leads to.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::symlink_metadata(&folder).is_ok(),
            Err(error) => error.kind() != io::ErrorKind::NotADirectory,
        }
    }

    /// The names of all hosts, sorted by byte. Folders that begin with a dot are none. Of what nobody can tell
    /// whether it is a folder there may be a host behind it.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let path = self.machines();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // A link that leads nowhere, to a disk that is not mounted, is not nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {
                return Ok(Vec::new());
            }
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let mut names: Vec<String> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // No host of ours has such a name, but somebody's folder may; it is listed with an error.
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let is_folder = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata.is_dir(),
                // Reading it will say why nobody can tell; one that was removed meanwhile is none.
                Err(_) => fs::symlink_metadata(entry.path()).is_ok(),
            };
            if is_folder {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// All hosts with their records; a broken record is listed with its error.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        Ok(self
            .names()?
            .into_iter()
            .map(|name| {
                let record = match name.parse::<HostName>() {
                    Ok(host) => self.load(&host),
                    Err(source) => Err(StoreError::Name(source)),
                };
                (name, record)
            })
            .collect())
    }

    /// Reads a host's record, bringing an older format up to date in memory.
    pub fn load(&self, name: &HostName) -> Result<Record, StoreError> {
        let path = self.record_path(name);
        if !self.exists(name) {
            return Err(StoreError::Missing { name: name.clone() });
        }
        let size =
            fs::metadata(&path).map_err(|source| StoreError::Read { path: path.clone(), source })?.len();
        if size > RECORD_BYTES_AT_MOST {
            return Err(StoreError::TooLarge { path, at_most: RECORD_BYTES_AT_MOST });
        }
        let text =
            fs::read_to_string(&path).map_err(|source| StoreError::Read { path: path.clone(), source })?;
        record::parse(&text, name, self, &path)
    }

    /// Takes the lock of a host that may exist or not. Fails at once when somebody else holds it.
    pub fn lock(&self, name: &HostName) -> Result<HostLock, StoreError> {
        self.ensure_id()?;
        let locks = self.root.join("locks");
        make_folder(&locks)?;
        let lock = HostLock::take(&locks, name)?;
        // Whoever held it before may have been killed.
        let folder = self.folder(name);
        together::finish(&folder)?;
        for folder in [&folder, &self.machines(), &self.root] {
            leftovers::sweep(folder);
        }
        self.certificates().sweep();
        Ok(lock)
    }

    /// Takes the lock of what all hosts share. Waits for whoever holds it.
    pub(in crate::store) fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        make_folder(&self.root)?;
        leftovers::sweep(&self.root);
        StoreLock::take(&self.root.join(".lock"))
    }

    /// Makes a new host's folder and writes its first record.
    pub fn plan(&self, lock: &HostLock, record: &mut Record) -> Result<(), StoreError> {
        lock.assert_for(&record.name);
        if self.exists(&record.name) {
            return Err(StoreError::Exists { name: record.name.clone() });
        }
        make_folder(&self.machines())?;
        // The folder appears with its record in it, or not at all.
        let parent = self.machines();
        let failed = |source| StoreError::Write { path: parent.clone(), source };
        let temporary =
            files::temporary(leftovers::FOLDER_PREFIX, 0o700).tempdir_in(&parent).map_err(failed)?;
        // Until the folder has its name.
        let _claim = files::Claim::on_folder(temporary.path()).map_err(failed)?;
        atomic::write(&temporary.path().join("config.json"), record.to_json().as_bytes(), 0o600)?;
        let identity = Identity {
            id: record.id,
            driver_name: record.driver_name.clone(),
            config: record.driver.config.clone(),
        };
        atomic::write(&temporary.path().join("identity.json"), identity.to_json().as_bytes(), 0o600)?;
        let folder = self.folder(&record.name);
        let made = temporary.keep();
        files::rename(&made, &folder).map_err(|source| {
            let _ = fs::remove_dir_all(&made);
            StoreError::Write { path: folder.clone(), source }
        })?;
        atomic::sync_folder(&parent)
    }

    /// Replaces a host's record. The record of an older format is kept beside it.
    pub fn save(&self, lock: &HostLock, record: &mut Record) -> Result<(), StoreError> {
        lock.assert_for(&record.name);
        let path = self.record_path(&record.name);
        if record.migrated_from.is_some() {
            let old = fs::read(&path).map_err(|source| StoreError::Read { path: path.clone(), source })?;
            atomic::write(&path.with_extension("json.bak"), &old, 0o600)?;
            // Only now: a save that failed before is done whole when it is tried again.
            record.migrated_from = None;
        }
        atomic::write(&path, record.to_json().as_bytes(), 0o600)
    }

    /// Who a host is, when its record cannot be read any more; `None` if that was never written down.
    pub fn identity(&self, name: &HostName) -> Result<Option<Identity>, StoreError> {
        let path = self.folder(name).join("identity.json");
        let Some(text) = bounded::read(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| StoreError::malformed(&path, &error))
    }

    /// Deletes a host's folder, record last, so that a crash leaves a host that can be removed again.
    pub fn delete(&self, lock: HostLock, name: &HostName) -> Result<(), StoreError> {
        lock.assert_for(name);
        let folder = self.folder(name);
        let failed = |source| StoreError::Write { path: folder.clone(), source };
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(failed)?;
                    if entry.file_name() == "config.json" {
                        continue;
                    }
                    let removed = if entry.file_type().map_err(failed)?.is_dir() {
                        fs::remove_dir_all(entry.path())
                    } else {
                        fs::remove_file(entry.path())
                    };
                    removed.map_err(failed)?;
                }
                // There is never a host without a record: the rest goes under a name that is swept.
                let leaving =
                    self.machines().join(format!("{}{}", leftovers::FOLDER_PREFIX, uuid::Uuid::new_v4()));
                files::rename(&folder, &leaving).map_err(failed)?;
                fs::remove_dir_all(&leaving).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(source)),
        }
        lock.abandon();
        Ok(())
    }
}

/// Makes a folder of the store, for the user alone, with its parents.
fn make_folder(path: &Path) -> Result<(), StoreError> {
    private_files::make_folder(path).map_err(|source| StoreError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
