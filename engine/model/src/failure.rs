//! What a caller is told when something cannot be done, whoever the caller is: the API makes a status of the kind, a
//! swarm's agent decides by it whether to try again.

use std::error::Error;

/// What sort of failure it is, which says who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense, now or later.
    Invalid,
    /// What it is about does not exist.
    NotFound,
    /// It makes sense, but not as things are now.
    Conflict,
    /// It is never allowed.
    Forbidden,
    /// This engine does not have it.
    Unsupported,
    /// Things are as they were asked to be already.
    NotModified,
    /// This node is not in the state for it.
    Unavailable,
    /// The engine or its host failed.
    Internal,
}

impl Kind {
    /// Of an error while an archive was read, or unpacked: whether the archive is to blame for it, or this machine.
    pub fn of_archive(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        /// Links that lead in a circle; std has no stable word for it.
        const TOO_MANY_LINKS: i32 = 40;
        let is_of_archive = match error.raw_os_error() {
            Some(TOO_MANY_LINKS) => true,
            Some(_) => matches!(
                error.kind(),
                ErrorKind::AlreadyExists
                    | ErrorKind::DirectoryNotEmpty
                    | ErrorKind::FileTooLarge
                    | ErrorKind::InvalidFilename
                    | ErrorKind::InvalidInput
                    | ErrorKind::IsADirectory
                    | ErrorKind::NotADirectory
                    | ErrorKind::NotFound
                    | ErrorKind::TooManyLinks
            ),
            None => !matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::WriteZero),
        };
        if is_of_archive { Self::Invalid } else { Self::Internal }
    }
}

/// A failure in words that can be shown to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: Kind,
    /// The attempt and its causes in one line.
    pub message: String,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A failure of this kind that tells an error with its causes.
    pub fn of(kind: Kind, error: &dyn Error) -> Self {
        Self::new(kind, chain(error))
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("Could not start")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn an_archive_is_not_to_blame_for_a_full_disk() {
        use std::io::{Error, ErrorKind};
        for (code, kind) in
            [(36, Kind::Invalid), (40, Kind::Invalid), (28, Kind::Internal), (5, Kind::Internal)]
        {
            assert_eq!(Kind::of_archive(&Error::from_raw_os_error(code)), kind, "{code}");
        }
        assert_eq!(Kind::of_archive(&Error::other("archive header checksum mismatch")), Kind::Invalid);
        assert_eq!(Kind::of_archive(&ErrorKind::WriteZero.into()), Kind::Internal);
    }

    #[test]
    fn a_failure_tells_the_causes() {
        let Err(cause) = "x".parse::<u8>() else { panic!("it is not a number") };
        let failure = Failure::of(Kind::Conflict, &Outer(cause));
        assert_eq!(failure.to_string(), "Could not start: invalid digit found in string");
        assert_eq!(failure.kind, Kind::Conflict);
    }
}
