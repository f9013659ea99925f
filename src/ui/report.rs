//! What a command answers, in both of its forms: text for people and scripts, objects for `--json`.

use std::fmt::Display;

use serde::Serialize;

use super::{Failure, safe};

/// The answer of a command, to be printed once, and the exit status.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub(super) text: String,
    /// One object a line.
    pub(super) json: String,
    status: u8,
}

impl Report {
    /// Nothing to read: the command has told on its way what there is to tell.
    pub fn status(status: u8) -> Self {
        Self { status, ..Self::default() }
    }

    /// Things of which each is one line of text and one object.
    pub fn lines<T: Serialize + Display>(things: &[T]) -> Result<Self, Failure> {
        let text = things.iter().map(|thing| format!("{}\n", safe::one_line(&thing.to_string()))).collect();
        Self::with_text(text, things)
    }

    /// One thing with a text of its own form, which ends with its own line break and is printed as it is.
    pub fn with_text<T: Serialize>(text: String, things: &[T]) -> Result<Self, Failure> {
        let mut json = String::new();
        for thing in things {
            let line = serde_json::to_string(thing)
                .map_err(|error| Failure::because("Could not write the answer as JSON", &error))?;
            json.push_str(&safe::json(&line));
            json.push('\n');
        }
        Ok(Self { text, json, status: 0 })
    }

    /// The same answer of a command that did not come to its end, or to a good one.
    #[must_use]
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    pub fn exit_status(&self) -> u8 {
        self.status
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Serialize)]
    struct Named(&'static str);

    impl Display for Named {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str(self.0)
        }
    }

    #[test]
    fn a_thing_is_one_line_in_both_forms() {
        let report = Report::lines(&[Named("a\nb"), Named("c\u{9b}")]).unwrap();
        assert_eq!(report.text, "a\u{fffd}b\nc\u{fffd}\n");
        assert_eq!(report.json, "\"a\\nb\"\n\"c\\u009b\"\n");
    }
}
