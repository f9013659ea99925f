//! What can go wrong with networks.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use engine_model::{Failure, Kind};

/// Why a network could not be set up, used or taken down.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("`{value}` is not an address with a prefix length, such as `172.17.0.1/16`")]
    BridgeAddress { value: String },
    #[error("`{value}` is not a subnet of IPv6, such as `fd00:1::/64`")]
    FixedSubnet { value: String },
    #[error(
        "This host has no IPv6: its kernel lacks it, or it is turned off by `net.ipv6.conf.all.disable_ipv6`"
    )]
    NoIpv6,
    #[error("An MTU of {value} is out of range (68 to 65535)")]
    Mtu { value: u32 },
    #[error("Could not {attempt}")]
    Kernel { attempt: String, source: io::Error },
    #[error("The kernel cannot make {what}")]
    NotInKernel { what: String },
    #[error(
        "Ports cannot be published on the network {network}: its containers are reached at their own addresses"
    )]
    NotForPorts { network: String },
    #[error("Could not enter the network namespace `{}`", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("Could not read the state of the networks")]
    State(#[from] engine_store::ReadError),
    #[error("Could not write the state of the networks, `{}`", path.display())]
    WriteState { path: PathBuf, source: io::Error },
    #[error("network {name} not found")]
    NoSuchNetwork { name: String },
    #[error("network {name} is ambiguous ({matches} matches found based on ID prefix)")]
    Ambiguous { name: String, matches: usize },
    #[error("no available {family} addresses on this network's address pools: {network}")]
    Exhausted { network: String, family: &'static str },
    #[error("invalid endpoint settings: the network {network} has no IPv6, so nobody has {address} there")]
    NoIpv6There { network: String, address: Ipv6Addr },
    #[error("Address already in use")]
    AddressTaken { address: IpAddr },
    #[error("Invalid address {address}: It does not belong to any of this network's subnets")]
    AddressOutside { address: IpAddr },
    #[error("error renaming interface: the container has an interface `{name}` already")]
    InterfaceTaken { name: String },
    #[error("invalid MAC address: {value}")]
    MacAddress { value: String },
    #[error(
        "driver failed programming external connectivity on endpoint {endpoint}: Bind for {address}:{port} failed: port is already allocated"
    )]
    PortTaken { endpoint: String, address: IpAddr, port: u16 },
    #[error(
        "driver failed programming external connectivity on endpoint {endpoint}: listen {protocol} {address}:{port}"
    )]
    Listen {
        endpoint: String,
        protocol: engine_model::Protocol,
        address: IpAddr,
        port: u16,
        source: io::Error,
    },
    #[error(
        "driver failed programming external connectivity on endpoint {endpoint}: all ports are allocated"
    )]
    NoPortLeft { endpoint: String },
    #[error("network {network} has no addresses to give")]
    NotForContainers { network: String },
    #[error("container {container} is not attached to network {network}")]
    NotAttached { container: String, network: String },
    #[error("The work on the networks was cut short")]
    Interrupted { source: tokio::task::JoinError },
    #[error("{message}")]
    Refused { kind: Kind, message: String },
}

/// The error of an attempt that the kernel has refused.
pub(super) fn failed(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let attempt = attempt.into();
    move |source| NetworkError::Kernel { attempt, source }
}

impl NetworkError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchNetwork { .. } => Kind::NotFound,
            Self::Ambiguous { .. }
            | Self::BridgeAddress { .. }
            | Self::FixedSubnet { .. }
            | Self::NoIpv6There { .. }
            | Self::Mtu { .. }
            | Self::AddressOutside { .. }
            | Self::MacAddress { .. } => Kind::Invalid,
            Self::NoIpv6
            | Self::NotInKernel { .. }
            | Self::NotForPorts { .. }
            | Self::InterfaceTaken { .. }
            | Self::AddressTaken { .. }
            | Self::NotAttached { .. }
            | Self::NotForContainers { .. } => Kind::Forbidden,
            Self::Refused { kind, .. } => *kind,
            _ => Kind::Internal,
        }
    }
}

impl NetworkError {
    /// What the administrator of the host can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Kernel { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("The engine needs root and the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN")
            }
            Self::Kernel { .. } => Some(
                "The kernel needs bridges, veth and nf_tables with NAT: modules bridge, veth, nf_tables, nft_chain_nat, \
                 nft_nat, nft_masq, nft_ct, nft_fib_ipv4, nft_fib_ipv6",
            ),
            Self::State(error) if error.is_damage() => Some(
                "Containers may be on those networks. With none running, move the file away to begin without networks of users",
            ),
            Self::FixedSubnet { .. } => {
                Some("Set `fixed-cidr-v6` to the subnet that the default bridge shall have")
            }
            Self::NotInKernel { .. } => Some(
                "It takes the kernel's module `macvlan`, `ipvlan`, `8021q` or `dummy`, by the name of what is wished for",
            ),
            Self::NoIpv6 => Some("Networks without `--ipv6`, and a default bridge without `ipv6`, need none"),
            Self::BridgeAddress { .. } => Some("Set `bip` to the address that the bridge shall have"),
            _ => None,
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        Self::of(error.kind(), &error)
    }
}
