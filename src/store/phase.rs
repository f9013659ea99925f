//! The phases of a host's life: which moves there are between them, and what may be done in which.

use machine_driver::HostName;
use serde::{Deserialize, Serialize};

/// How far a host has come.
///
/// ```text
///                ┌─ what was made is gone ─┬──────────┐
///                ▼                         │          │
/// Planned ──▶ Creating ──────────────▶ Booting ──▶ Provisioning ──▶ Ready
///                                          │                          ▲
///                                          └─ nothing is to be done ──┘
///
/// every phase ──────────────────── rm ─────────────────▶ Removing ──▶ (no record)
///             ◀── refused, and nothing was removed ─────
/// ```
///
/// `create` goes on from whatever phase before `Ready` it finds. What is done to a host that is `Ready` leaves it so,
/// whether it succeeds or not. A host that is `Removing` can only be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Recorded; nothing has been made.
    Planned,
    /// The driver is making it.
    Creating,
    /// The provider says that it runs; SSH does not answer yet.
    Booting,
    /// SSH answers; the engine is being installed.
    Provisioning,
    /// The engine answered over TLS.
    Ready,
    /// Being removed.
    Removing,
}

/// What can be done to a host that has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Go on creating it.
    Create,
    /// Start or restart it, and see to its engine.
    Start,
    /// Stop or kill it.
    Stop,
    /// Bring its engine to what the record says.
    Provision,
    /// Give it other certificates.
    RenewCertificates,
    /// Talk to its engine.
    UseEngine,
    Remove,
}

impl Phase {
    #[cfg(test)]
    const ALL: [Self; 6] =
        [Self::Planned, Self::Creating, Self::Booting, Self::Provisioning, Self::Ready, Self::Removing];

    /// Whether this may be done to a host in this phase.
    pub fn may(self, operation: Operation) -> bool {
        match operation {
            Operation::Create => {
                matches!(self, Self::Planned | Self::Creating | Self::Booting | Self::Provisioning)
            }
            Operation::Start | Operation::Stop | Operation::Provision => {
                matches!(self, Self::Booting | Self::Provisioning | Self::Ready)
            }
            Operation::RenewCertificates | Operation::UseEngine => self == Self::Ready,
            Operation::Remove => true,
        }
    }

    /// Whether a host in this phase can come into that one.
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (_, Self::Removing) | (Self::Removing, _) => true,
            (Self::Planned, next) => next == Self::Creating,
            (Self::Creating, next) => matches!(next, Self::Creating | Self::Booting),
            (Self::Booting, next) => matches!(next, Self::Creating | Self::Provisioning | Self::Ready),
            (Self::Provisioning, next) => {
                matches!(next, Self::Creating | Self::Provisioning | Self::Ready)
            }
            (Self::Ready, next) => next == Self::Ready,
        }
    }

    /// Whether the driver has yet to make the host, or may be in the middle of it.
    pub fn is_unmade(self) -> bool {
        match self {
            Self::Planned | Self::Creating => true,
            Self::Booting | Self::Provisioning | Self::Ready | Self::Removing => false,
        }
    }

    /// Refuses what may not be done to a host in this phase.
    pub fn check(self, name: &HostName, operation: Operation) -> Result<(), PhaseError> {
        if self.may(operation) {
            return Ok(());
        }
        Err(PhaseError { name: name.clone(), phase: self })
    }
}

/// Something was asked for that may not be done to a host in its phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct PhaseError {
    pub name: HostName,
    pub phase: Phase,
}

impl PhaseError {
    fn text(&self) -> String {
        let Self { name, phase } = self;
        match phase {
            Phase::Removing => format!("`{name}` is being removed"),
            Phase::Ready => format!("`{name}` is created already"),
            phase => format!("`{name}` is not finished: it is in the phase {phase:?}"),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        let name = &self.name;
        match self.phase {
            Phase::Removing => format!("Finish that with `machine rm {name}`"),
            Phase::Ready => format!("Remove it first with `machine rm {name}`"),
            _ => format!(
                "Unless a `machine create` is at work on it, run the same one again to go on, or `machine rm {name}` to undo"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OPERATIONS: [Operation; 7] = [
        Operation::Create,
        Operation::Start,
        Operation::Stop,
        Operation::Provision,
        Operation::RenewCertificates,
        Operation::UseEngine,
        Operation::Remove,
    ];

    #[test]
    fn a_host_that_is_being_removed_can_only_be_removed() {
        let name: HostName = "mc1".parse().unwrap();
        for operation in OPERATIONS {
            let allowed = Phase::Removing.check(&name, operation);
            assert_eq!(allowed.is_ok(), operation == Operation::Remove, "{operation:?}");
            if let Err(error) = allowed {
                assert!(error.hint().contains("machine rm mc1"), "{error:?}");
            }
        }
    }

    #[test]
    fn every_phase_can_be_removed_and_only_an_unfinished_one_created() {
        for phase in Phase::ALL {
            assert!(phase.may(Operation::Remove) && phase.may_become(Phase::Removing));
            let unfinished = !matches!(phase, Phase::Ready | Phase::Removing);
            assert_eq!(phase.may(Operation::Create), unfinished, "{phase:?}");
            assert_eq!(phase.may(Operation::UseEngine), phase == Phase::Ready, "{phase:?}");
        }
    }

    #[test]
    fn a_finished_host_stays_finished_until_it_is_removed() {
        for next in Phase::ALL {
            assert_eq!(Phase::Ready.may_become(next), matches!(next, Phase::Ready | Phase::Removing));
        }
        assert!(!Phase::Planned.may_become(Phase::Booting) && !Phase::Creating.may_become(Phase::Ready));
    }
}
