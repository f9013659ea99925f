//! The tables of both families as one: what is wanted goes into that of its family, or into both.

use std::io;

use super::table::Table;
use super::{Bridge, Family, Redirection};

/// What is wanted of the packet filter.
#[derive(Debug)]
pub(in super::super) struct Tables {
    ipv4: Table,
    ipv6: Table,
    /// Rules for IPv6 are others' business.
    without_ipv6: bool,
}

impl Tables {
    pub(in super::super) fn new(with_ipv6: bool) -> Self {
        let (ipv4, ipv6) = (Table::new(Family::Ipv4), Table::new(Family::Ipv6));
        Self { ipv4, ipv6, without_ipv6: !with_ipv6 }
    }

    fn is_in_ipv6(&self, bridge: &Bridge) -> bool {
        !self.without_ipv6 && bridge.subnets.iter().any(|subnet| subnet.is_ipv6())
    }

    /// What of it goes into the table of IPv4, and what into that of IPv6.
    fn parted(&self, redirections: &[Redirection]) -> (Vec<Redirection>, Vec<Redirection>) {
        let (ipv4, ipv6) = redirections.iter().partition(|one| one.family() == Family::Ipv4);
        (ipv4, if self.without_ipv6 { Vec::new() } else { ipv6 })
    }

    /// Puts whole tables in place of those before, if there were any.
    pub(in super::super) fn replace(
        &mut self,
        bridges: Vec<Bridge>,
        redirections: &[Redirection],
    ) -> io::Result<()> {
        let (ipv4, ipv6) = self.parted(redirections);
        let with_ipv6 = bridges.iter().filter(|bridge| self.is_in_ipv6(bridge)).cloned().collect();
        self.ipv4.replace(bridges, ipv4)?;
        self.ipv6.replace(with_ipv6, ipv6)
    }

    /// Adds a network's rules. If they cannot be, it is as if it had not been asked for.
    pub(in super::super) fn add(&mut self, bridge: Bridge) -> io::Result<()> {
        if !self.is_in_ipv6(&bridge) {
            return self.ipv4.add(bridge);
        }
        self.ipv4.add(bridge.clone())?;
        let interface = bridge.interface.clone();
        self.ipv6.add(bridge).inspect_err(|_| {
            let _ = self.ipv4.remove(&interface);
        })
    }

    /// Takes a network's rules away; that there are none is fine.
    pub(in super::super) fn remove(&mut self, interface: &str) -> io::Result<()> {
        let removed = self.ipv4.remove(interface);
        self.ipv6.remove(interface).and(removed)
    }

    /// Withdraws ports and publishes others. If that cannot be, the new ones count as not asked for.
    pub(in super::super) fn redirect(&mut self, gone: &[Redirection], new: &[Redirection]) -> io::Result<()> {
        let (gone, gone_ipv6) = self.parted(gone);
        let (new, new_ipv6) = self.parted(new);
        self.ipv4.redirect(&gone, &new)?;
        self.ipv6.redirect(&gone_ipv6, &new_ipv6).inspect_err(|_| {
            let _ = self.ipv4.redirect(&new, &[]);
        })
    }

    /// Puts the rules back if somebody has removed them together with the host's own.
    pub(in super::super) fn heal(&mut self) -> io::Result<()> {
        let healed = self.ipv4.heal();
        self.ipv6.heal().and(healed)
    }

    /// The tables written anew as a whole, wherever the calling thread is.
    #[cfg(test)]
    pub(in super::super) fn write_anew(&mut self) -> io::Result<()> {
        self.ipv4.write_anew()?;
        self.ipv6.write_anew()
    }
}
