//! Networks whose record is lost, made anew from what the containers on them have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine_model::Endpoint;
use jiff::Timestamp;
use tracing::warn;

use super::addresses::Subnet;
use super::record::State;
use super::{BridgeRecord, DEFAULT_BRIDGE, DEFAULT_NETWORK, NetworkKind, NetworkRecord, PoolRecord, bridge};

/// Adds the networks of these endpoints that are not known; says whether there were any. What nobody can tell any more, such as
/// labels and options, is lost with the record.
pub(super) fn rebuild<'a>(state: &mut State, endpoints: impl Iterator<Item = &'a Endpoint>) -> bool {
    let mut is_changed = false;
    for endpoint in endpoints {
        if state.networks.iter().any(|network| network.id == endpoint.network_id) {
            continue;
        }
        if endpoint.host_interface.is_empty() {
            warn!(network = %endpoint.network_name, container = %endpoint.container_name,
                "What is known of a network beside an interface of the host is lost");
            continue;
        }
        let Some(subnet) = Subnet::of(endpoint.address, endpoint.prefix) else { continue };
        is_changed = true;
        let name = &endpoint.network_name;
        let kind = NetworkKind::Bridge(BridgeRecord {
            interface: bridge_of(endpoint),
            mtu: endpoint.mtu,
            masquerade: true,
            among_themselves: true,
            host_binding: None,
        });
        let mut pools = vec![made_anew(subnet, endpoint.gateway.map(IpAddr::from))];
        if let Some(place) = endpoint.ipv6
            && let Some(subnet) = Subnet::of(place.address, place.prefix)
        {
            pools.push(made_anew(subnet, place.gateway.map(IpAddr::from)));
        }
        // One of those that are always there was made anew in the meantime: it is this one.
        if let Some(known) =
            state.networks.iter_mut().find(|known| known.name == *name && known.is_built_in())
        {
            known.id.clone_from(&endpoint.network_id);
            known.kind = kind;
            known.pools = pools;
            continue;
        }
        warn!(network = %name, container = %endpoint.container_name, "A network was made anew from a container's place on it");
        state.networks.push(NetworkRecord {
            id: endpoint.network_id.clone(),
            name: name.clone(),
            created: Timestamp::now(),
            internal: endpoint.gateway.is_none(),
            attachable: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            pools,
            kind,
        });
    }
    is_changed
}

fn made_anew(subnet: Subnet, gateway: Option<IpAddr>) -> PoolRecord {
    let plain = PoolRecord::plain(subnet);
    PoolRecord { gateway: gateway.unwrap_or(plain.gateway), ..plain }
}

/// The bridge that an endpoint's cable is plugged into, or where it would be.
fn bridge_of(endpoint: &Endpoint) -> String {
    if endpoint.network_name == DEFAULT_NETWORK {
        return DEFAULT_BRIDGE.to_owned();
    }
    bridge::of_cable(&endpoint.host_interface).unwrap_or_else(|| bridge::usual_name(&endpoint.network_id))
}
