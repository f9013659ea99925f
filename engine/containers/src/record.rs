//! What is kept about a container on disk, and how.
//!
//! `config.json` says what the container is; it changes when a client changes it, and survives a power cut. `state.json` says
//! how it is; it is brought to the disk when a client is told that the container is started or stopped. Without it, it is worked
//! out anew from the supervising process and the exit that this recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_model::ImageId;
use engine_model::wire::{Config, EndpointConfig, HealthConfig, HostConfig};
use engine_model::{Endpoint, PublishedPort};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::health::{Health, HealthStatus};

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
    #[serde(deserialize_with = "recorded")]
    pub config: Config,
    pub host: HostConfig,
    /// By the network's name as the client wrote it.
    pub networks: BTreeMap<String, EndpointConfig>,
    /// It was taken off the network of its `network_mode`, and is on the others alone as long as there is one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_first_network: bool,
    pub mounts: Vec<MountPoint>,
    /// `json-file`, `local` or `none`.
    pub log_driver: String,
    pub log_options: BTreeMap<String, String>,
}

/// What a client has asked for, maybe of an engine that knew nothing of health checks and kept whatever was said of them:
/// what makes no sense was without effect, and is so still.
fn recorded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Config, D::Error> {
    let mut fields = serde_json::Map::deserialize(deserializer)?;
    if fields.get("Healthcheck").is_some_and(|check| Option::<HealthConfig>::deserialize(check).is_err()) {
        let check = fields.remove("Healthcheck").unwrap_or_default();
        tracing::warn!(%check, "A container's health check makes no sense and has no effect");
    }
    Config::deserialize(serde_json::Value::Object(fields)).map_err(serde::de::Error::custom)
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
    /// Of one that is read-only: whether what is mounted below it stays as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable_below: bool,
    /// Whether an empty volume takes the image's content.
    pub copy: bool,
    /// Whether it goes with the container.
    pub anonymous: bool,
    /// Of a tmpfs.
    pub options: Vec<String>,
    /// Of a volume that is made for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The same: what it is made of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_options: BTreeMap<String, String>,
    /// Of a volume or an image: what of it is mounted; all of it when empty.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub subpath: PathBuf,
    /// Of an image, whose name is the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl MountPoint {
    /// Whether it is not the source itself that is mounted.
    pub fn is_part(&self) -> bool {
        self.kind == MountKind::Image || !is_empty(&self.subpath)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    Image,
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
    /// Whoever removes it wants its anonymous volumes removed, too; of use while it is `Removing`.
    pub with_volumes: bool,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<PublishedPort>,
    /// The networks that it was on when it ended, by name, with their ids.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub last_networks: BTreeMap<String, String>,
    /// Its network namespace was pinned when it was last started. Engines that pin nothing do not write this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// By its checks, if there are any. The disk may know an older log of them, never another status.
    #[serde(with = "shared_health", skip_serializing_if = "Option::is_none")]
    pub health: Option<Arc<Health>>,
}

impl State {
    /// What nobody asks any more counts as unwell, as in dockerd.
    pub(super) fn is_checked_no_more(&mut self) {
        if let Some(health) = &mut self.health {
            Arc::make_mut(health).status = HealthStatus::Unhealthy;
        }
    }

    /// `none` if nobody asks whether it is well.
    pub fn health_word(&self) -> &'static str {
        self.health.as_ref().map_or("none", |health| health.status.word())
    }
}

/// Whoever looks at a state takes a copy of it.
mod shared_health {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::health::Health;

    #[expect(clippy::ref_option, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(
        health: &Option<Arc<Health>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        health.as_deref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<Health>>, D::Error> {
        Ok(Option::<Health>::deserialize(deserializer)?.map(Arc::new))
    }
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
