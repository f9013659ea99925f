//! The networks themselves: finding, making and removing them.

use std::net::IpAddr;

use engine_model::{Endpoint, Kind, PublishedPort};
use jiff::Timestamp;

use super::plan::{NewNetwork, check, plan, refused};
use super::record::VlanRecord;
use super::{
    Attachment, DEFAULT_NETWORK, Network, NetworkError, NetworkKind, NetworkRecord, Running, blocking,
    bridge, ipv6, running::as_filtered, vlan,
};

impl Running {
    /// The network of this name, id or unique beginning of an id.
    pub(super) fn find(&self, name: &str) -> Result<&NetworkRecord, NetworkError> {
        let name = if matches!(name, "" | "default") { DEFAULT_NETWORK } else { name };
        let networks = &self.state.networks;
        if let Some(network) = networks.iter().find(|network| network.name == name || network.id == name) {
            return Ok(network);
        }
        let matches: Vec<_> = networks.iter().filter(|network| network.id.starts_with(name)).collect();
        match matches[..] {
            [network] => Ok(network),
            [] => Err(NetworkError::NoSuchNetwork { name: name.chars().take(100).collect() }),
            _ => Err(NetworkError::Ambiguous { name: name.to_owned(), matches: matches.len() }),
        }
    }
}

impl Network {
    /// All networks, the oldest first.
    pub fn networks(&self) -> Vec<NetworkRecord> {
        self.running().state.networks.clone()
    }

    /// The network of this name, id or unique beginning of an id.
    pub fn find(&self, name: &str) -> Result<NetworkRecord, NetworkError> {
        self.running().find(name).cloned()
    }

    /// Containers that are on a network now.
    pub fn attachments(&self, network_id: &str) -> Vec<Attachment> {
        let running = self.running();
        let attachments = running.state.attachments.iter();
        attachments.filter(|attachment| attachment.endpoint.network_id == network_id).cloned().collect()
    }

    /// Where a container is, and the ports published for it there.
    pub fn places(&self, container: &str) -> Vec<(Endpoint, Vec<PublishedPort>)> {
        let running = self.running();
        let places = running.state.attachments.iter().filter(|attachment| attachment.container == container);
        places.map(|attachment| (attachment.endpoint.clone(), attachment.ports.clone())).collect()
    }

    /// What containers call `host-gateway`.
    pub fn host_gateways(&self) -> Vec<IpAddr> {
        if !self.inner.host_gateways.is_empty() {
            return self.inner.host_gateways.clone();
        }
        let running = self.running();
        let pools = running.find(DEFAULT_NETWORK).map(|network| network.pools.as_slice()).unwrap_or_default();
        pools.iter().map(|pool| pool.gateway).collect()
    }

    /// When a container was last seen to leave a network.
    pub fn last_used(&self, network_id: &str) -> Option<Timestamp> {
        self.running().state.last_used.get(network_id).copied()
    }

    /// Makes a network with a bridge of its own.
    pub async fn create(&self, wish: NewNetwork) -> Result<NetworkRecord, NetworkError> {
        check(&self.running().known(), &wish)?;
        if wish.ipv6 && !ipv6::is_enabled() {
            return Err(NetworkError::NoIpv6);
        }
        let in_use = blocking(|| bridge::subnets_in_use(&[])).await?;
        let (record, turn) = {
            let mut running = self.running();
            let known = running.known();
            check(&known, &wish)?;
            let record = plan(&known, wish, &self.inner.pools, &in_use)?;
            running.planned.push(record.clone());
            let turn = running.turn(&record.id);
            (record, turn)
        };
        // Who finds it as soon as it is known waits until all of it is there.
        let _turn = turn.lock_owned().await;
        let record = match self.make(record.clone()).await {
            Ok(record) => record,
            Err(error) => {
                self.running().forget(&record.id);
                return Err(error);
            }
        };
        self.save_networks().await?;
        Ok(record)
    }

    async fn make(&self, mut record: NetworkRecord) -> Result<NetworkRecord, NetworkError> {
        if let NetworkKind::Macvlan(vlan) | NetworkKind::Ipvlan(vlan) = &mut record.kind {
            vlan.made_parent = self.make_beside(vlan.clone(), record.id.clone()).await?;
            self.running().begin(record.clone());
            return Ok(record);
        }
        let (Some(bridge), Some(filtered)) = (record.bridge().cloned(), as_filtered(&record)) else {
            return Ok(record);
        };
        let (interface, pools) = (bridge.interface.clone(), record.pools.clone());
        if record.has_ipv6() {
            blocking(ipv6::enable_forwarding).await?;
        }
        blocking(move || bridge::ensure(&bridge, &pools)).await?;
        let (network, begun) = (self.clone(), record.clone());
        if let Err(error) = self.inner.rules.add(filtered, move || network.running().begin(begun)).await {
            blocking(move || bridge::remove(&interface)).await?;
            return Err(error);
        }
        Ok(record)
    }

    /// Has the host's interface ready for others beside it. Says whether it was made for that.
    async fn make_beside(&self, vlan: VlanRecord, id: String) -> Result<bool, NetworkError> {
        blocking(move || {
            let is_made = vlan::ensure_parent(&vlan)?;
            let probed = if vlan.kind.is_exclusive() { Ok(()) } else { vlan::probe(&vlan, &id) };
            if probed.is_err() && is_made {
                let _ = bridge::remove(&vlan.parent);
            }
            probed.map(|()| is_made)
        })
        .await
    }

    /// Removes a network without containers, with its bridge.
    pub async fn remove(&self, name: &str) -> Result<NetworkRecord, NetworkError> {
        let record = self.find(name)?;
        if record.is_built_in() {
            let message = format!("{} is a pre-defined network and cannot be removed", record.name);
            return Err(refused(Kind::Forbidden, message));
        }
        let (record, _turn) = self.turn(&record.id, name).await?;
        if self.running().state.attachments.iter().any(|one| one.endpoint.network_id == record.id) {
            let message =
                format!("error while removing network: network {} has active endpoints", record.name);
            return Err(refused(Kind::Forbidden, message));
        }
        if let Some(vlan) = record.vlan().cloned() {
            let is_shared = |other: &NetworkRecord| {
                other.id != record.id && other.vlan().is_some_and(|other| other.parent == vlan.parent)
            };
            if vlan.made_parent && !self.running().known().into_iter().any(is_shared) {
                blocking(move || bridge::remove(&vlan.parent)).await?;
            }
            self.running().forget(&record.id);
            self.save_networks().await?;
            return Ok(record);
        }
        let Some(interface) = record.bridge().map(|bridge| bridge.interface.clone()) else {
            return Ok(record);
        };
        let bridge = interface.clone();
        blocking(move || bridge::remove(&bridge)).await?;
        // Name, bridge and subnet are free only now that nothing of it is left.
        let (network, id) = (self.clone(), record.id.clone());
        let filtered = self.inner.rules.remove(interface, move || network.running().forget(&id)).await;
        self.save_networks().await?;
        filtered.map(|()| record)
    }
}
