//! The files in which networks, and who is on them, survive the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine_model::chain;
use engine_store::{Durability, Quarantine, ReadError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::NetworkError;
use super::rebuild::rebuild;
use super::record::{Attachment, NetworkRecord, State};

/// The file's format; a newer one is refused rather than misread.
const VERSION: u32 = 2;
/// The format of engines that knew bridges alone, in which it is written as long as there are no others.
const BRIDGES_ALONE: u32 = 1;

/// The networks as they lie on disk.
#[derive(Serialize, Deserialize)]
struct Networks {
    version: u32,
    networks: Vec<NetworkRecord>,
}

/// Who is on them. It changes with every container, and containers end with the machine, so it need not survive a power cut:
/// what is damaged is set aside, and the containers' own records fill it again.
#[derive(Default, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "so it lies on disk")]
struct Attachments {
    version: u32,
    attachments: Vec<Attachment>,
    #[serde(default)]
    last_used: BTreeMap<String, Timestamp>,
}

fn networks_path(folder: &Path) -> PathBuf {
    folder.join("networks.json")
}

fn attachments_path(folder: &Path) -> PathBuf {
    folder.join("endpoints.json")
}

/// Puts a file in place of the one before.
fn write(
    folder: &Path,
    path: &Path,
    content: &impl Serialize,
    durability: Durability,
) -> Result<(), NetworkError> {
    fs::create_dir_all(folder)
        .and_then(|()| engine_store::write(path, content, durability))
        .map_err(|source| NetworkError::WriteState { path: path.to_owned(), source })
}

impl State {
    /// What was kept, or nothing when the engine is new. Networks that cannot be understood are set aside, and made anew as far
    /// as containers are on them: without them, those that run would be cut off.
    pub(super) fn load(folder: &Path, quarantine: &Quarantine) -> Result<Self, NetworkError> {
        let path = networks_path(folder);
        let networks = match engine_store::read_versioned::<Networks>(&path, VERSION) {
            Ok(None) => return Ok(Self::default()),
            Ok(Some(Networks { networks, .. })) => Some(networks),
            Err(error) if !error.is_damage() => return Err(error.into()),
            Err(error) => {
                set_aside(quarantine, &path, &error)?;
                None
            }
        };
        let path = attachments_path(folder);
        let Attachments { attachments, last_used, .. } = match engine_store::read::<Attachments>(&path) {
            Ok(kept) => kept.unwrap_or_default(),
            Err(error @ ReadError::Io { .. }) => return Err(error.into()),
            Err(error) => {
                set_aside(quarantine, &path, &error)?;
                Attachments::default()
            }
        };
        let is_lost = networks.is_none();
        let mut state = Self { networks: networks.unwrap_or_default(), attachments, last_used };
        if is_lost {
            let endpoints: Vec<_> =
                state.attachments.iter().map(|attachment| attachment.endpoint.clone()).collect();
            rebuild(&mut state, endpoints.iter());
        }
        Ok(state)
    }

    /// Keeps the networks.
    pub(super) fn save_networks(&self, folder: &Path) -> Result<(), NetworkError> {
        let has_others = self.networks.iter().any(|network| network.vlan().is_some());
        let version = if has_others { VERSION } else { BRIDGES_ALONE };
        let content = Networks { version, networks: self.networks.clone() };
        write(folder, &networks_path(folder), &content, Durability::Durable)
    }

    /// Keeps who is on them.
    pub(super) fn save_attachments(&self, folder: &Path) -> Result<(), NetworkError> {
        let (attachments, last_used) = (self.attachments.clone(), self.last_used.clone());
        let content = Attachments { version: BRIDGES_ALONE, attachments, last_used };
        write(folder, &attachments_path(folder), &content, Durability::Atomic)
    }
}

fn set_aside(quarantine: &Quarantine, path: &Path, error: &ReadError) -> Result<(), NetworkError> {
    match quarantine.set_aside(path, &chain(error)) {
        Ok(_) => Ok(()),
        Err(source) => Err(NetworkError::WriteState { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::record::{BridgeRecord, NetworkKind, PoolRecord};

    const IN_USE: &str = r#"{"version":1,"attachments":[{"container":"c","endpoint":{"endpoint_id":"e","network_id":"n",
        "network_name":"mine","container_name":"c","interface":"eth0","host_interface":"veth0","address":"172.17.0.2",
        "prefix":16,"gateway":null,"ipv6":{"address":"fd00:7::2","prefix":64,"gateway":null},"mac_address":"02:42:ac:11:00:02","mtu":1500}}]}"#;

    fn load(folder: &Path) -> Result<State, NetworkError> {
        State::load(folder, &Quarantine::of(folder))
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().networks.is_empty());
        let network = NetworkRecord {
            id: "1".repeat(64),
            name: "bridge".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            internal: false,
            attachable: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            pools: ["172.17.0.0/16", "fd00:1::/64"]
                .map(|text| PoolRecord::plain(text.parse().unwrap()))
                .to_vec(),
            kind: NetworkKind::Bridge(BridgeRecord {
                interface: "docker0".to_owned(),
                mtu: 1500,
                masquerade: true,
                among_themselves: true,
                host_binding: None,
            }),
        };
        let state = State { networks: vec![network.clone()], ..State::default() };
        state.save_networks(&folder.path().join("deeper")).unwrap();
        state.save_networks(folder.path()).unwrap();
        assert_eq!(load(folder.path()).unwrap().networks, [network]);
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_what_is_newer_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        let path = networks_path(folder);
        let set_aside = || fs::read_dir(folder.join("quarantine")).map_or(0, Iterator::count);
        fs::write(&path, "{\"version\":9,\"networks\":[]}").unwrap();
        assert!(matches!(load(folder), Err(NetworkError::State(ReadError::Newer { found: 9, .. }))));
        assert!(path.exists() && set_aside() == 0);
        fs::write(&path, "{\"version\":1,\"netw").unwrap();
        // Those that containers are on are made anew.
        fs::write(attachments_path(folder), IN_USE).unwrap();
        let state = load(folder).unwrap();
        let [network] = &state.networks[..] else { panic!("{:?}", state.networks) };
        let bridge = network.bridge().unwrap();
        assert_eq!((network.id.as_str(), network.name.as_str(), network.internal), ("n", "mine", true));
        assert_eq!((bridge.interface.as_str(), bridge.mtu), ("br-n", 1500));
        let subnets: Vec<String> = network.pools.iter().map(|pool| pool.subnet.to_string()).collect();
        assert_eq!(subnets, ["172.17.0.0/16", "fd00:7::/64"]);
        assert_eq!((state.attachments.len(), set_aside()), (1, 1));
        assert!(!path.exists());
        fs::remove_file(attachments_path(folder)).unwrap();
        fs::write(&path, "{\"version\":1,\"netw").unwrap();
        assert!(load(folder).unwrap().networks.is_empty());
        assert!(!path.exists() && set_aside() == 2);
        // Who was on them can be found out again.
        fs::write(&path, "{\"version\":1,\"networks\":[]}").unwrap();
        fs::write(attachments_path(folder), "{\"vers").unwrap();
        assert!(load(folder).unwrap().attachments.is_empty());
        assert_eq!(set_aside(), 3);
    }
}
