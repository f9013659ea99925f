//! What the networks are, and who is on them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use engine_model::{Endpoint, Naming, PublishedPort};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::addresses::Subnet;

mod stored;

use stored::Stored;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Its subnets, those of IPv4 first.
    pub pools: Vec<PoolRecord>,
    pub kind: NetworkKind,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    pub subnet: Subnet,
    pub gateway: IpAddr,
    /// Where addresses for whoever has no wish come from.
    #[serde(default)]
    pub range: Option<Subnet>,
    /// Shown as asked for; nobody gets them.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl PoolRecord {
    /// A subnet of which nothing is said: its gateway is the first address.
    pub(super) fn plain(subnet: Subnet) -> Self {
        Self { subnet, gateway: subnet.nth(1), range: None, auxiliary: BTreeMap::new() }
    }
}

/// How a network works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    Bridge(BridgeRecord),
    Host,
    Null,
}

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeRecord {
    pub interface: String,
    pub mtu: u32,
    pub masquerade: bool,
    /// Containers may talk with each other.
    pub among_themselves: bool,
    /// The address of the host on which ports are published that name none; all of them when absent.
    #[serde(default)]
    pub host_binding: Option<Ipv4Addr>,
}

impl NetworkRecord {
    pub fn bridge(&self) -> Option<&BridgeRecord> {
        match &self.kind {
            NetworkKind::Bridge(bridge) => Some(bridge),
            NetworkKind::Host | NetworkKind::Null => None,
        }
    }

    /// Whether containers have IPv6 there.
    pub fn has_ipv6(&self) -> bool {
        self.pools.iter().any(|pool| pool.subnet.is_ipv6())
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
