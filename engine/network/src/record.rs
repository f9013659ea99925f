//! What the networks are, and who is on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine_model::{Endpoint, Naming, PublishedPort};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::addresses::Subnet;

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
    /// The address of the host on which ports are published that name none; all of them when absent.
    #[serde(default)]
    pub host_binding: Option<Ipv4Addr>,
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
    #[serde(default)]
    pub naming: Option<Naming>,
}

/// Everything that is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) networks: Vec<NetworkRecord>,
    pub(super) attachments: Vec<Attachment>,
    /// When a container last left a network, by its id.
    pub(super) last_used: BTreeMap<String, Timestamp>,
}
