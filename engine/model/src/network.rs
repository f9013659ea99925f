//! What callers of the networks hand in and get back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::NameSpec;

/// The default bridge's settings, from the daemon's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The bridge's address with its prefix length, `172.17.0.1/16` when absent.
    pub bip: Option<String>,
    /// The largest packet on the bridge and in containers, 1500 when absent.
    pub mtu: Option<u32>,
    /// What containers call `host-gateway`; the default bridge's own address when there is none.
    pub host_gateways: Vec<IpAddr>,
    /// The address of the host on which ports of the default bridge are published that name none; all of them when absent.
    pub host_binding: Option<Ipv4Addr>,
    /// Where the subnets of networks are taken from that name none; Docker's own choice for a family that has none.
    pub pools: Vec<AddressPool>,
    /// The default bridge has IPv6 as well.
    pub ipv6: bool,
    /// The default bridge's subnet of IPv6, `fd00:1::/64`; one from the pools when absent.
    pub fixed_cidr_v6: Option<String>,
    /// The packet filter's rules for IPv6 are others' business: ports are published over IPv6 by the proxy alone.
    pub no_ipv6_rules: bool,
    /// What no other host has: subnets of IPv6 are derived from it.
    pub host_id: String,
}

/// A range of addresses that subnets of one size are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// Its first address, and the length of its prefix.
    pub base: (IpAddr, u8),
    /// The length of each subnet's prefix.
    pub size: u8,
}

/// What a container asks for on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRequest {
    /// Name, id or unique prefix of the id; `bridge` and `default` mean the default bridge.
    pub network: String,
    /// The container's name without the slash: shown in errors and in the network's list, and resolved on user-defined networks.
    pub container_name: String,
    /// A wish for this very address.
    pub address: Option<Ipv4Addr>,
    /// A wish for this very address of IPv6.
    pub ipv6_address: Option<Ipv6Addr>,
    /// Further addresses, which count on one link alone.
    pub link_local: Vec<IpAddr>,
    /// What the interface is called in the container; the next free `ethN` when absent.
    pub interface: Option<String>,
    /// Settings of the interface, by their path below `/proc/sys/net`, in which `IFNAME` stands for its name.
    pub settings: Vec<(String, String)>,
    /// A wish for this very hardware address, `02:42:ac:11:00:02`; derived from the address when absent.
    pub mac_address: Option<String>,
    /// Further names that other containers of a user-defined network can use.
    pub aliases: Vec<String>,
    /// Names that this container alone has for others of a user-defined network: what it calls them, and what they are called.
    pub links: Vec<(String, String)>,
    /// Of several networks with a way out, the one with the highest is the container's; of equals the one it came to first.
    pub gw_priority: i64,
    /// Given, the container finds others by name on user-defined networks, and they find it by its host name as well.
    pub naming: Option<Naming>,
}

/// What a container is called, and who answers it when it asks for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Naming {
    pub hostname: String,
    /// Empty when there is none.
    pub domain: String,
    /// The container's `/etc/hosts` as it lies on the host: its own addresses are kept up to date in it.
    pub hosts_file: PathBuf,
    /// The container's `/etc/resolv.conf` as it lies on the host. It names the engine's own resolver once the container is on
    /// a user-defined network, unless somebody else has written it by then.
    pub resolver_file: PathBuf,
    pub wishes: NameSpec,
}

/// A container that a new daemon has found running, on one of its networks.
#[derive(Clone, Debug)]
pub struct Found {
    pub container: String,
    pub endpoint: Endpoint,
    pub ports: Vec<PublishedPort>,
    /// Its network namespace, if one can get into it.
    pub namespace: Option<PathBuf>,
    pub naming: Option<Naming>,
}

impl Default for EndpointRequest {
    fn default() -> Self {
        Self {
            network: "bridge".to_owned(),
            container_name: String::new(),
            address: None,
            ipv6_address: None,
            link_local: Vec::new(),
            interface: None,
            settings: Vec::new(),
            mac_address: None,
            aliases: Vec::new(),
            links: Vec::new(),
            gw_priority: 0,
            naming: None,
        }
    }
}

/// A container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub endpoint_id: String,
    pub network_id: String,
    pub network_name: String,
    /// The container's name when it was attached.
    pub container_name: String,
    /// The interface's name inside the container.
    pub interface: String,
    /// The other end, on the bridge; empty where there is none.
    pub host_interface: String,
    pub address: Ipv4Addr,
    /// The length of the subnet's prefix.
    pub prefix: u8,
    /// Absent on internal networks.
    pub gateway: Option<Ipv4Addr>,
    /// Absent where the network has no IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Place>,
    pub mac_address: String,
    pub mtu: u32,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub links: Vec<(String, String)>,
    #[serde(default)]
    pub gw_priority: i64,
}

/// A container's address of IPv6 on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Place {
    pub address: Ipv6Addr,
    /// The length of the subnet's prefix.
    pub prefix: u8,
    /// Absent on internal networks.
    pub gateway: Option<Ipv6Addr>,
}

impl Endpoint {
    /// The addresses by which others reach it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv6 = self.ipv6.map(|place| place.address.into());
        std::iter::once(self.address.into()).chain(ipv6)
    }

    /// The ways out to which this network leads, at most one of each family.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv6 = self.ipv6.and_then(|place| place.gateway).map(IpAddr::from);
        self.gateway.map(IpAddr::from).into_iter().chain(ipv6)
    }

    /// Where a published port leads that is reached at this address of the host: to the container's address of the same family, if
    /// it has one.
    pub fn behind(&self, host_ip: IpAddr) -> IpAddr {
        match self.ipv6 {
            Some(place) if host_ip.is_ipv6() => place.address.into(),
            _ => self.address.into(),
        }
    }
}

/// Protocols whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(UnknownProtocol(text.to_owned())),
        }
    }
}

/// A protocol whose ports cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Ports of protocol `{0}` cannot be published")]
pub struct UnknownProtocol(pub String);

/// A port that is to be reachable from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    pub protocol: Protocol,
    pub container_port: u16,
    /// Every address of the host, of both families, when absent.
    pub host_ip: Option<IpAddr>,
    /// Chosen from the ephemeral range when absent or 0.
    pub host_port: Option<u16>,
    /// The first one that is free from `host_port` up to this one will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_host_port: Option<u16>,
}

/// A port that is reachable from outside. A request for every address yields one of these for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_ip: IpAddr,
    pub host_port: u16,
}
