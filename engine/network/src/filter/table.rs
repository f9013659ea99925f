//! What is wanted of one table, changed in the kernel by as little as a change takes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use engine_kernel::netlink::{FLAG_CREATE, FLAG_EXCLUSIVE, Message, Socket};
use tracing::{debug, info, warn};

use super::{
    Bridge, DELETE_ELEMENTS, DELETE_TABLE, Family, GET_TABLE, NEW_ELEMENTS, Redirection, Source, TABLE,
    carry_out, commented, compile, others, redirect, rules_of,
};

/// The table as it is wanted. A change that meets something else in the kernel writes the whole table anew, in one transaction.
/// That of IPv6 is there as long as there are networks with it: a kernel without them need not know such tables.
#[derive(Debug)]
pub(super) struct Table {
    family: Family,
    /// In the order in which their rules lie.
    bridges: Vec<Bridge>,
    redirections: HashMap<Source, SocketAddr>,
    /// What is in the kernel is not known, since not even writing it anew has worked.
    damaged: bool,
}

impl Table {
    pub(super) fn new(family: Family) -> Self {
        Self { family, bridges: Vec::new(), redirections: HashMap::new(), damaged: false }
    }

    fn is_wanted(&self) -> bool {
        self.family == Family::Ipv4 || !self.bridges.is_empty()
    }

    /// Puts a whole table in place of the one before, if there was one.
    pub(super) fn replace(
        &mut self,
        bridges: Vec<Bridge>,
        redirections: impl IntoIterator<Item = Redirection>,
    ) -> io::Result<()> {
        self.bridges = bridges;
        self.redirections = redirections.into_iter().map(|one| (one.source, one.target)).collect();
        self.rebuild()
    }

    /// Adds a network's rules. If they cannot be, it is as if it had not been asked for.
    pub(super) fn add(&mut self, bridge: Bridge) -> io::Result<()> {
        let is_there = self.is_wanted();
        let added = if is_there { self.change(rules_of(self.family, &bridge)) } else { Ok(()) };
        self.bridges.push(bridge);
        if is_there { self.or_rebuild(added) } else { self.rebuild() }.inspect_err(|_| {
            self.bridges.pop();
        })?;
        self.pass_others();
        Ok(())
    }

    /// Takes a network's rules away; that there are none is fine.
    pub(super) fn remove(&mut self, interface: &str) -> io::Result<()> {
        let Some(at) = self.bridges.iter().position(|bridge| bridge.interface == interface) else {
            return Ok(());
        };
        let bridge = self.bridges.remove(at);
        if !self.is_wanted() {
            return self.rebuild();
        }
        let removed = commented(self.family, TABLE, None).and_then(|present| {
            let removals: Vec<Message> = present
                .iter()
                .filter(|rule| rule.comment == interface)
                .map(|rule| rule.removal(TABLE))
                .collect();
            if removals.len() != rules_of(self.family, &bridge).len() {
                return Err(io::Error::other("there are other rules than were written"));
            }
            self.change(removals)
        });
        self.or_rebuild(removed)?;
        self.pass_others();
        Ok(())
    }

    /// Withdraws ports and publishes others. If that cannot be, the new ones count as not asked for.
    pub(super) fn redirect(&mut self, gone: &[Redirection], new: &[Redirection]) -> io::Result<()> {
        let stays = |one: &Redirection| self.redirections.get(&one.source) == Some(&one.target);
        // What leads elsewhere by now is another's.
        let gone: Vec<Redirection> =
            gone.iter().copied().filter(|one| stays(one) && !new.contains(one)).collect();
        let new: Vec<Redirection> = new.iter().copied().filter(|one| !stays(one)).collect();
        let mut messages = redirect(self.family, DELETE_ELEMENTS, 0, &gone);
        messages.extend(redirect(self.family, NEW_ELEMENTS, FLAG_CREATE | FLAG_EXCLUSIVE, &new));
        for one in &gone {
            self.redirections.remove(&one.source);
        }
        for one in &new {
            self.redirections.insert(one.source, one.target);
        }
        let changed = self.change(messages);
        self.or_rebuild(changed).inspect_err(|_| {
            for one in &new {
                self.redirections.remove(&one.source);
            }
        })
    }

    /// Puts the rules back if somebody has removed them together with the host's own.
    pub(super) fn heal(&mut self) -> io::Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let is_whole = match Socket::netfilter()?.request(self.family.table(GET_TABLE, 0)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            result => {
                result?;
                let present = commented(self.family, TABLE, None)?;
                let count = |interface: &str| present.iter().filter(|rule| rule.comment == interface).count();
                self.bridges
                    .iter()
                    .all(|bridge| count(&bridge.interface) == rules_of(self.family, bridge).len())
            }
        };
        if is_whole && !self.damaged {
            self.pass_others();
            return Ok(());
        }
        info!("The engine's packet filter rules were removed; they are set up again");
        self.rebuild()
    }

    /// Carries out a change, where what it changes is known.
    fn change(&self, messages: Vec<Message>) -> io::Result<()> {
        if self.damaged { Err(io::Error::other("an earlier change has failed")) } else { carry_out(messages) }
    }

    fn or_rebuild(&mut self, change: io::Result<()>) -> io::Result<()> {
        let Err(error) = change else { return Ok(()) };
        info!(%error, "The packet filter's table is not what the engine left; it is written anew");
        self.rebuild()
    }

    fn rebuild(&mut self) -> io::Result<()> {
        if !self.is_wanted() {
            // That there is none is fine, whatever the reason.
            if let Err(error) = carry_out(vec![self.family.table(DELETE_TABLE, 0)]) {
                debug!(%error, "There is no table of IPv6 to be taken away");
            }
            self.damaged = false;
            self.pass_others();
            return Ok(());
        }
        // Until it has worked.
        self.damaged = true;
        let redirections: Vec<Redirection> = self
            .redirections
            .iter()
            .map(|(source, target)| Redirection { source: *source, target: *target })
            .collect();
        carry_out(compile(self.family, &self.bridges, &redirections))?;
        self.damaged = false;
        self.pass_others();
        Ok(())
    }

    /// Lets packets through the host's own firewall, as far as it is one that can be talked to.
    fn pass_others(&self) {
        let interfaces: Vec<&str> = self.bridges.iter().map(|bridge| bridge.interface.as_str()).collect();
        if let Err(error) = others::let_through(self.family, &interfaces) {
            warn!(%error, "Packets of containers may be dropped by the host's firewall");
        }
    }

    /// The table written anew as a whole, wherever the calling thread is.
    #[cfg(test)]
    pub(super) fn write_anew(&mut self) -> io::Result<()> {
        self.rebuild()
    }
}
