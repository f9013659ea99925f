//! The one error type of drivers: what was attempted, of which kind the failure is, and what to do next.

use std::{error::Error, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What a failure means to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ErrorKind {
    /// An option or a combination of options that can never work.
    Invalid,
    /// It cannot work here and now (a program is missing, a port is taken). Nothing was made.
    Refused,
    /// The host is there and cannot do that yet: it has no address so far, or is between two states. Asking again
    /// later makes sense.
    NotReady,
    /// The provider says that the host does not exist any more. Never said of a host that has no address yet.
    Gone,
    /// Nobody can say whether it was done or is there: a reply was lost, an answer was cut short. Nothing may be
    /// forgotten because of it.
    Unknown,
    /// The process lacks rights of the system that it runs on.
    NeedsElevation {
        /// How the user gets them, such as `Add yourself to the group kvm`.
        how: String,
    },
    /// The provider asks to slow down.
    Throttled {
        /// Milliseconds that it asked for, where it said so.
        after: Option<u64>,
    },
    /// The provider has no room for the host, there or at all (capacity, quota).
    NoCapacity,
    /// The account may not do that.
    Denied {
        /// The provider's word for what is lacking, such as `ec2:RunInstances`, where it said so.
        permission: Option<String>,
    },
    /// This driver cannot do that at all.
    Unsupported,
    /// It was tried and failed.
    Failed,
}

/// An error of a driver: plain data, so that it can come from another process. `Display` is the attempt alone; the
/// causes are in `source`, from the nearest to the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverError {
    #[serde(flatten)]
    kind: ErrorKind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Causes::is_empty")]
    causes: Causes,
}

impl fmt::Display for DriverError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for DriverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.causes.first()
    }
}

impl DriverError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, causes: Causes::default() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub fn not_ready(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotReady, message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Gone, message)
    }

    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unknown, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// What the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the texts of an error and of everything that it came from.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        let mut texts = vec![source.to_string()];
        let mut cause = source.source();
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        self.causes = Causes::from(texts);
        self
    }

    /// The texts of what it came from, nearest first.
    #[must_use]
    pub fn with_causes(mut self, texts: Vec<String>) -> Self {
        self.causes = Causes::from(texts);
        self
    }

    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Whether the provider says that the host does not exist any more.
    pub fn is_gone(&self) -> bool {
        self.kind == ErrorKind::Gone
    }

    /// What the user can do about it; what a lack of rights takes counts as well.
    pub fn hint(&self) -> Option<&str> {
        match (&self.hint, &self.kind) {
            (Some(hint), _) => Some(hint),
            (None, ErrorKind::NeedsElevation { how }) => Some(how),
            (None, _) => None,
        }
    }

    /// How long the provider asked to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::Throttled { after } => after.map(Duration::from_millis),
            _ => None,
        }
    }
}

impl From<crate::JournalError> for DriverError {
    fn from(error: crate::JournalError) -> Self {
        let hint = error.hint.clone();
        let mut told = Self::failed("Could not write the journal").with_source(error);
        told.hint = hint;
        told
    }
}

/// Most causes that are kept: each is a level of the chain, and chains are walked and dropped by recursion.
const CAUSES: usize = 20;

/// The texts of the causes of an error, nearest first, as a chain of errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
struct Causes(Option<Box<Cause>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cause {
    text: String,
    next: Causes,
}

impl Causes {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn first(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl From<Vec<String>> for Causes {
    fn from(texts: Vec<String>) -> Self {
        let kept = texts.into_iter().take(CAUSES).collect::<Vec<_>>();
        kept.into_iter().rev().fold(Self(None), |next, text| Self(Some(Box::new(Cause { text, next }))))
    }
}

impl From<Causes> for Vec<String> {
    fn from(causes: Causes) -> Self {
        let mut texts = Self::new();
        let mut rest = causes.0;
        while let Some(cause) = rest {
            texts.push(cause.text);
            rest = cause.next.0;
        }
        texts
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.first()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;

    use super::*;

    #[test]
    fn an_error_survives_the_way_through_another_process() {
        let error =
            DriverError::new(ErrorKind::Denied { permission: Some("x:Run".into()) }, "Could not run it")
                .with_hint("Ask for it")
                .with_source(JournalLike(io::Error::other("no")));
        let text = serde_json::to_string(&error).unwrap();
        let read: DriverError = serde_json::from_str(&text).unwrap();
        assert_eq!(read, error);
        let mut causes = Vec::new();
        let mut cause = read.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        assert_eq!(causes, ["outer", "no"]);
        assert!(text.contains(r#""kind":"denied","permission":"x:Run""#), "{text}");
    }

    #[test]
    fn a_chain_without_end_is_cut() {
        let causes = vec![""; 300_000];
        let text = serde_json::json!({"kind": "failed", "message": "x", "causes": causes}).to_string();
        let error: DriverError = serde_json::from_str(&text).unwrap();
        assert_eq!(Vec::from(error.causes).len(), CAUSES);
    }

    #[test]
    fn what_a_lack_of_rights_takes_is_the_hint() {
        let error = DriverError::new(ErrorKind::NeedsElevation { how: "Use sudo".into() }, "No");
        assert_eq!(error.hint(), Some("Use sudo"));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct JournalLike(#[source] io::Error);
}
