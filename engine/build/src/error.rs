//! Why a build came to no image, in the words that docker's users know.

use engine_model::{Failure, Kind};

/// A build that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A command ended with another code than 0.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command { command: String, code: i32 },
    /// The client has gone, or the engine ends.
    #[error("Build cancelled")]
    Cancelled,
    #[error("{0}")]
    Other(Failure),
}

impl BuildError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Other(Failure::new(Kind::Invalid, message))
    }

    pub(crate) fn unsupported(what: &str) -> Self {
        Self::Other(Failure::new(Kind::Unsupported, format!("{what} is not supported by this engine")))
    }

    /// What a process that builds would end with.
    pub fn code(&self) -> i32 {
        match self {
            Self::Command { code, .. } => *code,
            _ => 1,
        }
    }
}

impl From<Failure> for BuildError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<tokio::task::JoinError> for BuildError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Other(Failure::new(Kind::Internal, format!("A step was cut short: {error}")))
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Other(failure) => failure,
            other => Self::new(Kind::Internal, other.to_string()),
        }
    }
}
