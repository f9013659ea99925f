//! Network configuration, version 2 of the NoCloud format: which interface gets which addresses.

use std::net::IpAddr;

use serde::Deserialize;

use super::{NETWORK_CONFIG, SeedError, Table, parse_yaml};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    /// Some tools wrap everything in `network`.
    network: Option<Box<Document>>,
    version: Option<u64>,
    ethernets: Table<Ethernet>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct NetworkConfig {
    ethernets: Table<Ethernet>,
}

/// What one interface, or each that matches, is to have.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Ethernet {
    #[serde(rename = "match")]
    selector: Option<Selector>,
    dhcp4: Option<bool>,
    addresses: Vec<String>,
    gateway4: Option<String>,
    gateway6: Option<String>,
    routes: Vec<Route>,
    nameservers: NameServers,
    mtu: Option<u32>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Selector {
    name: Option<String>,
    macaddress: Option<String>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Route {
    to: String,
    via: String,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct NameServers {
    addresses: Vec<String>,
    search: Vec<String>,
}

/// What is to be done for one interface, all values checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    pub(crate) dhcp: bool,
    /// With prefix length.
    pub(crate) addresses: Vec<String>,
    /// Destination and gateway.
    pub(crate) routes: Vec<(String, String)>,
    pub(crate) name_servers: Vec<String>,
    pub(crate) search: Vec<String>,
    pub(crate) mtu: Option<u32>,
}

impl NetworkConfig {
    pub(super) fn parse(text: &str) -> Result<NetworkConfig, SeedError> {
        let mut document: Document = parse_yaml(NETWORK_CONFIG, text)?;
        if let Some(inner) = document.network.take() {
            document = *inner;
        }
        match document.version {
            Some(2) | None => Ok(NetworkConfig { ethernets: document.ethernets }),
            Some(other) => Err(SeedError::NetworkVersion(other)),
        }
    }

    /// What the configuration says for an interface; nothing if it is not mentioned.
    pub(crate) fn plan(&self, interface: &str, mac: &str) -> Option<Plan> {
        self.ethernets
            .iter()
            .find(|(key, ethernet)| ethernet.selects(key, interface, mac))
            .map(|(_, it)| it.plan())
    }
}

impl Ethernet {
    fn selects(&self, key: &str, interface: &str, mac: &str) -> bool {
        match &self.selector {
            None => key == interface,
            Some(selector) => {
                let by_name = selector.name.as_deref().is_none_or(|pattern| name_fits(pattern, interface));
                let by_mac =
                    selector.macaddress.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(mac));
                by_name && by_mac && (selector.name.is_some() || selector.macaddress.is_some())
            }
        }
    }

    fn plan(&self) -> Plan {
        let is_address = |text: &String| text.parse::<IpAddr>().is_ok();
        let mut routes: Vec<(String, String)> = Vec::new();
        for gateway in [&self.gateway4, &self.gateway6].into_iter().flatten() {
            routes.push(("default".to_owned(), gateway.clone()));
        }
        routes.extend(self.routes.iter().map(|route| {
            let to = if matches!(route.to.as_str(), "0.0.0.0/0" | "::/0") { "default" } else { &route.to };
            (to.to_owned(), route.via.clone())
        }));
        routes.retain(|(to, via)| (to == "default" || is_network(to)) && is_address(via));
        let plain = |name: &&String| {
            name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter))
        };
        Plan {
            // An entry without any address means DHCP: an interface that is mentioned is wanted.
            dhcp: self.dhcp4.unwrap_or(self.addresses.is_empty()),
            addresses: self.addresses.iter().filter(|address| is_network(address)).cloned().collect(),
            routes,
            name_servers: self
                .nameservers
                .addresses
                .iter()
                .filter(|server| is_address(server))
                .cloned()
                .collect(),
            search: self.nameservers.search.iter().filter(plain).cloned().collect(),
            mtu: self.mtu.filter(|mtu| (68..=65_535).contains(mtu)),
        }
    }
}

/// An address with an optional prefix length.
fn is_network(text: &str) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "0"));
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => length <= 128,
        _ => false,
    }
}

/// `eth0`, or the beginning of a name and a star.
fn name_fits(pattern: &str, interface: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            interface.len() >= before.len() + after.len()
                && interface.starts_with(before)
                && interface.ends_with(after)
        }
        None => pattern == interface,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STATIC: &str = "version: 2\nethernets:\n  main:\n    match: {macaddress: '52:54:00:AA:BB:CC'}\n    \
        addresses: [10.0.0.5/24, 'fd00::5/64', '10.0.0.5/99', 'x; reboot']\n    gateway4: 10.0.0.1\n    \
        routes: [{to: 0.0.0.0/0, via: 10.0.0.2}, {to: 10.9.0.0/16, via: 10.0.0.3}, {to: default, via: nowhere}]\n    \
        nameservers: {addresses: [10.0.0.1, bad], search: [example.test, 'a b']}\n    mtu: 1400\n";

    #[test]
    fn a_static_interface_by_its_mac() {
        let plan = NetworkConfig::parse(STATIC).unwrap().plan("eth0", "52:54:00:aa:bb:cc").unwrap();
        assert!(!plan.dhcp);
        assert_eq!(plan.addresses, ["10.0.0.5/24", "fd00::5/64"]);
        let routes: Vec<String> = plan.routes.iter().map(|(to, via)| format!("{to} {via}")).collect();
        assert_eq!(routes, ["default 10.0.0.1", "default 10.0.0.2", "10.9.0.0/16 10.0.0.3"]);
        assert_eq!(
            (plan.name_servers, plan.search),
            (vec!["10.0.0.1".to_owned()], vec!["example.test".to_owned()])
        );
        assert_eq!(plan.mtu, Some(1400));
    }

    #[test]
    fn others_are_not_concerned() {
        let config = NetworkConfig::parse(STATIC).unwrap();
        assert_eq!(config.plan("main", "52:54:00:00:00:01"), None);
    }

    #[test]
    fn by_name_and_wrapped() {
        let config = NetworkConfig::parse(
            "network:\n  version: 2\n  ethernets:\n    eth0: {dhcp4: true}\n    rest: {match: {name: 'en*'}, dhcp4: false}\n",
        )
        .unwrap();
        assert!(config.plan("eth0", "").unwrap().dhcp);
        assert!(!config.plan("enp0s3", "").unwrap().dhcp);
        assert_eq!(config.plan("wlan0", ""), None);
    }

    #[test]
    fn an_entry_without_addresses_means_dhcp() {
        let config = NetworkConfig::parse("version: 2\nethernets: {eth0: {}}").unwrap();
        assert!(config.plan("eth0", "").unwrap().dhcp);
    }

    #[test]
    fn other_versions_are_refused() {
        assert!(matches!(NetworkConfig::parse("version: 1\nconfig: []"), Err(SeedError::NetworkVersion(1))));
    }
}
