//! How a container wishes to be on a network, understood.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use engine_model::spec::EndpointSpec;
use engine_model::wire::EndpointConfig;
use engine_model::{EndpointRequest, Naming};

use super::ContainerError;

/// Settings of the interface, separated by commas.
const SETTINGS: &str = "com.docker.network.endpoint.sysctls";
/// What the interface is called in the container.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";
/// The options of an endpoint that are followed.
pub(crate) const OPTIONS: [&str; 2] = [SETTINGS, INTERFACE];

/// What the kernel allows.
const LONGEST_INTERFACE: usize = 15;
const LONGEST_VALUE: usize = 100;

fn invalid(message: impl Into<String>) -> ContainerError {
    ContainerError::Invalid(message.into())
}

/// What a wish for a place on a network means.
pub fn endpoint(network: &str, wish: &EndpointConfig) -> Result<EndpointSpec, ContainerError> {
    let ipam = wish.ipam_config.clone().unwrap_or_default();
    let none = BTreeMap::new();
    let options = wish.driver_opts.as_ref().unwrap_or(&none);
    let option = |name: &str| options.get(name).map(String::as_str).filter(|value| !value.is_empty());
    Ok(EndpointSpec {
        network: network.to_owned(),
        address: address::<Ipv4Addr>("IPv4", &ipam.ipv4_address)?,
        ipv6_address: address::<Ipv6Addr>("IPv6", &ipam.ipv6_address)?,
        link_local: ipam
            .link_local_ips
            .iter()
            .flatten()
            .map(|text| link_local(text))
            .collect::<Result<_, _>>()?,
        interface: option(INTERFACE).map(interface).transpose()?,
        settings: option(SETTINGS).map(settings).transpose()?.unwrap_or_default(),
        mac_address: Some(wish.mac_address.clone()).filter(|text| !text.is_empty()),
        aliases: wish.aliases.clone().unwrap_or_default(),
        links: links(wish.links.as_deref().unwrap_or_default())?,
        gw_priority: wish.gw_priority,
    })
}

/// What is asked of the network.
pub fn request(wish: &EndpointSpec, container_name: &str, naming: Naming) -> EndpointRequest {
    EndpointRequest {
        network: wish.network.clone(),
        container_name: container_name.to_owned(),
        address: wish.address,
        ipv6_address: wish.ipv6_address,
        link_local: wish.link_local.clone(),
        interface: wish.interface.clone(),
        settings: wish.settings.clone(),
        mac_address: wish.mac_address.clone(),
        aliases: wish.aliases.clone(),
        links: wish.links.clone(),
        gw_priority: wish.gw_priority,
        naming: Some(naming),
    }
}

fn address<T: FromStr>(family: &str, text: &str) -> Result<Option<T>, ContainerError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| invalid(format!("invalid {family} address: {text:.50}")))
}

fn link_local(text: &str) -> Result<IpAddr, ContainerError> {
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let address = text.parse().ok().filter(is_local);
    address.ok_or_else(|| invalid(format!("invalid link-local IP address: {text:.50}")))
}

fn interface(name: &str) -> Result<String, ContainerError> {
    let is_good = name.len() <= LONGEST_INTERFACE
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if is_good {
        return Ok(name.to_owned());
    }
    Err(invalid(format!("invalid interface name (`{INTERFACE}`): {name:.50}")))
}

/// Reads `net.ipv4.conf.IFNAME.log_martians=1,…`. The interface is never named otherwise, as nobody knows its name before. (A
/// client that writes the option into its `--network` makes small letters of it.)
fn settings(text: &str) -> Result<Vec<(String, String)>, ContainerError> {
    let read = |setting: &str| {
        let refuse = || {
            invalid(format!(
                "unrecognised sysctl (`{SETTINGS}`): {setting:.100}; expected is net.ipv4.conf.IFNAME.name=value, with ipv4, ipv6 or mpls"
            ))
        };
        let (name, value) = setting.trim().split_once('=').ok_or_else(refuse)?;
        let parts: Vec<&str> = name.split('.').collect();
        let ["net", family @ ("ipv4" | "ipv6" | "mpls"), of, interface, last] = parts[..] else {
            return Err(refuse());
        };
        let is_word = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let is_value = value.len() <= LONGEST_VALUE && value.bytes().all(|byte| byte.is_ascii_graphic());
        if !interface.eq_ignore_ascii_case("IFNAME") || !is_word(of) || !is_word(last) || !is_value {
            return Err(refuse());
        }
        Ok((format!("{family}/{of}/IFNAME/{last}"), value.to_owned()))
    };
    text.split(',').map(read).collect()
}

