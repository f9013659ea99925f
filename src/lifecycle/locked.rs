//! A host that this process may change: its lock, its record and its driver, together.

use std::{path::PathBuf, sync::Arc};

use machine_driver::{Driver, DriverError, Features, HostName, HostView, Progress, State};

use super::{Context, access};
use crate::store::{ClientFiles, HostFiles, HostLock, Operation, Phase, Record, RecordJournal, StoreError};

/// The right to change a host, with everything that it takes; the lock is held until this is dropped.
#[derive(Debug)]
pub(super) struct LockedHost<'a> {
    pub(super) context: &'a Context,
    lock: HostLock,
    pub(super) record: Record,
}

impl<'a> LockedHost<'a> {
    /// Takes the lock of a host, reads its record, and refuses what may not be done in its phase.
    pub(super) fn open(
        context: &'a Context,
        name: &HostName,
        operation: Operation,
    ) -> Result<Self, StoreError> {
        let host = Self::lock(context, name)?;
        host.record.phase.check(name, operation)?;
        Ok(host)
    }

    /// Takes the lock of a host and reads its record, whatever its phase. Where there is no such host, the lock leaves
    /// nothing behind.
    pub(super) fn lock(context: &'a Context, name: &HostName) -> Result<Self, StoreError> {
        let lock = context.store.lock(name)?;
        match context.store.load(name) {
            Ok(record) => Ok(Self::new(context, lock, record)),
            Err(error) => {
                if matches!(error, StoreError::Missing { .. }) {
                    lock.forget();
                }
                Err(error)
            }
        }
    }

    /// A host whose lock is taken already, recorded or about to be.
    pub(super) fn new(context: &'a Context, lock: HostLock, record: Record) -> Self {
        Self { context, lock, record }
    }

    /// Writes the first record of a host.
    pub(super) fn plan(&mut self) -> Result<(), StoreError> {
        self.context.store.plan(&self.lock, &mut self.record)
    }

    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        self.context.store.save(&self.lock, &mut self.record)
    }

    /// Saves that the host is in another phase from now on, with whatever else of the record was changed.
    pub(super) fn enter(&mut self, next: Phase) -> Result<(), StoreError> {
        self.record.enter(next);
        self.save()
    }

    /// Gives up a host that was never recorded.
    pub(super) fn abandon(self) {
        self.lock.abandon();
    }

    /// Deletes the record and the folder.
    pub(super) fn delete(self) -> Result<(), StoreError> {
        self.context.store.delete(self.lock, &self.record.name)
    }

    /// The host's folder.
    pub(super) fn folder(&self) -> PathBuf {
        self.context.store.folder(&self.record.name)
    }

    /// Replaces the certificates in the host's folder, all at once.
    pub(super) fn replace_copies(
        &self,
        client: &ClientFiles,
        server: Option<&HostFiles>,
    ) -> Result<(), StoreError> {
        self.context.store.replace_host_copies(&self.lock, &self.record.name, client, server)
    }

    pub(super) fn driver(&self) -> Result<Arc<dyn Driver>, DriverError> {
        self.context.driver(&self.record)
    }

    /// What the driver can do, for any host.
    pub(super) fn features(&self) -> Result<Features, DriverError> {
        Ok(self.driver()?.info().features)
    }

    /// What the driver can do for this host.
    pub(super) fn own_features(&self) -> Result<Features, DriverError> {
        Ok(self.driver()?.features_of(&self.record.driver.config))
    }

    /// What the driver is told of the host.
    pub(super) fn view(&self) -> HostView {
        self.context.view(&self.record)
    }

    /// The driver, what it is told of the host, and the journal in which it writes.
    pub(super) fn at_driver(
        &mut self,
    ) -> Result<(Arc<dyn Driver>, HostView, RecordJournal<'_>), DriverError> {
        let (driver, view) = (self.driver()?, self.view());
        Ok((driver, view, RecordJournal::new(&self.context.store, &self.lock, &mut self.record)))
    }

    /// The state now, by the driver.
    pub(super) async fn state(&self) -> Result<State, DriverError> {
        self.context.state(&self.record).await
    }

    /// Asks the driver where the host is reached, and takes it over. Returns whether that is elsewhere now.
    pub(super) async fn find_endpoint(&mut self) -> Result<bool, DriverError> {
        let endpoint = self.driver()?.endpoint(&self.view(), &self.record.driver.state).await?;
        let moved = self.record.endpoint.as_ref() != Some(&endpoint);
        let folder = self.folder();
        self.record.set_endpoint(endpoint, &folder);
        Ok(moved)
    }

    /// Has the provider let in whoever runs this, from wherever they are now.
    pub(super) async fn admit(&mut self, progress: &dyn Progress) -> Result<(), DriverError> {
        let Some(rules) = self.record.endpoint.as_ref().map(access::rules) else { return Ok(()) };
        let (driver, view, mut journal) = self.at_driver()?;
        driver.admit(&view, &rules, &mut journal, progress).await
    }

    /// Has the driver see to it that a running host is reached, where it has a say in that, and records where; both may
    /// have changed behind our back. Refuses a host that its driver says is stopped; whether a running one answers is not
    /// asked. Returns whether it is reached elsewhere now.
    pub(super) async fn refresh(&mut self, progress: &dyn Progress) -> Result<bool, RefreshError> {
        if !self.features()?.power {
            return Ok(false);
        }
        match self.state().await {
            Ok(State::Stopped | State::Saved | State::Paused) => {
                return Err(not_running(&self.record.name).into());
            }
            Ok(State::None) => return Err(gone(&self.record.name).into()),
            _ => {}
        }
        let (driver, view, mut journal) = self.at_driver()?;
        // Running already is a success.
        driver.start(&view, &mut journal, progress).await?;
        let moved = self.find_endpoint().await?;
        if moved {
            self.save()?;
        }
        self.admit(progress).await?;
        Ok(moved)
    }
}

/// A host could not be looked at anew.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Store(#[from] StoreError),
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

fn gone(name: &HostName) -> DriverError {
    DriverError::gone(format!("`{name}` is gone: its provider does not have it any more"))
        .with_hint(format!("Remove it with `machine rm {name}` and create it again"))
}

fn not_running(name: &HostName) -> DriverError {
    DriverError::refused("Host is not running").with_hint(format!("Start it with `machine start {name}`"))
}
