//! The three networks that are always there, and the default bridge's configuration.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine_model::NetworkConfig;
use engine_model::id::random_id;
use jiff::Timestamp;

use super::addresses::Subnet;
use super::record::State;
use super::{
    BridgeRecord, DEFAULT_BRIDGE, DEFAULT_NETWORK, NetworkError, NetworkKind, NetworkRecord, bridge, networks,
};

/// Reads `bip`: the bridge's own address.
pub(super) fn bridge_address(text: &str) -> Result<(Ipv4Addr, Subnet), NetworkError> {
    Subnet::with_address(text)
        .ok()
        .filter(|(address, subnet)| *address != subnet.first() && *address != subnet.broadcast())
        .ok_or_else(|| NetworkError::BridgeAddress { value: text.chars().take(50).collect() })
}

/// Adds the three networks that are always there, and gives the default bridge what the configuration says.
pub(super) fn ensure(
    state: &mut State,
    wish: Option<(Ipv4Addr, Subnet)>,
    mtu: u32,
    config: &NetworkConfig,
) -> Result<(), NetworkError> {
    let known = state.networks.iter().find(|network| network.name == DEFAULT_NETWORK).cloned();
    let before = known.as_ref().and_then(NetworkRecord::bridge).map(|bridge| (bridge.gateway, bridge.subnet));
    let (gateway, subnet) = if let Some(address) = wish.or(before) {
        address
    } else {
        let subnet = networks::free_subnet(
            &config.pools,
            &bridge::subnets_in_use(&[DEFAULT_BRIDGE])?,
            state.networks.iter(),
        )?;
        (subnet.nth(1), subnet)
    };
    let option = |name: &str, value: &str| (format!("com.docker.network.{name}"), value.to_owned());
    let record = |name: &str, kind: NetworkKind, options: BTreeMap<String, String>| NetworkRecord {
        id: random_id(),
        name: name.to_owned(),
        created: Timestamp::now(),
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options,
        kind,
    };
    let options = BTreeMap::from([
        option("bridge.default_bridge", "true"),
        option("bridge.enable_icc", "true"),
        option("bridge.enable_ip_masquerade", "true"),
        option("bridge.host_binding_ipv4", &config.host_binding.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string()),
        option("bridge.name", DEFAULT_BRIDGE),
        option("driver.mtu", &mtu.to_string()),
    ]);
    let kind = NetworkKind::Bridge(BridgeRecord {
        interface: DEFAULT_BRIDGE.to_owned(),
        subnet,
        gateway,
        range: None,
        mtu,
        masquerade: true,
        among_themselves: true,
        host_binding: config.host_binding,
        auxiliary: BTreeMap::new(),
    });
    match state.networks.iter_mut().find(|network| network.name == DEFAULT_NETWORK) {
        Some(network) => {
            network.kind = kind;
            network.options = options;
        }
        None => state.networks.push(record(DEFAULT_NETWORK, kind, options)),
    }
    for (name, kind) in [("host", NetworkKind::Host), ("none", NetworkKind::Null)] {
        if !state.networks.iter().any(|network| network.name == name) {
            state.networks.push(record(name, kind, BTreeMap::new()));
        }
    }
    Ok(())
}
