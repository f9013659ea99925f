//! What the networks are, who is on them, and the file in which that survives the daemon.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::addresses::Subnet;
use super::{Endpoint, NetworkError, PublishedPort};

/// The file's format; a newer one is refused rather than misread.
const VERSION: u32 = 1;
/// Some hundred bytes for each container; this is for a hundred thousand.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    pub kind: NetworkKind,
}

/// How a network works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    Bridge(BridgeRecord),
    Host,
    Null,
}

/// A bridge and its subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeRecord {
    pub interface: String,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    #[serde(default)]
    pub range: Option<Subnet>,
    pub mtu: u32,
    pub masquerade: bool,
    /// Containers may talk with each other.
    pub among_themselves: bool,
    /// Shown as asked for, without a meaning of their own.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, Ipv4Addr>,
}

impl NetworkRecord {
    pub fn bridge(&self) -> Option<&BridgeRecord> {
        match &self.kind {
            NetworkKind::Bridge(bridge) => Some(bridge),
            NetworkKind::Host | NetworkKind::Null => None,
        }
    }

    pub fn driver(&self) -> &'static str {
        match self.kind {
            NetworkKind::Bridge(_) => "bridge",
            NetworkKind::Host => "host",
            NetworkKind::Null => "null",
        }
    }

    /// One of the three that are always there.
    pub fn is_built_in(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none")
    }
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub container: String,
    pub endpoint: Endpoint,
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
}

/// Everything that is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub(super) networks: Vec<NetworkRecord>,
    pub(super) attachments: Vec<Attachment>,
}

impl State {
    fn path(folder: &Path) -> PathBuf {
        folder.join("networks.json")
    }

    /// What was kept, or nothing when the engine is new.
    pub(super) fn load(folder: &Path) -> Result<Self, NetworkError> {
        let path = Self::path(folder);
        let failed = |source| NetworkError::ReadState { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            result => result.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
        let state: Self = serde_json::from_slice(&bytes)
            .map_err(|source| NetworkError::DamagedState { path: path.clone(), source })?;
        if state.version > VERSION {
            return Err(NetworkError::NewerState { path, found: state.version, known: VERSION });
        }
        Ok(state)
    }

    /// Puts the file in place of the one before: either the old or the new one is there, whatever happens.
    pub(super) fn save(&mut self, folder: &Path) -> Result<(), NetworkError> {
        self.version = VERSION;
        let path = Self::path(folder);
        self.write(folder, &path).map_err(|source| NetworkError::WriteState { path, source })
    }

    fn write(&self, folder: &Path, path: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".networks").tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|failure| failure.error)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        assert!(State::load(folder.path()).unwrap().networks.is_empty());
        let network = NetworkRecord {
            id: "1".repeat(64),
            name: "bridge".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            internal: false,
            attachable: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            kind: NetworkKind::Bridge(BridgeRecord {
                interface: "docker0".to_owned(),
                subnet: "172.17.0.0/16".parse().unwrap(),
                gateway: Ipv4Addr::new(172, 17, 0, 1),
                range: None,
                mtu: 1500,
                masquerade: true,
                among_themselves: true,
                auxiliary: BTreeMap::new(),
            }),
        };
        let mut state = State { networks: vec![network.clone()], ..State::default() };
        state.save(&folder.path().join("deeper")).unwrap();
        state.save(folder.path()).unwrap();
        assert_eq!(State::load(folder.path()).unwrap().networks, [network]);
    }

    #[test]
    fn what_is_damaged_or_from_the_future_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = State::path(folder.path());
        fs::write(&path, "{\"version\":1,\"netw").unwrap();
        assert!(matches!(State::load(folder.path()), Err(NetworkError::DamagedState { .. })));
        fs::write(&path, "{\"version\":9,\"networks\":[],\"attachments\":[]}").unwrap();
        assert!(matches!(State::load(folder.path()), Err(NetworkError::NewerState { found: 9, .. })));
    }
}
