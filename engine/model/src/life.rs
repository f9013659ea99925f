//! What happens to a container: as those who wait for it see it, and as `GET /events` tells it.

/// What waiters watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// How many changes there were. Whoever finds another number than the next one has missed some.
    pub sequence: u64,
    /// How often it has ended; a restart that was to come and is given up is an end as well.
    pub exits: u64,
    pub exit_code: i32,
    pub error: String,
    /// It runs, or is about to be started again.
    pub alive: bool,
    pub removed: bool,
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Started,
    /// It could not be started; its first process would have ended with this code.
    NotStarted {
        code: i32,
        error: String,
    },
    /// It is to be started again after a while, by its restart policy.
    Waits,
    /// It is not started, or not again, by itself. Whoever waits for its end is told if it ran before.
    GivenUp,
    Signalled {
        signal: i32,
    },
    Paused,
    Unpaused,
    OutOfMemory,
    Ended {
        code: i32,
        starts_again: bool,
    },
    /// A client wanted it to end, and it has.
    Stopped,
    /// A client wanted it to end and to start anew, and it has.
    Restarted,
    Renamed {
        old: String,
    },
    Updated,
    Removed,
}

impl Change {
    /// What it makes of a life.
    pub fn apply(&self, life: &mut Life) {
        life.sequence += 1;
        match self {
            Self::Started => {
                life.alive = true;
                life.error.clear();
            }
            Self::NotStarted { code, error } => {
                life.exit_code = *code;
                life.error.clone_from(error);
            }
            Self::Waits => life.alive = true,
            Self::GivenUp => {
                life.exits += u64::from(life.alive);
                life.alive = false;
            }
            Self::Ended { code, starts_again } => {
                life.exits += 1;
                life.exit_code = *code;
                life.alive = *starts_again;
            }
            Self::Removed => life.removed = true,
            Self::Created
            | Self::Signalled { .. }
            | Self::Paused
            | Self::Unpaused
            | Self::OutOfMemory
            | Self::Stopped
            | Self::Restarted
            | Self::Renamed { .. }
            | Self::Updated => {}
        }
    }

    /// The action that docker knows, and its attributes besides those of the container.
    pub fn action(&self) -> Option<(&'static str, Option<(&'static str, String)>)> {
        Some(match self {
            Self::Created => ("create", None),
            Self::Started => ("start", None),
            Self::NotStarted { .. } | Self::Waits | Self::GivenUp => return None,
            Self::Signalled { signal } => ("kill", Some(("signal", signal.to_string()))),
            Self::Paused => ("pause", None),
            Self::Unpaused => ("unpause", None),
            Self::OutOfMemory => ("oom", None),
            Self::Ended { code, .. } => ("die", Some(("exitCode", code.to_string()))),
            Self::Stopped => ("stop", None),
            Self::Restarted => ("restart", None),
            Self::Renamed { old } => ("rename", Some(("oldName", format!("/{old}")))),
            Self::Updated => ("update", None),
            Self::Removed => ("destroy", None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(changes: &[Change]) -> Life {
        let mut life = Life::default();
        for change in changes {
            change.apply(&mut life);
        }
        life
    }

    #[test]
    fn every_end_counts_once() {
        let ended = |starts_again| Change::Ended { code: 3, starts_again };
        let seen = life(&[Change::Created, Change::Started, ended(true), Change::Started, ended(false)]);
        assert_eq!((seen.sequence, seen.exits, seen.exit_code, seen.alive), (5, 2, 3, false));
        // A restart that is given up was to come.
        let seen = life(&[Change::Started, ended(true), Change::GivenUp, Change::GivenUp]);
        assert_eq!((seen.exits, seen.alive), (2, false));
        let error = "no such file".to_owned();
        let seen = life(&[Change::NotStarted { code: 127, error }, Change::GivenUp]);
        assert_eq!((seen.exits, seen.exit_code, seen.error.as_str()), (0, 127, "no such file"));
    }
}
