//! What is kept about a container on disk, and how.
//!
//! `config.json` says what the container is; it changes when a client changes it. `state.json` says how it is; it can be
//! worked out anew from the supervising process and the exit that this recorded.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::{Config, EndpointConfig, HostConfig};
use crate::images::ImageId;
use crate::network::{Endpoint, PublishedPort};

/// A larger record is not read.
const LARGEST: u64 = 16 * 1024 * 1024;

pub const CONFIG_FILE: &str = "config.json";
pub const STATE_FILE: &str = "state.json";
/// Written by the supervising process.
pub const EXIT_FILE: &str = "exit.json";

/// What a container is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Of this record's shape.
    pub format: u32,
    pub id: String,
    /// Without the slash.
    pub name: String,
    pub created: Timestamp,
    pub image_id: ImageId,
    pub architecture: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    pub config: Config,
    pub host: HostConfig,
    /// By the network's name as the client wrote it.
    pub networks: BTreeMap<String, EndpointConfig>,
    pub mounts: Vec<MountPoint>,
    /// `json-file` or `none`.
    pub log_driver: String,
    pub log_options: BTreeMap<String, String>,
}

/// The shape that this version writes.
pub const FORMAT: u32 = 1;

/// Something mounted into a container at its maker's wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own")]
pub struct MountPoint {
    pub kind: MountKind,
    /// Of a volume.
    pub name: Option<String>,
    /// On the host; empty for a tmpfs.
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    /// As the client wrote it: `ro`, `z`, ….
    pub mode: String,
    pub propagation: String,
    pub recursive: bool,
    /// Whether an empty volume takes the image's content.
    pub copy: bool,
    /// Whether it goes with the container.
    pub anonymous: bool,
    /// Of a tmpfs.
    pub options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

/// How a container is.
///
/// ```text
/// Created ──start──▶ Running ◀──pause──▶ Paused
///    │                │   ▲                │
///    │              exit  └──after a while─┼─ Restarting
///    │                ▼                    │     ▲
///    └── remove ◀── Exited ◀───── exit ────┴─────┘
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub status: Status,
    pub pid: i32,
    pub exit_code: i32,
    pub error: String,
    pub out_of_memory: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub restart_count: u32,
    /// A client wanted it to end.
    pub manually_stopped: bool,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<PublishedPort>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether there is a process.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// Whether the content has to survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Durable,
    /// Replaced as a whole or not at all as long as the system runs.
    Atomic,
}

/// Writes a record over the old one.
pub fn write(path: &Path, record: &impl Serialize, durability: Durability) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    if durability == Durability::Durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if durability == Durability::Durable
        && let Some(parent) = path.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Reads a record.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut content)?;
    Ok(serde_json::from_slice(&content)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_state_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE_FILE);
        let state =
            State { status: Status::Paused, pid: 7, started_at: Some(Timestamp::now()), ..State::default() };
        for durability in [Durability::Durable, Durability::Atomic] {
            write(&path, &state, durability).unwrap();
            let found: State = read(&path).unwrap();
            assert_eq!((found.status, found.pid, found.started_at), (Status::Paused, 7, state.started_at));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert!(read::<State>(&path).is_err());
    }
}
