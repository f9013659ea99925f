//! The configuration of an image, in the shape of the image specification.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::null_is_default;

/// What a container starts with if it does not say otherwise; the `config` part of an image configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(with = "keys_of_empty_objects")]
    pub exposed_ports: BTreeSet<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    #[serde(with = "keys_of_empty_objects")]
    pub volumes: BTreeSet<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub stop_timeout: Option<u64>,
    pub shell: Option<Vec<String>>,
    pub on_build: Option<Vec<String>>,
    /// Kept as it was written: `Test`, `Interval`, `Timeout`, `Retries`, ….
    pub healthcheck: Option<serde_json::Value>,
}

/// Docker writes a set as `{"80/tcp": {}}`.
mod keys_of_empty_objects {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, serde_json::json!({}))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde_json::Value>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

/// One step in an image's history, as its configuration records it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    pub created: Option<Timestamp>,
    #[serde(deserialize_with = "null_is_default")]
    pub created_by: String,
    #[serde(deserialize_with = "null_is_default")]
    pub author: String,
    #[serde(deserialize_with = "null_is_default")]
    pub comment: String,
    #[serde(deserialize_with = "null_is_default")]
    pub empty_layer: bool,
}
