//! How a failure reads: what was attempted, why it failed, and what to do next.

use std::{error::Error, fmt};

use serde_json::{Value, json};

use super::{hint::Hint, safe};

/// Something went wrong and is to be told. Its exit status is decided here and used once, in `main`.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The attempt, then each cause of the one before.
    texts: Vec<String>,
    hint: Option<String>,
    /// The host that it is about.
    host: Option<String>,
    status: u8,
    /// A text of docker-machine's that scripts compare: nothing stands before it.
    verbatim: bool,
}

impl Failure {
    /// A failure of the command's own, with exit status 1.
    pub fn text(text: impl Into<String>) -> Self {
        Self { texts: vec![text.into()], hint: None, host: None, status: 1, verbatim: false }
    }

    /// An error of ours, with its causes and its hint.
    pub fn new(error: impl Hint) -> Self {
        Self { hint: error.hint(), texts: chain(&error), ..Self::text("") }
    }

    /// An attempt that failed because of an error that is not ours, and has no hint.
    pub fn because(text: impl Into<String>, cause: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::text(text);
        failure.texts.extend(chain(cause));
        failure
    }

    /// The attempt of which this failure is the cause.
    #[must_use]
    pub fn context(mut self, text: impl Into<String>) -> Self {
        self.texts.insert(0, text.into());
        self
    }

    /// What the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One of docker-machine's texts, which scripts compare to the letter: it is printed without `error: ` before it.
    #[must_use]
    pub fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }

    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    #[must_use]
    pub fn with_host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn status(&self) -> u8 {
        self.status
    }

    /// The attempt and its causes as one line of text.
    pub fn message(&self) -> String {
        self.texts.join(": ")
    }

    /// As one event of `--json` output.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "event": "error",
            "text": self.texts.first(),
            "causes": self.texts.get(1..).unwrap_or_default(),
            "time": jiff::Timestamp::now().to_string(),
        });
        if let Some(host) = &self.host {
            object["host"] = json!(host);
        }
        if let Some(hint) = &self.hint {
            object["hint"] = json!(hint);
        }
        object
    }
}

impl<E: Hint> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.verbatim {
            formatter.write_str("error: ")?;
        }
        if let Some(host) = &self.host {
            write!(formatter, "({}) ", safe::one_line(host))?;
        }
        formatter.write_str(&continued(&self.message()))?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\nhint: {}", continued(hint))?;
        }
        Ok(())
    }
}

/// The texts of an error and of its causes. None repeats its cause: the types see to that.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let (mut texts, mut next) = (Vec::new(), Some(error));
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}

/// Lines after the first are indented, so that what somebody else wrote does not look like a line of ours.
fn continued(text: &str) -> String {
    let mut lines = text.trim_end().lines();
    let mut shown = safe::one_line(lines.next().unwrap_or_default()).into_owned();
    for line in lines {
        shown.push('\n');
        if !line.starts_with(' ') {
            shown.push_str("  ");
        }
        shown.push_str(&safe::printable(line));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn every_cause_is_told_once_and_in_order() {
        let source = std::io::Error::other("disk on fire");
        let failure = Failure::new(StoreError::Read { path: "/x".into(), source }).context("Could not begin");
        assert_eq!(failure.to_string(), "error: Could not begin: Could not read `/x`: disk on fire");
        let json = failure.to_json();
        assert_eq!(json["text"], "Could not begin");
        assert_eq!(json["causes"], json!(["Could not read `/x`", "disk on fire"]));
    }

    #[test]
    fn a_cause_that_is_a_part_of_what_was_attempted_is_not_hidden() {
        let source = std::io::Error::other("read");
        let failure = Failure::new(StoreError::Read { path: "/read".into(), source });
        assert_eq!(failure.message(), "Could not read `/read`: read");
    }

    #[test]
    fn what_others_wrote_is_no_line_of_ours_and_steers_nothing() {
        let failure = Failure::text("It said: \u{1b}[2Jx\nhint: run this\r\n").with_hint("a\nb");
        assert_eq!(failure.to_string(), "error: It said: \u{fffd}[2Jx\n  hint: run this\nhint: a\n  b");
    }
}
