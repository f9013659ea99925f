//! What containers' own files say of names, and who answers those that ask for others.

use std::path::Path;

use engine_kernel::etc;
use engine_model::chain;
use tracing::warn;

use super::names::has_names;
use super::resolver::{self, Resolver};
use super::{Endpoint, Naming, Network, NetworkError, NetworkRecord, blocking, locked};

impl Network {
    /// Has a container know its own names on a network it has just come to, and be answered when it asks for others.
    pub(super) async fn name(
        &self,
        container: &str,
        namespace: &Path,
        network: &NetworkRecord,
        endpoint: &Endpoint,
        naming: &Naming,
    ) -> Result<(), NetworkError> {
        self.change_own_names(endpoint, naming, etc::with_line).await;
        if has_names(network) { self.answer(container, namespace, naming).await } else { Ok(()) }
    }

    /// Takes a container's own names for what was its address out of its hosts file.
    pub(super) async fn unname(&self, endpoint: &Endpoint, naming: &Naming) {
        self.change_own_names(endpoint, naming, etc::without_line).await;
    }

    async fn change_own_names(
        &self,
        endpoint: &Endpoint,
        naming: &Naming,
        change: fn(&str, std::net::IpAddr, &str) -> String,
    ) {
        let Some(names) = etc::own_names(&naming.hostname, &naming.domain) else { return };
        let (network, path) = (self.clone(), naming.hosts_file.clone());
        let addresses: Vec<_> = endpoint.addresses().collect();
        let changed = blocking(move || {
            let _files = locked(&network.inner.hosts_files);
            let renew = |current: &str| {
                addresses.iter().fold(current.to_owned(), |text, address| change(&text, *address, &names))
            };
            if let Err(error) = etc::change(&path, renew) {
                warn!(%error, path = %path.display(), "A container's names for itself could not be renewed");
            }
            Ok(())
        });
        if let Err(error) = changed.await {
            warn!(error = chain(&error), "A container's names for itself could not be renewed");
        }
    }

    /// Answers a container in its network namespace from now on, if nobody does. It goes on being answered until it is released.
    pub(super) async fn answer(
        &self,
        container: &str,
        namespace: &Path,
        naming: &Naming,
    ) -> Result<(), NetworkError> {
        if locked(&self.inner.resolvers).get(container).is_some_and(|known| known.is_in(namespace)) {
            return Ok(());
        }
        let (path, naming) = (namespace.to_owned(), naming.clone());
        let opened = blocking(move || resolver::open(&path, &naming)).await?;
        let started = Resolver::start(opened, container.to_owned(), self.inner.names.clone());
        let resolver = started.map_err(|source| NetworkError::Kernel {
            attempt: "have the container's questions for names answered".to_owned(),
            source,
        })?;
        locked(&self.inner.resolvers).insert(container.to_owned(), resolver);
        Ok(())
    }

    pub(super) fn stop_answering(&self, container: &str) {
        locked(&self.inner.resolvers).remove(container);
    }

    /// After the daemon was away: answers a container again that is on a network with names.
    pub(super) async fn answer_again(&self, container: &str, namespace: &Path, naming: &Naming) {
        let is_named = {
            let running = self.running();
            let networks = running.networks_of(container);
            running.state.networks.iter().any(|one| has_names(one) && networks.contains(&one.id))
        };
        if !is_named {
            return;
        }
        if let Err(error) = self.answer(container, namespace, naming).await {
            warn!(%container, error = chain(&error), "A container's questions for names are not answered");
            return;
        }
        // Before there were answers, the names of others were in there.
        let (network, path) = (self.clone(), naming.hosts_file.clone());
        let renewed = blocking(move || {
            let _files = locked(&network.inner.hosts_files);
            if let Err(error) = etc::change(&path, etc::without_neighbours) {
                warn!(%error, path = %path.display(), "Names of other containers are left in a hosts file");
            }
            Ok(())
        });
        if let Err(error) = renewed.await {
            warn!(error = chain(&error), "Names of other containers are left in a hosts file");
        }
    }
}
