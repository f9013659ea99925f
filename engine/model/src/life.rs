//! What happens to a container: as those who wait for it see it, and as `GET /events` tells it.

use std::borrow::Cow;

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

/// What an event says, by names.
pub type Attributes = Vec<(&'static str, String)>;

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
        /// How long it ran, in whole seconds.
        seconds: i64,
    },
    /// A client wanted it to end, and it has.
    Stopped,
    /// A client wanted it to end and to start anew, and it has.
    Restarted,
    Renamed {
        old: String,
    },
    Updated,
    /// An image was made of it.
    Committed {
        image: String,
        reference: String,
        comment: String,
    },
    /// A client has taken its streams.
    Attached,
    /// That client has left by the keys for it.
    Detached,
    /// A further process in it is made, and waits to begin.
    ExecCreated {
        exec: String,
        command: String,
    },
    ExecStarted {
        exec: String,
        command: String,
    },
    ExecEnded {
        exec: String,
        code: i32,
    },
    /// It is well, or not, by its checks.
    HealthChanged {
        status: &'static str,
    },
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
            Self::Ended { code, starts_again, .. } => {
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
            | Self::Updated
            | Self::Committed { .. }
            | Self::Attached
            | Self::Detached
            | Self::ExecCreated { .. }
            | Self::ExecStarted { .. }
            | Self::ExecEnded { .. }
            | Self::HealthChanged { .. } => {}
        }
    }

    /// The action that docker knows, and its attributes besides those of the container.
    pub fn action(&self) -> Option<(Cow<'static, str>, Attributes)> {
        let mut more = Vec::new();
        let action = match self {
            Self::Created => "create",
            Self::Started => "start",
            Self::NotStarted { .. } | Self::Waits | Self::GivenUp => return None,
            Self::Signalled { signal } => {
                more.push(("signal", signal.to_string()));
                "kill"
            }
            Self::Paused => "pause",
            Self::Unpaused => "unpause",
            Self::OutOfMemory => "oom",
            Self::Ended { code, seconds, .. } => {
                more.push(("execDuration", seconds.to_string()));
                more.push(("exitCode", code.to_string()));
                "die"
            }
            Self::Stopped => "stop",
            Self::Restarted => "restart",
            Self::Renamed { old } => {
                more.push(("oldName", format!("/{old}")));
                "rename"
            }
            Self::Updated => "update",
            Self::Committed { image, reference, comment } => {
                more = vec![
                    ("comment", comment.clone()),
                    ("imageID", image.clone()),
                    ("imageRef", reference.clone()),
                ];
                "commit"
            }
            Self::Attached => "attach",
            Self::Detached => "detach",
            // The command is a part of docker's word for it.
            Self::ExecCreated { exec, command } => {
                return Some((format!("exec_create: {command}").into(), vec![("execID", exec.clone())]));
            }
            Self::ExecStarted { exec, command } => {
                return Some((format!("exec_start: {command}").into(), vec![("execID", exec.clone())]));
            }
            Self::ExecEnded { exec, code } => {
                more = vec![("execID", exec.clone()), ("exitCode", code.to_string())];
                "exec_die"
            }
            // So is the status.
            Self::HealthChanged { status } => return Some((format!("health_status: {status}").into(), more)),
            Self::Removed => "destroy",
        };
        Some((action.into(), more))
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
    fn what_happens_in_it_is_numbered_as_well_and_told_in_dockers_words() {
        let (exec, command) = ("e1".to_owned(), "ls -l".to_owned());
        let changes = [
            Change::ExecCreated { exec: exec.clone(), command: command.clone() },
            Change::Attached,
            Change::ExecStarted { exec: exec.clone(), command },
            Change::ExecEnded { exec, code: 3 },
            Change::HealthChanged { status: "healthy" },
            Change::Waits,
        ];
        assert_eq!(life(&changes), Life { sequence: 6, alive: true, ..Life::default() });
        let told: Vec<_> = changes.iter().filter_map(Change::action).collect();
        let words: Vec<_> = told.iter().map(|(action, _)| action.as_ref()).collect();
        assert_eq!(
            words,
            ["exec_create: ls -l", "attach", "exec_start: ls -l", "exec_die", "health_status: healthy"]
        );
        assert_eq!(told[3].1, [("execID", "e1".to_owned()), ("exitCode", "3".to_owned())]);
    }

    #[test]
    fn every_end_counts_once() {
        let ended = |starts_again| Change::Ended { code: 3, starts_again, seconds: 5 };
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
