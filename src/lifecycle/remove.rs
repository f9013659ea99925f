//! Removes a host: what its journal names at the provider, then its folder.

use machine_driver::{DriverError, HostName, Progress};

use super::{Context, Keys};
use crate::store::{HostLock, Phase, Record, RecordJournal, StoreError};

/// A host could not be removed. Its record is kept.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Error removing host \"{name}\"")]
    Driver { name: HostName, source: DriverError },
}

impl RemoveError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Driver { source, .. } => source.hint().map(str::to_owned),
        }
    }
}

/// Removes what a driver finds of a host of which only the identity is known.
async fn salvage(
    context: &Context,
    name: &HostName,
    lock: &HostLock,
    progress: &dyn Progress,
) -> Result<(), RemoveError> {
    let Some(identity) = context.store.identity(name) else { return Ok(()) };
    let mut record = Record::new(&context.store, name.clone(), &identity.driver_name, identity.config);
    record.id = identity.id;
    let Ok(driver) = context.drivers.find(&identity.driver_name) else { return Ok(()) };
    let (paths, keys, before) = (context.paths(&record), Keys::default(), record.clone());
    let mut journal = RecordJournal::new(&context.store, lock, &mut record);
    driver
        .salvage(&super::view(&before, &paths, &keys), &mut journal, progress)
        .await
        .map_err(|source| RemoveError::Driver { name: name.clone(), source })
}

/// Removes the host, running or not. With `force`, the record goes even if the provider refuses or the record
/// cannot be read; what the provider said is returned then.
pub async fn remove(
    context: &Context,
    name: &HostName,
    force: bool,
    progress: &dyn Progress,
) -> Result<Option<RemoveError>, RemoveError> {
    let lock = context.store.lock(name)?;
    let mut record = match context.store.load(name) {
        Ok(record) => record,
        Err(error @ StoreError::Missing { .. }) => {
            lock.forget();
            return Err(error.into());
        }
        Err(error) if force => {
            // Nothing is known but the name and the folder: whatever a driver finds there is removed as well.
            salvage(context, name, &lock, progress).await?;
            context.store.delete(lock, name)?;
            return Ok(Some(error.into()));
        }
        Err(error) => return Err(error.into()),
    };
    progress.step("Removing");
    let before = record.clone();
    record.phase = Phase::Removing;
    context.store.save(&lock, &mut record)?;
    let (paths, keys) = (context.paths(&before), Keys::default());
    let view = super::view(&before, &paths, &keys);
    let removed = match context.drivers.find(&before.driver_name) {
        Ok(driver) => {
            let mut journal = RecordJournal::new(&context.store, &lock, &mut record);
            driver.remove(&view, &mut journal, progress).await
        }
        Err(error) => Err(error),
    };
    let problem = match removed {
        Ok(()) => None,
        Err(error) if error.is_gone() => None,
        Err(source) => Some(RemoveError::Driver { name: name.clone(), source }),
    };
    match problem {
        Some(problem) if !force => {
            if record.journal == before.journal && record.driver == before.driver {
                // It was refused, and nothing was removed: the host is what it was.
                record.phase = before.phase;
                context.store.save(&lock, &mut record)?;
            }
            Err(problem)
        }
        problem => {
            context.store.delete(lock, name)?;
            Ok(problem)
        }
    }
}
