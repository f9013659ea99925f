//! What is done to a host from its first record to its removal: the order of things, and nothing of how.
//!
//! `create` brings a host through the phases of [`crate::store::Phase`], saving each before it begins, so that the
//! same call goes on after any crash. The provider's work is the driver's, Linux is [`crate::provision`]'s, files
//! are [`crate::store`]'s.

mod access;
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
pub use locked::RefreshError;
pub use login::{HostKeyQuestion, LoginError, Prompter, log_in_and_pin};
pub use power::{Power, PowerError, power, reprovision};
pub use remove::{RemoveError, remove};
pub use survey::{Row, survey};
pub use trust::{ClientError, Made, TrustError, current_signer, engine_client, ready_client_folder};

use std::sync::Arc;

use machine_driver::{Driver, DriverError, HostView, State};

use crate::{
    bundle::Bundle,
    drivers::Registry,
    store::{Certificates, Record, Store},
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

    /// What a driver is told of a host.
    pub(crate) fn view(&self, record: &Record) -> HostView {
        HostView {
            name: record.name.clone(),
            id: record.id,
            // Whoever holds a lock has seen to it that there is one.
            owner: self.store.id().ok().flatten().unwrap_or_default(),
            folder: self.store.folder(&record.name),
            cache: self.store.cache(),
            config: record.driver.config.clone(),
            place: record.place.clone(),
            login: None,
            host_key: None,
        }
    }

    /// The end of a host's serial log (at most `lines` lines), where its driver keeps one.
    pub async fn console(&self, record: &Record, lines: usize) -> Result<Option<String>, DriverError> {
        Ok(self.driver(record)?.console(&self.view(record), &record.driver.state, lines).await)
    }

    /// The state of a host now, by its driver.
    pub async fn state(&self, record: &Record) -> Result<State, DriverError> {
        self.driver(record)?.state(&self.view(record), &record.driver.state).await
    }
}
