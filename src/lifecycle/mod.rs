//! What is done to a host from its first record to its removal: the order of things, and nothing of how.
//!
//! `create` brings a host through the phases of [`crate::store::Phase`], saving each before it begins, so that the
//! same call goes on after any crash. The provider's work is the driver's, Linux is [`crate::provision`]'s, files
//! are [`crate::store`]'s.

mod authority;
mod bring_up;
mod certificates;
mod create;
mod host_key;
mod leftovers;
mod locked;
mod login;
mod power;
mod remove;
mod survey;
mod trust;

pub use authority::{MovePlan, authority_to_move_to, finish_move, move_host, plan_move};
pub use bring_up::BringUpError;
pub use certificates::{regenerate_client, regenerate_server};
pub use create::{CreateError, Prepared, Request, create, prepare};
pub use host_key::{set_host_keys, shown_host_key};
pub use leftovers::{Leftovers, LeftoversError, leftovers, remove_leftovers};
pub use login::{HostKeyQuestion, LoginError, Prompter, log_in_and_pin};
pub use power::{Power, PowerError, power, reprovision};
pub use remove::{RemoveError, remove};
pub use survey::{Row, survey};
pub use trust::{ClientError, Made, TrustError, client_of, current_signer, engine_client};

use std::sync::Arc;

use machine_driver::{Driver, DriverError, HostKey, HostView, LoginKey, Progress, State};

use crate::{
    bundle::Bundle,
    drivers::Registry,
    store::{Certificates, HostLock, Record, RecordJournal, Store},
};

/// The host key that a driver delivers, in the host's folder for as long as it is needed.
const DELIVERED_HOST_KEY: &str = "ssh_host_ed25519_key";

/// What every operation on hosts works with.
#[derive(Debug)]
pub struct Context {
    pub store: Store,
    pub certificates: Certificates,
    pub drivers: Registry,
    pub bundle: Bundle,
    /// Who is asked about host keys and passphrases.
    pub prompter: Arc<dyn Prompter>,
}

impl Context {
    /// The driver of a host.
    pub fn driver(&self, record: &Record) -> Result<Arc<dyn Driver>, DriverError> {
        self.drivers.find(&record.driver_name)
    }

    /// Refuses a host that its driver says is stopped; whether a running one answers is not asked.
    pub async fn ensure_running(&self, record: &Record) -> Result<(), DriverError> {
        match self.state(record).await {
            Ok(State::Stopped | State::Saved | State::Paused) => Err(not_running(record)),
            Ok(State::None) if self.driver(record)?.info().features.power => Err(gone(record)),
            _ => Ok(()),
        }
    }

    /// Has the driver see to it that a running host can be reached, and takes over where; both may have changed behind
    /// our back. Refuses a stopped host. Returns whether it is reached elsewhere now.
    pub async fn refresh(
        &self,
        lock: &HostLock,
        record: &mut Record,
        progress: &dyn Progress,
    ) -> Result<bool, RefreshError> {
        self.ensure_running(record).await?;
        let driver = self.driver(record)?;
        let (paths, keys, before) = (self.paths(record), Keys::default(), record.clone());
        let view = view(&before, &paths, &keys);
        let mut journal = RecordJournal::new(&self.store, lock, record);
        // Running already is a success.
        driver.start(&view, &mut journal, progress).await?;
        let endpoint = driver.endpoint(&view, &record.driver.state).await?;
        if record.endpoint.as_ref() == Some(&endpoint) {
            return Ok(false);
        }
        record.set_endpoint(endpoint, &paths.folder);
        self.store.save(lock, record)?;
        Ok(true)
    }

    pub(crate) fn paths(&self, record: &Record) -> Paths {
        Paths {
            folder: self.store.folder(&record.name),
            cache: self.store.cache(),
            // Whoever holds a lock has seen to it that there is one.
            owner: self.store.id().ok().flatten().unwrap_or_default(),
        }
    }

    /// The end of a host's serial log (at most `lines` lines), where its driver keeps one.
    pub async fn console(&self, record: &Record, lines: usize) -> Result<Option<String>, DriverError> {
        let (paths, keys) = (self.paths(record), Keys::default());
        let view = view(record, &paths, &keys);
        Ok(self.driver(record)?.console(&view, &record.driver.state, lines).await)
    }

    /// The state of a host now, by its driver.
    pub async fn state(&self, record: &Record) -> Result<State, DriverError> {
        let paths = self.paths(record);
        let keys = Keys::default();
        self.driver(record)?.state(&view(record, &paths, &keys), &record.driver.state).await
    }
}

/// A host could not be looked at anew.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl RefreshError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Driver(error) => error.hint().map(str::to_owned),
        }
    }
}

fn gone(record: &Record) -> DriverError {
    DriverError::gone(format!("`{}` is gone: its provider does not have it any more", record.name))
        .with_hint(format!("Remove it with `machine rm {}` and create it again", record.name))
}

fn not_running(record: &Record) -> DriverError {
    DriverError::refused("Host is not running")
        .with_hint(format!("Start it with `machine start {}`", record.name))
}

/// What a driver is told of a host.
pub(crate) fn view(record: &Record, paths: &Paths, keys: &Keys) -> HostView {
    HostView {
        name: record.name.clone(),
        id: record.id,
        owner: paths.owner.clone(),
        folder: paths.folder.clone(),
        cache: paths.cache.clone(),
        config: record.driver.config.clone(),
        place: record.place.clone(),
        login: keys.login.clone(),
        host_key: keys.host.clone(),
    }
}

/// The folders that a driver is told of.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) folder: std::path::PathBuf,
    pub(crate) cache: std::path::PathBuf,
    pub(crate) owner: String,
}

/// The keys that a driver delivers with the first boot.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) login: Option<LoginKey>,
    pub(crate) host: Option<HostKey>,
}
