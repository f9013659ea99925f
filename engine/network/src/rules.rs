//! The packet filter's tables of all networks: one change after the other, away from the threads that serve requests.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::failed;
use super::filter::{Bridge, Redirection, Tables};
use super::{NetworkError, blocking};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Rules(Arc<Mutex<Tables>>);

impl Rules {
    /// None yet. Without `with_ipv6`, those for IPv6 are others' business.
    pub(super) fn new(with_ipv6: bool) -> Self {
        Self(Arc::new(Mutex::new(Tables::new(with_ipv6))))
    }

    /// Puts whole tables in place of those before; `wanted` is asked when no other change is under way.
    pub(super) async fn replace(
        &self,
        wanted: impl FnOnce() -> (Vec<Bridge>, Vec<Redirection>) + Send + 'static,
    ) -> Result<(), NetworkError> {
        self.change(move |tables| {
            let (bridges, redirections) = wanted();
            tables.replace(bridges, &redirections)
        })
        .await
    }

    /// Adds a network's rules. Once they are there, and before the next change, the network is `known`.
    pub(super) async fn add(
        &self,
        bridge: Bridge,
        known: impl FnOnce() + Send + 'static,
    ) -> Result<(), NetworkError> {
        self.change(move |tables| tables.add(bridge).map(|()| known())).await
    }

    /// Takes the rules of the network with this bridge away. Before the next change the network is `forgotten`, in any case.
    pub(super) async fn remove(
        &self,
        interface: String,
        forgotten: impl FnOnce() + Send + 'static,
    ) -> Result<(), NetworkError> {
        self.change(move |tables| {
            let removed = tables.remove(&interface);
            forgotten();
            removed
        })
        .await
    }

    /// Withdraws ports and publishes others.
    pub(super) async fn redirect(
        &self,
        gone: Vec<Redirection>,
        new: Vec<Redirection>,
    ) -> Result<(), NetworkError> {
        if gone == new {
            return Ok(());
        }
        self.change(move |tables| tables.redirect(&gone, &new)).await
    }

    /// Puts back what somebody has removed together with the host's own rules.
    pub(super) async fn heal(&self) -> Result<(), NetworkError> {
        self.change(Tables::heal).await
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut Tables) -> io::Result<()> + Send + 'static,
    ) -> Result<(), NetworkError> {
        let table = Arc::clone(&self.0);
        blocking(move || {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut table).map_err(failed("set up the packet filter (nf_tables)"))
        })
        .await
    }

    /// Writes the whole tables anew in the network namespace of the calling thread.
    #[cfg(test)]
    pub(super) fn write_anew(&self) {
        #![allow(clippy::unwrap_used)]
        self.0.lock().unwrap().write_anew().unwrap();
    }
}
