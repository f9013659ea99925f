//! A host that this process may change: its lock, its record and its driver, together.

use std::sync::Arc;

use machine_driver::{Driver, DriverError, Features, HostName, HostView, Progress, State};

use super::{BringUpError, Context, Keys, RefreshError, bring_up};
use crate::store::{HostLock, Operation, Record, RecordJournal, StoreError};

/// The right to change a host, with everything that it takes; the lock is held until this is dropped.
pub(super) struct LockedHost<'a> {
    context: &'a Context,
    pub(super) lock: HostLock,
    pub(super) record: Record,
    driver: Arc<dyn Driver>,
}

impl<'a> LockedHost<'a> {
    /// Takes the lock of a host, reads its record, and refuses what may not be done in its phase.
    pub(super) fn open(
        context: &'a Context,
        name: &HostName,
        operation: Operation,
    ) -> Result<Self, RefreshError> {
        let lock = context.store.lock(name)?;
        let record = super::power::load_or_unlock(context, name, &lock)?;
        record.phase.check(name, operation).map_err(StoreError::from)?;
        let driver = context.driver(&record)?;
        Ok(Self { context, lock, record, driver })
    }

    /// What the driver can do.
    pub(super) fn features(&self) -> Features {
        self.driver.info().features
    }

    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        self.context.store.save(&self.lock, &mut self.record)
    }

    /// The driver, what it is told of the host, and the journal in which it writes.
    pub(super) fn at_driver(&mut self) -> (Arc<dyn Driver>, HostView, RecordJournal<'_>) {
        let view = self.view();
        (self.driver.clone(), view, RecordJournal::new(&self.context.store, &self.lock, &mut self.record))
    }

    fn view(&self) -> HostView {
        super::view(&self.record, &self.context.paths(&self.record), &Keys::default())
    }

    /// The state now, by the driver.
    pub(super) async fn state(&self) -> Result<State, DriverError> {
        self.driver.state(&self.view(), &self.record.driver.state).await
    }

    /// Asks the driver where the host is reached, and records it.
    pub(super) async fn record_endpoint(&mut self) -> Result<(), RefreshError> {
        let endpoint = self.driver.endpoint(&self.view(), &self.record.driver.state).await?;
        let folder = self.context.store.folder(&self.record.name);
        self.record.set_endpoint(endpoint, &folder);
        Ok(self.save()?)
    }

    /// Has the driver see to it that a running host is reached, where it has a say in that. Returns whether it is
    /// reached elsewhere now.
    pub(super) async fn refresh(&mut self, progress: &dyn Progress) -> Result<bool, RefreshError> {
        if !self.features().power {
            return Ok(false);
        }
        self.context.refresh(&self.lock, &mut self.record, progress).await
    }

    /// From "the provider says that it runs" to "the engine answered over TLS". Returns what was changed.
    pub(super) async fn bring_up(&mut self, progress: &dyn Progress) -> Result<Vec<String>, BringUpError> {
        bring_up::bring_up(self.context, &self.lock, &mut self.record, progress).await
    }
}
