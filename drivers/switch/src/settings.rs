//! What a port is, as it is told to the switch: addresses, groups and rules.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{MacAddress, Rule};

/// The settings of one port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The only hardware address behind the port. `None`: any that does not belong to another port; they are learned.
    pub mac: Option<MacAddress>,
    /// The only IP addresses behind the port, besides the link-local one that follows from its hardware address.
    /// Empty: any.
    pub addresses: Vec<IpAddr>,
    /// The security groups that the port is in.
    pub groups: Vec<String>,
    /// What others may open towards the port. `None`: everything.
    pub inbound: Option<Vec<Rule>>,
    /// What the port may open towards others. `None`: everything.
    pub outbound: Option<Vec<Rule>>,
}

impl Settings {
    /// Whether an address is one of the port's.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.contains(&address)
    }
}
