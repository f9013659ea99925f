//! Starts, stops, restarts and kills a host, and sees to its engine afterwards.

use machine_driver::{DriverError, HostName, Progress, State};

use super::{BringUpError, Context, Keys, RefreshError, bring_up};
use crate::store::{HostLock, Operation, Phase, Record, RecordJournal, StoreError};

/// What is to be done to a host's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    Start,
    Stop,
    Restart,
    Kill,
}

impl Power {
    fn operation(self) -> Operation {
        match self {
            Self::Start | Self::Restart => Operation::Start,
            Self::Stop | Self::Kill => Operation::Stop,
        }
    }
}

/// A host could not be started, stopped, restarted or killed.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("Machine \"{name}\" is already {state}.")]
    Already { name: HostName, state: &'static str },
    #[error(transparent)]
    BringUp(#[from] BringUpError),
}

impl PowerError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Driver(error) => error.hint().map(str::to_owned),
            Self::BringUp(error) => error.hint(),
            Self::Already { .. } => None,
        }
    }
}

impl From<RefreshError> for PowerError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Store(error) => Self::Store(error),
            RefreshError::Driver(error) => Self::Driver(error),
        }
    }
}

/// Does it. A host that is already so is an error with docker-machine's text, which is told apart by
/// [`PowerError::Already`] because it is no failure.
pub async fn power(
    context: &Context,
    name: &HostName,
    what: Power,
    progress: &dyn Progress,
) -> Result<Record, PowerError> {
    let lock = context.store.lock(name)?;
    let mut record = load_or_unlock(context, name, &lock)?;
    record.phase.check(name, what.operation()).map_err(StoreError::from)?;
    let driver = context.driver(&record)?;
    let (paths, keys) = (context.paths(&record), Keys::default());
    let before = record.clone();
    let view = super::view(&before, &paths, &keys);
    if driver.info().features.power {
        let state = driver.state(&view, &record.driver.state).await?;
        let already = match (what, state) {
            (Power::Start, State::Running) => Some("running"),
            (Power::Stop | Power::Kill, State::Stopped) => Some("stopped"),
            _ => None,
        };
        if let Some(word) = already {
            if record.state != state {
                record.state = state;
                context.store.save(&lock, &mut record)?;
            }
            // A start that was interrupted after the boot still has its engine to see to; and the host may be
            // reached elsewhere now, or from elsewhere.
            let settled = record.phase == Phase::Ready;
            if what != Power::Start || (!context.refresh(&lock, &mut record, progress).await? && settled) {
                return Err(PowerError::Already { name: name.clone(), state: word });
            }
        }
    }
    progress.step(match what {
        Power::Start => "Starting",
        Power::Stop => "Stopping",
        Power::Restart => "Restarting",
        Power::Kill => "Killing",
    });
    let mut journal = RecordJournal::new(&context.store, &lock, &mut record);
    match what {
        Power::Start => driver.start(&view, &mut journal, progress).await?,
        Power::Stop => driver.stop(&view, &mut journal, progress).await?,
        Power::Restart => driver.restart(&view, &mut journal, progress).await?,
        Power::Kill => driver.kill(&view, &mut journal, progress).await?,
    }
    if matches!(what, Power::Stop | Power::Kill) {
        record.state = State::Stopped;
        context.store.save(&lock, &mut record)?;
        return Ok(record);
    }
    record.state = State::Running;
    let endpoint = driver.endpoint(&super::view(&before, &paths, &keys), &record.driver.state).await?;
    record.set_endpoint(endpoint, &paths.folder);
    context.store.save(&lock, &mut record)?;
    if driver.info().features.provisioned {
        bring_up::bring_up(context, &lock, &mut record, progress).await?;
    }
    Ok(record)
}

/// Runs the whole provisioning again. Returns the record and what was changed on the host.
pub async fn reprovision(
    context: &Context,
    name: &HostName,
    progress: &dyn Progress,
) -> Result<(Record, Vec<String>), PowerError> {
    let lock = context.store.lock(name)?;
    let mut record = load_or_unlock(context, name, &lock)?;
    record.phase.check(name, Operation::Provision).map_err(StoreError::from)?;
    let driver = context.driver(&record)?;
    if !driver.info().features.provisioned {
        let error = DriverError::unsupported("Hosts without a driver are not provisioned");
        return Err(error.into());
    }
    if record.phase == Phase::Ready && driver.info().features.power {
        context.refresh(&lock, &mut record, progress).await?;
    }
    let changed = bring_up::bring_up(context, &lock, &mut record, progress).await?;
    Ok((record, changed))
}

/// The record of a host; where there is none, the lock that was taken for it leaves nothing behind.
pub(super) fn load_or_unlock(
    context: &Context,
    name: &HostName,
    lock: &HostLock,
) -> Result<Record, StoreError> {
    let loaded = context.store.load(name);
    if matches!(loaded, Err(StoreError::Missing { .. })) {
        lock.forget();
    }
    loaded
}
