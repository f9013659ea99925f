//! The three networks that are always there, and the default bridge's configuration.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine_model::id::random_id;
use engine_model::{AddressPool, NetworkConfig};
use jiff::Timestamp;

use super::addresses::Subnet;
use super::record::State;
use super::{
    BridgeRecord, DEFAULT_BRIDGE, DEFAULT_NETWORK, NetworkError, NetworkKind, NetworkRecord, PoolRecord,
    bridge, ipv6, pools,
};

/// Reads `bip`: the bridge's own address.
pub(super) fn bridge_address(text: &str) -> Result<PoolRecord, NetworkError> {
    Subnet::with_address(text)
        .ok()
        .filter(|(address, subnet)| subnet.is_ipv4() && subnet.is_for_hosts(*address))
        .map(|(gateway, subnet)| PoolRecord { gateway, ..PoolRecord::plain(subnet) })
        .ok_or_else(|| NetworkError::BridgeAddress { value: text.chars().take(50).collect() })
}

/// Reads `fixed-cidr-v6`.
pub(super) fn fixed_subnet(text: &str) -> Result<PoolRecord, NetworkError> {
    let subnet: Option<Subnet> = text.parse().ok();
    subnet
        .filter(|subnet| subnet.is_ipv6())
        .map(PoolRecord::plain)
        .ok_or_else(|| NetworkError::FixedSubnet { value: text.chars().take(50).collect() })
}

/// The default bridge's subnets: as configured, as they were before, or free ones.
fn subnets(
    state: &State,
    wishes: [Option<PoolRecord>; 2],
    config: &NetworkConfig,
    choice: &[AddressPool],
) -> Result<Vec<PoolRecord>, NetworkError> {
    let known = state.networks.iter().find(|network| network.name == DEFAULT_NETWORK);
    let others = || state.networks.iter().filter(|network| network.name != DEFAULT_NETWORK);
    let mut found = Vec::new();
    for (ipv4, wish) in [true, false].into_iter().zip(wishes) {
        if !ipv4 && !config.ipv6 {
            continue;
        }
        let before = || known?.pools.iter().find(|pool| pool.subnet.is_ipv4() == ipv4).cloned();
        found.push(if let Some(pool) = wish.or_else(before) {
            pool
        } else {
            let in_use = bridge::subnets_in_use(&[DEFAULT_BRIDGE])?;
            PoolRecord::plain(pools::free_subnet(ipv4, choice, &in_use, others())?)
        });
    }
    Ok(found)
}

/// Adds the three networks that are always there, and gives the default bridge what the configuration says.
pub(super) fn ensure(
    state: &mut State,
    wishes: [Option<PoolRecord>; 2],
    mtu: u32,
    config: &NetworkConfig,
    choice: &[AddressPool],
) -> Result<(), NetworkError> {
    if config.ipv6 && !ipv6::is_enabled() {
        return Err(NetworkError::NoIpv6);
    }
    let subnets = subnets(state, wishes, config, choice)?;
    let option = |name: &str, value: &str| (format!("com.docker.network.{name}"), value.to_owned());
    let record = |name: &str, kind, options, pools| NetworkRecord {
        id: random_id(),
        name: name.to_owned(),
        created: Timestamp::now(),
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options,
        pools,
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
        mtu,
        masquerade: true,
        among_themselves: true,
        host_binding: config.host_binding,
    });
    match state.networks.iter_mut().find(|network| network.name == DEFAULT_NETWORK) {
        Some(network) => {
            network.kind = kind;
            network.options = options;
            network.pools = subnets;
        }
        None => state.networks.push(record(DEFAULT_NETWORK, kind, options, subnets)),
    }
    for (name, kind) in [("host", NetworkKind::Host), ("none", NetworkKind::Null)] {
        if !state.networks.iter().any(|network| network.name == name) {
            state.networks.push(record(name, kind, BTreeMap::new(), Vec::new()));
        }
    }
    Ok(())
}
