//! Removes a host: what its journal names at the provider, then its folder.

use machine_driver::{DriverError, HostName, MemoryJournal, Progress, State};

use super::{Context, Keys};
use crate::store::{Operation, Phase, Record, RecordJournal, StoreError, Transport};

/// A host could not be removed. Its record is kept.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Error removing host \"{name}\"")]
    Driver { name: HostName, source: DriverError },
    #[error("The record of \"{name}\" was damaged; what the host had at its provider may be left there")]
    Salvage { name: HostName, source: SalvageError },
}

impl RemoveError {
    /// What the user can do about it, where the cause does not say so itself.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Salvage { source: SalvageError::Unknown, .. } => {
                Some("Look for it at the provider, or with `machine gc -d DRIVER`".to_owned())
            }
            Self::Salvage { source: SalvageError::Store(error), .. } | Self::Store(error) => error.hint(),
            Self::Salvage { source: SalvageError::Driver(error), .. }
            | Self::Driver { source: error, .. } => error.hint().map(str::to_owned),
        }
    }
}

/// What a host with a damaged record had at its provider could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("Nothing says which driver made it")]
    Unknown,
}

/// Removes what a driver finds of a host of which only the identity is known.
async fn salvage(context: &Context, name: &HostName, progress: &dyn Progress) -> Result<(), SalvageError> {
    let identity = context.store.identity(name)?.ok_or(SalvageError::Unknown)?;
    let mut record =
        Record::new(&context.store, name.clone(), &identity.driver_name, identity.config, Transport::Plain);
    record.id = identity.id;
    let driver = context.drivers.find(&identity.driver_name)?;
    let view = super::view(&record, &context.paths(&record), &Keys::default());
    // In memory: what is found is no record that could stand in for the damaged one.
    Ok(driver.salvage(&view, &mut MemoryJournal::default(), progress).await?)
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
            let salvaged = salvage(context, name, progress).await;
            context.store.delete(lock, name)?;
            return Ok(Some(match salvaged {
                Ok(()) => error.into(),
                Err(source) => RemoveError::Salvage { name: name.clone(), source },
            }));
        }
        Err(error) => return Err(error.into()),
    };
    record.phase.check(name, Operation::Remove).map_err(StoreError::from)?;
    progress.step("Removing");
    let before = record.clone();
    record.enter(Phase::Removing);
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
            if record.journal == before.journal
                && record.driver == before.driver
                && is_untouched(context, &before).await
            {
                // It was refused, and nothing was removed: the host is what it was.
                record.enter(before.phase);
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

/// Whether a host that could not be removed is there as before, as far as its driver says so clearly. A provider may have
/// begun to end it and not have told.
async fn is_untouched(context: &Context, record: &Record) -> bool {
    if context.drivers.find(&record.driver_name).is_err() {
        // Nobody was asked to remove anything.
        return true;
    }
    let state = context.state(record).await;
    matches!(state, Ok(State::Running | State::Stopped | State::Saved | State::Paused))
}
