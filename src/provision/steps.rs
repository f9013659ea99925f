//! The protocol in which `apply.sh` tells what it does, and what is kept of it.

use std::collections::VecDeque;

use machine_driver::Progress;

use super::ProvisionError;
use super::facts::version_in;
use crate::ssh::{ExitStatus, Stream};

/// Lines of standard error that are shown with a failure.
const LINES_KEPT: usize = 20;

/// Characters of a line that are kept.
const LINE_AT_MOST: usize = 300;

/// What one run of the script did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// One sentence for each thing.
    pub(super) changed: Vec<String>,
    /// The version of the engine that was replaced.
    pub(super) previous_version: Option<String>,
}

/// Follows one run of the script.
pub(super) struct Follower<'a> {
    progress: &'a dyn Progress,
    outcome: Outcome,
    failed: Option<(String, String)>,
    last: String,
    finished: bool,
    errors: VecDeque<String>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(progress: &'a dyn Progress) -> Self {
        Self {
            progress,
            outcome: Outcome::default(),
            failed: None,
            last: "upload".to_owned(),
            finished: false,
            errors: VecDeque::new(),
        }
    }

    /// Takes a line as it comes.
    pub(super) fn line(&mut self, stream: Stream, line: &str) {
        let line: String =
            line.trim_end().chars().filter(|character| !character.is_control()).take(LINE_AT_MOST).collect();
        if stream == Stream::Err {
            tracing::debug!(line, "the host");
            if !line.trim().is_empty() {
                if self.errors.len() == LINES_KEPT {
                    self.errors.pop_front();
                }
                self.errors.push_back(line);
            }
            return;
        }
        match line.split_once(' ') {
            Some(("step", rest)) => self.step(rest),
            Some(("previous", text)) => self.outcome.previous_version = version_in(text),
            Some(("note", text)) => self.progress.note(text),
            Some(("log", text)) => tracing::debug!(text, "the installer"),
            None if line == "finished" => self.finished = true,
            _ => tracing::debug!(line, "the host said something that is not of the protocol"),
        }
    }

    /// `NAME running|changed|same|failed TEXT`
    fn step(&mut self, rest: &str) {
        let mut words = rest.splitn(3, ' ');
        let (Some(name), Some(state)) = (words.next(), words.next()) else { return };
        let text = words.next().unwrap_or_default();
        name.clone_into(&mut self.last);
        match state {
            "running" => self.progress.step(text),
            "changed" => self.outcome.changed.push(text.to_owned()),
            "failed" if self.failed.is_none() => self.failed = Some((name.to_owned(), text.to_owned())),
            _ => {}
        }
    }

    /// What has changed, or why it ended early.
    pub(super) fn finish(self, ended: ExitStatus) -> Result<Outcome, ProvisionError> {
        let output = Vec::from(self.errors).join("\n");
        match self.failed {
            Some((step, text)) if step == "configuration" && text.contains("refused") => {
                let message = if output.is_empty() { text } else { output };
                Err(ProvisionError::ConfigurationRefused { message })
            }
            Some((step, text)) => Err(ProvisionError::Step { step, text, output }),
            None if self.finished && ended.success() => Ok(self.outcome),
            None => Err(ProvisionError::Ended { ended, after: self.last, output }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Progress for Told {
        fn step(&self, text: &str) {
            self.0.lock().unwrap().push(format!("step {text}"));
        }

        fn note(&self, text: &str) {
            self.0.lock().unwrap().push(format!("note {text}"));
        }
    }

    fn follow(lines: &[(Stream, &str)], ended: ExitStatus) -> (Vec<String>, Result<Outcome, ProvisionError>) {
        let told = Told::default();
        let mut follower = Follower::new(&told);
        for (stream, line) in lines {
            follower.line(*stream, line);
        }
        let result = follower.finish(ended);
        (told.0.into_inner().unwrap(), result)
    }

    #[test]
    fn steps_are_told_and_counted() {
        let (told, result) = follow(
            &[
                (Stream::Out, "step engine running Unpacking the engine"),
                (Stream::Err, "noise"),
                (Stream::Out, "previous Docker version 0.9.0, build 1"),
                (Stream::Out, "step engine changed Engine 1 installed"),
                (Stream::Out, "step group same there"),
                (Stream::Out, "note \u{1b}[31mPort opened"),
                (Stream::Out, "what is this"),
                (Stream::Out, "step"),
                (Stream::Out, "finished"),
            ],
            ExitStatus::Code(0),
        );
        assert_eq!(told, ["step Unpacking the engine", "note [31mPort opened"]);
        let outcome = result.unwrap();
        assert_eq!(outcome.changed, ["Engine 1 installed"]);
        assert_eq!(outcome.previous_version.as_deref(), Some("0.9.0"));
    }

    #[test]
    fn failures_keep_what_was_said() {
        let lines: Vec<String> = (0..50).map(|number| format!("line {number}")).collect();
        let mut said: Vec<(Stream, &str)> = lines.iter().map(|line| (Stream::Err, line.as_str())).collect();
        said.push((Stream::Out, "step engine failed Could not unpack"));
        let (_, result) = follow(&said, ExitStatus::Code(1));
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "Could not finish the step `engine` on the host: Could not unpack\n  | line 30\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("line 49"), "{text}");
        assert_eq!(error.layer(), "step");
    }

    #[test]
    fn a_refused_configuration_is_told_apart() {
        let (_, result) = follow(
            &[
                (Stream::Err, "unknown key `colour`"),
                (Stream::Out, "step configuration failed The engine refused its configuration"),
            ],
            ExitStatus::Code(1),
        );
        let error = result.unwrap_err();
        assert!(matches!(error, ProvisionError::ConfigurationRefused { .. }));
        assert!(error.to_string().contains("unknown key `colour`"));
    }

    #[test]
    fn an_end_without_the_last_word_is_no_success() {
        let (_, result) = follow(&[(Stream::Out, "step engine changed x")], ExitStatus::Code(0));
        assert!(matches!(result, Err(ProvisionError::Ended { after, .. }) if after == "engine"));
        let (_, result) = follow(&[(Stream::Out, "finished")], ExitStatus::Signal("PIPE".to_owned()));
        assert!(matches!(result, Err(ProvisionError::Ended { .. })));
    }
}
