//! What the networks are, who is on them, and the file in which that survives the daemon.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

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
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) networks: Vec<NetworkRecord>,
    pub(super) attachments: Vec<Attachment>,
}

/// The networks as they lie on disk.
#[derive(Serialize, Deserialize)]
struct Networks {
    version: u32,
    networks: Vec<NetworkRecord>,
}

/// Who is on them. It changes with every container, and containers end with the machine, so it need not survive a power cut:
/// what is damaged counts as empty, and the containers' own records fill it again.
#[derive(Default, Serialize, Deserialize)]
struct Attachments {
    version: u32,
    attachments: Vec<Attachment>,
}

fn networks_path(folder: &Path) -> PathBuf {
    folder.join("networks.json")
}

fn attachments_path(folder: &Path) -> PathBuf {
    folder.join("endpoints.json")
}

/// A file's content; nothing if it is not there.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Puts a file in place of the one before: either the old or the new one is there.
fn write(
    folder: &Path,
    path: &Path,
    content: &impl Serialize,
    survives_power_cut: bool,
) -> Result<(), NetworkError> {
    let replace = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".new").tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        if survives_power_cut {
            file.as_file().sync_all()?;
        }
        file.persist(path).map_err(|failure| failure.error)?;
        if survives_power_cut { File::open(folder)?.sync_all() } else { Ok(()) }
    };
    replace().map_err(|source| NetworkError::WriteState { path: path.to_owned(), source })
}

impl State {
    /// What was kept, or nothing when the engine is new.
    pub(super) fn load(folder: &Path) -> Result<Self, NetworkError> {
        let path = networks_path(folder);
        let bytes = read(&path).map_err(|source| NetworkError::ReadState { path: path.clone(), source })?;
        let Some(bytes) = bytes else { return Ok(Self::default()) };
        let Networks { version, networks } = serde_json::from_slice(&bytes)
            .map_err(|source| NetworkError::DamagedState { path: path.clone(), source })?;
        if version > VERSION {
            return Err(NetworkError::NewerState { path, found: version, known: VERSION });
        }
        let path = attachments_path(folder);
        let kept = read(&path).and_then(|bytes| {
            bytes.map_or_else(|| Ok(Attachments::default()), |bytes| Ok(serde_json::from_slice(&bytes)?))
        });
        let Attachments { attachments, .. } = kept.unwrap_or_else(|error| {
            warn!(%error, path = %path.display(), "Who was on which network is not known any more");
            Attachments::default()
        });
        Ok(Self { networks, attachments })
    }

    /// Keeps the networks.
    pub(super) fn save_networks(&self, folder: &Path) -> Result<(), NetworkError> {
        let content = Networks { version: VERSION, networks: self.networks.clone() };
        write(folder, &networks_path(folder), &content, true)
    }

    /// Keeps who is on them.
    pub(super) fn save_attachments(&self, folder: &Path) -> Result<(), NetworkError> {
        let content = Attachments { version: VERSION, attachments: self.attachments.clone() };
        write(folder, &attachments_path(folder), &content, false)
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
        let state = State { networks: vec![network.clone()], ..State::default() };
        state.save_networks(&folder.path().join("deeper")).unwrap();
        state.save_networks(folder.path()).unwrap();
        assert_eq!(State::load(folder.path()).unwrap().networks, [network]);
    }

    #[test]
    fn what_is_damaged_or_from_the_future_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = networks_path(folder.path());
        fs::write(&path, "{\"version\":1,\"netw").unwrap();
        assert!(matches!(State::load(folder.path()), Err(NetworkError::DamagedState { .. })));
        fs::write(&path, "{\"version\":9,\"networks\":[]}").unwrap();
        assert!(matches!(State::load(folder.path()), Err(NetworkError::NewerState { found: 9, .. })));
        // Who was on them can be found out again.
        fs::write(&path, "{\"version\":1,\"networks\":[]}").unwrap();
        fs::write(attachments_path(folder.path()), "{\"vers").unwrap();
        assert!(State::load(folder.path()).unwrap().attachments.is_empty());
    }
}
