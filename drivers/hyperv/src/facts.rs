//! What Hyper-V says of a VM: its state, and which of its addresses is meant.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use machine_driver::State;
use serde::Deserialize;

/// One VM as the scripts describe it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Facts {
    pub(crate) id: String,
    pub(crate) state: String,
    /// As the guest's integration services tell them; empty where those are silent.
    #[serde(default)]
    pub(crate) addresses: Option<Vec<Option<String>>>,
    /// As this machine's neighbour table has them.
    #[serde(default)]
    pub(crate) neighbours: Option<Vec<Neighbour>>,
}

/// An entry of the neighbour table with the VM's hardware address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Neighbour {
    #[serde(default)]
    pub(crate) address: Option<String>,
    pub(crate) state: String,
}

impl Facts {
    pub(crate) fn state(&self) -> State {
        state(&self.state)
    }

    /// The address to reach the VM at: IPv4 before IPv6, what the guest says before what the neighbours' table has.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let told = self.addresses.iter().flatten().flatten().filter_map(|text| usable(text));
        let mut near: Vec<(u8, IpAddr)> = self
            .neighbours
            .iter()
            .flatten()
            .filter_map(|neighbour| {
                Some((freshness(&neighbour.state)?, usable(neighbour.address.as_deref()?)?))
            })
            .collect();
        near.sort_by_key(|(freshness, _)| *freshness);
        let all: Vec<IpAddr> = told.chain(near.into_iter().map(|(_, address)| address)).collect();
        all.iter().find(|address| address.is_ipv4()).or_else(|| all.first()).copied()
    }
}

/// The words of `Microsoft.HyperV.PowerShell.VMState`, which are in no language.
pub(crate) fn state(word: &str) -> State {
    match word {
        "Running" => State::Running,
        "Off" => State::Stopped,
        "Saved" | "FastSaved" => State::Saved,
        "Paused" => State::Paused,
        "Starting" | "Resuming" | "Reset" => State::Starting,
        "Stopping" | "Saving" | "Pausing" | "FastSaving" => State::Stopping,
        // Other, and those with `Critical` behind them: storage or memory is gone.
        _ => State::Error,
    }
}

/// Leaves out what leads nowhere from here: addresses of one link, and those of nobody.
fn usable(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('%').next()?.trim().parse().ok()?;
    let good = match address {
        IpAddr::V4(address) => {
            !(address.is_link_local()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast()
                || address == Ipv4Addr::UNSPECIFIED)
        }
        IpAddr::V6(address) => {
            !(address.is_unicast_link_local()
                || address.is_loopback()
                || address.is_multicast()
                || address == Ipv6Addr::UNSPECIFIED)
        }
    };
    good.then_some(address)
}

/// How much an entry is worth, by the words of `Get-NetNeighbor`; `None`: nobody answers there.
fn freshness(state: &str) -> Option<u8> {
    match state {
        "Reachable" => Some(0),
        "Delay" | "Probe" => Some(1),
        "Permanent" => Some(2),
        "Stale" => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(addresses: &[&str], neighbours: &[(&str, &str)]) -> Option<String> {
        let neighbour = |(address, state): &(&str, &str)| Neighbour {
            address: Some((*address).into()),
            state: (*state).into(),
        };
        let facts = Facts {
            id: String::new(),
            state: "Running".into(),
            addresses: Some(addresses.iter().map(|text| Some((*text).into())).collect()),
            neighbours: Some(neighbours.iter().map(neighbour).collect()),
        };
        facts.address().map(|address| address.to_string())
    }

    #[test]
    fn ipv4_comes_first_wherever_it_is_known_from() {
        assert_eq!(address(&["fe80::1", "2001:db8::5", "172.20.3.9"], &[]).unwrap(), "172.20.3.9");
        assert_eq!(address(&["2001:db8::5"], &[("172.20.3.9", "Stale")]).unwrap(), "172.20.3.9");
        assert_eq!(address(&["fe80::1%3", "2001:db8::5"], &[]).unwrap(), "2001:db8::5");
    }

    #[test]
    fn a_neighbour_that_answers_is_worth_more_than_one_that_did_once() {
        let table = [("172.20.0.7", "Stale"), ("172.21.0.8", "Reachable"), ("172.22.0.9", "Unreachable")];
        assert_eq!(address(&[], &table).unwrap(), "172.21.0.8");
        assert_eq!(address(&["172.23.0.1"], &table).unwrap(), "172.23.0.1");
    }

    #[test]
    fn what_leads_nowhere_is_no_address() {
        assert_eq!(address(&["169.254.3.4", "fe80::1", "0.0.0.0", "x", ""], &[]), None);
        assert_eq!(address(&[], &[("172.20.0.7", "Unreachable"), ("ff02::1", "Permanent")]), None);
    }

    #[test]
    fn an_unknown_state_is_an_error() {
        assert_eq!(state("OffCritical"), State::Error);
        assert_eq!(state("FastSaving"), State::Stopping);
    }
}
