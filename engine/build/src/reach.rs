//! How repositories are reached from here: by this host's proxies, and with the SSH agent of a client.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::address::Repository;
use super::error::BuildError;
use super::outside::Client;
use super::shop::Shop;

/// What git is given. An agent answers as long as this is held.
#[derive(Default)]
pub(crate) struct Reach {
    /// Names and values of variables.
    pub(crate) proxies: Vec<(String, String)>,
    /// The socket of an agent.
    pub(crate) agent: Option<PathBuf>,
    /// What the agent lives by.
    _held: Option<(Box<dyn Any + Send + Sync>, tempfile::TempDir)>,
}

impl Reach {
    /// Finds out what there is for a repository.
    pub(crate) async fn of(
        shop: &Shop,
        client: Option<&Arc<dyn Client>>,
        repository: &Repository,
        cancelled: &CancellationToken,
    ) -> Result<Self, BuildError> {
        let proxies = shop.outside.proxies();
        let Some(client) = client.filter(|_| repository.is_by_ssh()) else {
            return Ok(Self { proxies, ..Self::default() });
        };
        let folder = shop.lend().map_err(|error| super::stage::failed("git", &error))?;
        let socket = folder.path().join("agent");
        let answering = tokio::select! {
            answering = client.agent("default", &socket) => answering?,
            () = cancelled.cancelled() => return Err(BuildError::Cancelled),
        };
        Ok(match answering {
            Some(answering) => Self { proxies, agent: Some(socket), _held: Some((answering, folder)) },
            None => Self { proxies, ..Self::default() },
        })
    }
}