/// What a container calls others, and what they are called: `container:alias`, or a name that stays the same.
pub(crate) fn links(links: &[String]) -> Result<Vec<(String, String)>, ContainerError> {
    let read = |link: &String| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        // Inspect shows them as `/db:/web/store`, and clients send back what they were shown.
        let alias = if alias.starts_with('/') { alias.rsplit('/').next().unwrap_or_default() } else { alias };
        let name = name.trim_start_matches('/');
        let is_odd = |one: char| one.is_whitespace() || one.is_control() || matches!(one, ':' | '/');
        if name.is_empty() || alias.is_empty() || alias.contains(is_odd) {
            return Err(invalid(format!("bad format for links: {link:.100}")));
        }
        Ok((alias.to_owned(), name.to_owned()))
    };
    links.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use engine_model::wire::IpamConfig;

    use super::*;

    fn with_option(name: &str, value: &str) -> Result<EndpointSpec, ContainerError> {
        let options = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        endpoint("n", &EndpointConfig { driver_opts: Some(options), ..EndpointConfig::default() })
    }

    #[test]
    fn settings_are_read_or_refused() {
        let text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.ifname.app_solicit=2";
        let read = with_option(SETTINGS, text).unwrap().settings;
        let shown: Vec<String> = read.iter().map(|(path, value)| format!("{path} {value}")).collect();
        assert_eq!(shown, ["ipv4/conf/IFNAME/log_martians 1", "ipv6/neigh/IFNAME/app_solicit 2"]);
        for bad in [
            "net.ipv4.conf.eth0.log_martians=1",
            "net.ipv4.conf.IFNAME.log_martians",
            "net.core.conf.IFNAME.x=1",
            "net.ipv4.conf.IFNAME.a/../b=1",
            "net.ipv4.../IFNAME.x=1",
            "net.ipv4.conf.IFNAME.x=1\n2",
            "kernel.x=1",
            ",",
        ] {
            assert!(with_option(SETTINGS, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_interfaces_are_read_or_refused() {
        assert_eq!(with_option(INTERFACE, "lan0").unwrap().interface.as_deref(), Some("lan0"));
        for bad in ["lo", "..", "a/b", "a b", "sixteen-letters-", "all"] {
            assert!(with_option(INTERFACE, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_read_or_refused() {
        let with = |ipv4: &str, ipv6: &str, local: &str| {
            let ipam = IpamConfig {
                ipv4_address: ipv4.to_owned(),
                ipv6_address: ipv6.to_owned(),
                link_local_ips: Some(vec![local.to_owned()]),
            };
            endpoint("n", &EndpointConfig { ipam_config: Some(ipam), ..EndpointConfig::default() })
        };
        let read = with("10.0.0.7", "fd00::7", "169.254.7.7").unwrap();
        assert_eq!((read.address, read.ipv6_address), (Some([10, 0, 0, 7].into()), "fd00::7".parse().ok()));
        assert_eq!(read.link_local, ["169.254.7.7".parse::<IpAddr>().unwrap()]);
        assert!(with("", "", "fe80::7").is_ok());
        for (ipv4, ipv6, local) in
            [("fd00::7", "", "fe80::7"), ("", "10.0.0.7", "fe80::7"), ("", "", "10.0.0.7"), ("", "", "x")]
        {
            assert!(with(ipv4, ipv6, local).is_err(), "{ipv4} {ipv6} {local}");
        }
    }

    #[test]
    fn links_are_understood() {
        let read = |text: &str| links(&[text.to_owned()]).map(|mut links| links.remove(0));
        assert_eq!(read("db:store").unwrap(), ("store".to_owned(), "db".to_owned()));
        assert_eq!(read("/db").unwrap(), ("db".to_owned(), "db".to_owned()));
        for bad in ["", ":", "db:", ":store", "a:b:c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
