//! Who may reach a host, and what a caller learns before one is made.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// What [`crate::Driver::check`] foresees of a host that is not made yet, so that what cannot work is refused before
/// anything exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// The processor architecture in Rust's words (`x86_64`, `aarch64`), where it is known.
    #[serde(default)]
    pub architecture: Option<String>,
    /// Where it would be made, in the words of [`Place::name`].
    #[serde(default)]
    pub place: Option<String>,
    /// What the user should know and what is no failure.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Where a driver can put a host so that it fails apart from others: an availability zone, a fault domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub name: String,
}

/// One thing that is let in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    pub protocol: Protocol,
    /// First and last port, both included.
    pub ports: (u16, u16),
    pub from: Source,
}

/// The protocol of a [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    /// IP protocol 50, of encrypted overlay networks; has no ports.
    Esp,
}

/// Where the traffic of a [`Rule`] comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Whoever runs `machine`, by the address that the provider sees.
    Caller,
    /// The other members of the host's cluster, by this name of the cluster.
    Members(String),
    Network(Network),
}

/// A range of addresses in CIDR notation (RFC 4632), such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no range of addresses such as `10.0.0.0/8`", .0.escape_debug())]
pub struct InvalidNetwork(String);

impl Network {
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits of the address are the network's.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// Takes an address without a prefix for that one address. Bits behind the prefix must be zero, so that a slip is
    /// not taken for a wish.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(invalid)?
            }
            Some(_) => return Err(invalid()),
        };
        let behind = match address {
            IpAddr::V4(address) => {
                u128::from(address.to_bits() & u32::MAX.checked_shr(prefix.into()).unwrap_or(0))
            }
            IpAddr::V6(address) => address.to_bits() & u128::MAX.checked_shr(prefix.into()).unwrap_or(0),
        };
        if behind == 0 { Ok(Self { address, prefix }) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_range_holds_its_own_addresses_and_no_others() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains("10.1.255.3".parse().unwrap()));
        assert!(!network.contains("10.2.0.1".parse().unwrap()));
        assert!(!network.contains("::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("203.0.113.9".parse().unwrap()));
        assert!("2001:db8::/32".parse::<Network>().unwrap().contains("2001:db8:9::1".parse().unwrap()));
        assert_eq!("192.0.2.7".parse::<Network>().unwrap().to_string(), "192.0.2.7/32");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/+8", "10.0.0/8", "::/129", "2001:db8::1/32", "a/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
