//! Removes a host: what its journal names at the provider, then its folder.

use machine_driver::{DriverError, HostName, MemoryJournal, Progress, State};

use super::{Context, locked::LockedHost};
use crate::store::{Operation, Phase, Record, StoreError, Transport};

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
    let view = context.view(&record);
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
    let mut host = match context.store.load(name) {
        Ok(record) => LockedHost::new(context, lock, record),
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
    host.record.phase.check(name, Operation::Remove).map_err(StoreError::from)?;
    progress.step("Removing");
    let before = host.record.clone();
    host.enter(Phase::Removing)?;
    let removed = match host.at_driver() {
        Ok((driver, view, mut journal)) => driver.remove(&view, &mut journal, progress).await,
        Err(error) => Err(error),
    };
    let problem = match removed {
        Ok(()) => None,
        Err(error) if error.is_gone() => None,
        Err(source) => Some(RemoveError::Driver { name: name.clone(), source }),
    };
    match problem {
        Some(problem) if !force => {
            if host.record.journal == before.journal
                && host.record.driver == before.driver
                && is_untouched(&host).await
            {
                // It was refused, and nothing was removed: the host is what it was.
                host.enter(before.phase)?;
            }
            Err(problem)
        }
        problem => {
            host.delete()?;
            Ok(problem)
        }
    }
}

/// Whether a host that could not be removed is there as before, as far as its driver says so clearly. A provider may have
/// begun to end it and not have told.
async fn is_untouched(host: &LockedHost<'_>) -> bool {
    if host.driver().is_err() {
        // Nobody was asked to remove anything.
        return true;
    }
    matches!(host.state().await, Ok(State::Running | State::Stopped | State::Saved | State::Paused))
}
