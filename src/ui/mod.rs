//! The one door for output: data on stdout, talk and progress beside it, errors on stderr.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where printing happens")]

mod failure;
mod lane;
mod question;
mod table;

pub use failure::{Failure, Hinted, hint_of};
pub use lane::{Lane, Outcome};
pub use question::Questions;
pub use table::aligned;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::Mutex,
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::json;

/// How things are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A person looks at a terminal: each host's step and its elapsed time, redrawn in place.
    Terminal,
    /// Plain lines.
    Plain,
    /// One JSON object a line, on stdout.
    Json,
}

/// Prints everything that `machine` prints.
#[derive(Debug)]
pub struct Ui {
    style: Style,
    bars: MultiProgress,
    questions: Questions,
    /// Whether talk goes to stderr, because stdout carries data that is evaluated (`env`, `config`).
    talk_on_stderr: bool,
    failure: Mutex<Option<io::Error>>,
}

impl Ui {
    pub fn new(json: bool, talk_on_stderr: bool) -> Self {
        let style = if json {
            Style::Json
        } else if io::stdout().is_terminal() && io::stderr().is_terminal() {
            Style::Terminal
        } else {
            Style::Plain
        };
        let target = match style {
            Style::Terminal => ProgressDrawTarget::stderr(),
            Style::Plain | Style::Json => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        Self {
            style,
            questions: Questions::new(bars.clone()),
            bars,
            talk_on_stderr,
            failure: Mutex::new(None),
        }
    }

    pub fn style(&self) -> Style {
        self.style
    }

    /// What a script reads, exactly as given.
    pub fn data(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            // A reader that went away is no failure of ours.
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failure.get_or_insert(error);
        }
    }

    /// Why something that was to be read by a script could not be written, if so.
    pub fn output_failure(&self) -> Option<Failure> {
        let error = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        Some(anyhow::Error::new(error).context("Could not write to the standard output").into())
    }

    /// One line of talk.
    pub fn say(&self, text: &str) {
        self.line(None, "message", text);
    }

    /// One line of talk about something that may need attention.
    pub fn warn(&self, text: &str) {
        self.line(None, "warning", text);
    }

    /// A host's own line of progress.
    pub fn lane(&self, host: &str) -> Lane<'_> {
        Lane::new(self, host)
    }

    /// Whom to ask what has to be known in the middle of something.
    pub fn questions(&self) -> Questions {
        self.questions.clone()
    }

    /// Asks a yes-or-no question on the terminal. Without a terminal, or at end of file, the answer is no answer.
    pub fn confirm(&self, question: &str) -> Option<bool> {
        print!("{question}");
        let _ = io::stdout().flush();
        let mut reply = String::new();
        match io::stdin().lock().read_line(&mut reply) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(reply.starts_with(['y', 'Y'])),
        }
    }

    /// Prints a failure on stderr (and as an event, with `--json`).
    pub fn report(&self, failure: &Failure) {
        if self.style == Style::Json {
            self.data(&format!("{}\n", failure.to_json()));
        }
        self.bars.suspend(|| eprintln!("{failure}"));
    }

    fn line(&self, host: Option<&str>, event: &str, text: &str) {
        match self.style {
            Style::Json => {
                let mut object = json!({ "event": event, "text": text });
                if let Some(host) = host {
                    object["host"] = json!(host);
                }
                object["time"] = json!(jiff::Timestamp::now().to_string());
                self.data(&format!("{object}\n"));
            }
            Style::Terminal | Style::Plain => {
                let text = match host {
                    Some(host) => format!("({host}) {text}"),
                    None => text.to_owned(),
                };
                if self.questions.hold(&text) {
                    return;
                }
                self.bars.suspend(|| {
                    if self.talk_on_stderr {
                        eprintln!("{text}");
                    } else {
                        self.data(&format!("{text}\n"));
                    }
                });
            }
        }
    }
}
