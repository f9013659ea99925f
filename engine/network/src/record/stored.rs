//! A network's record as it lies on disk: in the form of engines that knew one subnet for each, of IPv4, with all subnets beside it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BridgeRecord, NetworkKind, NetworkRecord, PoolRecord, VlanRecord};

/// A record of any engine. An engine of before reads what it knows of it and goes on with IPv4.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    id: String,
    name: String,
    created: Timestamp,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    options: BTreeMap<String, String>,
    #[serde(default)]
    pools: Vec<PoolRecord>,
    kind: StoredKind,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredKind {
    Bridge(StoredBridge),
    Macvlan(VlanRecord),
    Ipvlan(VlanRecord),
    Host,
    Null,
}

#[derive(Serialize, Deserialize)]
struct StoredBridge {
    #[serde(flatten)]
    bridge: BridgeRecord,
    /// The subnet of IPv4.
    #[serde(flatten)]
    pool: Option<PoolRecord>,
}

/// A record that no engine has written.
#[derive(Debug, thiserror::Error)]
#[error("the network {0:?} has no subnet")]
pub(super) struct NoSubnet(String);

impl TryFrom<Stored> for NetworkRecord {
    type Error = NoSubnet;

    fn try_from(stored: Stored) -> Result<Self, NoSubnet> {
        let Stored { id, name, created, internal, attachable, labels, options, mut pools, kind } = stored;
        let kind = match kind {
            StoredKind::Bridge(StoredBridge { bridge, pool }) => {
                if pools.is_empty() {
                    pools.extend(pool);
                }
                if pools.is_empty() {
                    return Err(NoSubnet(name));
                }
                NetworkKind::Bridge(bridge)
            }
            StoredKind::Macvlan(vlan) => NetworkKind::Macvlan(vlan),
            StoredKind::Ipvlan(vlan) => NetworkKind::Ipvlan(vlan),
            StoredKind::Host => NetworkKind::Host,
            StoredKind::Null => NetworkKind::Null,
        };
        Ok(Self { id, name, created, internal, attachable, labels, options, pools, kind })
    }
}

impl From<NetworkRecord> for Stored {
    fn from(record: NetworkRecord) -> Self {
        let NetworkRecord { id, name, created, internal, attachable, labels, options, pools, kind } = record;
        let kind = match kind {
            NetworkKind::Bridge(bridge) => {
                let pool = pools.iter().find(|pool| pool.subnet.is_ipv4()).cloned();
                StoredKind::Bridge(StoredBridge { bridge, pool })
            }
            NetworkKind::Macvlan(vlan) => StoredKind::Macvlan(vlan),
            NetworkKind::Ipvlan(vlan) => StoredKind::Ipvlan(vlan),
            NetworkKind::Host => StoredKind::Host,
            NetworkKind::Null => StoredKind::Null,
        };
        Self { id, name, created, internal, attachable, labels, options, pools, kind }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::IpAddr;

    use super::*;

    /// As the engine of commit aad5484 wrote it.
    const OF_BEFORE: &str = r#"{"id":"n","name":"mine","created":"2026-11-29T10:00:00Z","internal":false,"attachable":true,
        "labels":{"a":"b"},"options":{},"kind":{"bridge":{"interface":"br-n","subnet":"10.5.0.0/24","gateway":"10.5.0.9",
        "range":"10.5.0.128/26","mtu":1400,"masquerade":true,"among_themselves":true,"host_binding":null,
        "auxiliary":{"router":"10.5.0.3"}}}}"#;

    #[test]
    fn a_record_of_before_is_read_and_one_of_now_is_read_by_engines_of_before() {
        let mut record: NetworkRecord = serde_json::from_str(OF_BEFORE).unwrap();
        let bridge = record.bridge().unwrap();
        assert_eq!((bridge.interface.as_str(), bridge.mtu, bridge.masquerade), ("br-n", 1400, true));
        let [pool] = &record.pools[..] else { panic!("{:?}", record.pools) };
        assert_eq!((pool.subnet.to_string().as_str(), pool.gateway), ("10.5.0.0/24", [10, 5, 0, 9].into()));
        assert_eq!(pool.range.unwrap().to_string(), "10.5.0.128/26");
        assert_eq!(pool.auxiliary["router"], IpAddr::from([10, 5, 0, 3]));
        assert!(!record.has_ipv6());

        record.pools.push(PoolRecord::plain("fd00:5::/64".parse().unwrap()));
        let written = serde_json::to_value(&record).unwrap();
        let before: serde_json::Value = serde_json::from_str(OF_BEFORE).unwrap();
        assert_eq!(written["kind"], before["kind"]);
        assert_eq!(serde_json::from_value::<NetworkRecord>(written).unwrap(), record);
        let host = r#"{"id":"h","name":"host","created":"2026-11-29T10:00:00Z","kind":"host"}"#;
        assert!(serde_json::from_str::<NetworkRecord>(host).unwrap().pools.is_empty());
        let odd = r#"{"id":"h","name":"x","created":"2026-11-29T10:00:00Z","kind":{"bridge":{"interface":"b","mtu":1500,
            "masquerade":true,"among_themselves":true}}}"#;
        assert!(
            serde_json::from_str::<NetworkRecord>(odd).unwrap_err().to_string().contains("has no subnet")
        );
    }
}
