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
    Macvlan(VlanRecord),
    Ipvlan(VlanRecord),
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

/// Interfaces of containers beside one of the host's, with which they share its wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanRecord {
    /// The host's interface.
    pub parent: String,
    pub kind: VlanKind,
    /// The engine has made the host's interface, and removes it with the network.
    pub made_parent: bool,
    /// That of the host's interface when absent.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// How they share it, in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VlanKind {
    Macvlan { mode: u32 },
    Ipvlan { mode: u16, flag: u16 },
}

impl VlanKind {
    /// Whether one container has the host's interface for itself.
    pub(super) fn is_exclusive(self) -> bool {
        self == Self::Macvlan { mode: 8 }
    }

    /// Whether containers reach all others by what the host's interface knows of routes, not by a gateway.
    pub(super) fn is_routed(self) -> bool {
        matches!(self, Self::Ipvlan { mode: 1 | 2, .. })
    }
}

impl NetworkRecord {
    pub fn vlan(&self) -> Option<&VlanRecord> {
        match &self.kind {
            NetworkKind::Macvlan(vlan) | NetworkKind::Ipvlan(vlan) => Some(vlan),
            _ => None,
        }
    }

    pub fn bridge(&self) -> Option<&BridgeRecord> {
        match &self.kind {
            NetworkKind::Bridge(bridge) => Some(bridge),
            _ => None,
        }
    }

    /// Whether containers have IPv6 there.
    pub fn has_ipv6(&self) -> bool {
        self.pools.iter().any(|pool| pool.subnet.is_ipv6())
    }

    pub fn driver(&self) -> &'static str {
        match self.kind {
            NetworkKind::Bridge(_) => "bridge",
            NetworkKind::Macvlan(_) => "macvlan",
            NetworkKind::Ipvlan(_) => "ipvlan",
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
