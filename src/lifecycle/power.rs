//! Starts, stops, restarts and kills a host, and sees to its engine afterwards.

use machine_driver::{DriverError, HostName, Progress, State};

use super::{BringUpError, Context, RefreshError, bring_up, locked::LockedHost};
use crate::store::{Operation, Phase, Record, StoreError};

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
    let mut host = LockedHost::open(context, name, what.operation())?;
    if host.features()?.power {
        let state = host.state().await?;
        if what == Power::Restart && state == State::Running {
            // Whoever is not let in cannot see that the host goes down before it comes back.
            host.admit(progress).await?;
        }
        let already = match (what, state) {
            (Power::Start, State::Running) => Some("running"),
            (Power::Stop | Power::Kill, State::Stopped) => Some("stopped"),
            _ => None,
        };
        if let Some(word) = already {
            if host.record.state != state {
                host.record.state = state;
                host.save()?;
            }
            // A start that was interrupted after the boot still has its engine to see to; and the host may be
            // reached elsewhere now, or from elsewhere.
            let settled = host.record.phase == Phase::Ready;
            if what != Power::Start || (!host.refresh(progress).await? && settled) {
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
    let (driver, view, mut journal) = host.at_driver()?;
    match what {
        Power::Start => driver.start(&view, &mut journal, progress).await?,
        Power::Stop => driver.stop(&view, &mut journal, progress).await?,
        Power::Restart => driver.restart(&view, &mut journal, progress).await?,
        Power::Kill => driver.kill(&view, &mut journal, progress).await?,
    }
    if matches!(what, Power::Stop | Power::Kill) {
        host.record.state = State::Stopped;
        host.save()?;
        return Ok(host.record);
    }
    host.record.state = State::Running;
    host.find_endpoint().await?;
    host.save()?;
    host.admit(progress).await?;
    if host.features()?.provisioned {
        bring_up::bring_up(&mut host, progress).await?;
    }
    Ok(host.record)
}

/// Runs the whole provisioning again. Returns the record and what was changed on the host.
pub async fn reprovision(
    context: &Context,
    name: &HostName,
    progress: &dyn Progress,
) -> Result<(Record, Vec<String>), PowerError> {
    let mut host = LockedHost::open(context, name, Operation::Provision)?;
    if !host.features()?.provisioned {
        let error = DriverError::unsupported("Hosts without a driver are not provisioned");
        return Err(error.into());
    }
    if host.record.phase == Phase::Ready {
        host.refresh(progress).await?;
    }
    let changed = bring_up::bring_up(&mut host, progress).await?;
    Ok((host.record, changed))
}
