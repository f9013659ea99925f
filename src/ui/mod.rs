//! The one door for output: answers on stdout, failures on stderr, talk where docker-machine had it.
//!
//! * An *answer* is what a command is asked for ([`Report`]). It goes to stdout, as text or, with `--json`, as one
//!   object a line.
//! * *Talk* is what a command tells while it works: steps, notes, warnings. Commands that make or change hosts
//!   (`create`, `start`, `rm`, …) have no answer; their talk goes to stdout, because scripts of docker-machine log it from
//!   there. Commands with an answer talk on stderr. With `--json`, talk is events on stdout: objects with a field `event`.
//! * What passes on the streams of others is nobody's answer: `ssh` with a command or a shell, and `scp --delta`. They
//!   refuse `--json` by name.
//! * A *failure* goes to stderr, and with `--json` to stdout as an event as well.
//! * A *question* goes where talk goes; with `--json` to stderr, beside the stream.
//!
//! Whatever is printed here is made safe for a terminal first ([`safe`]); only answers that a program reads through a
//! pipe, such as the lines of `env`, are passed on to the byte. A reader that went away is no failure: nothing more is
//! printed, and the exit status stays what it is.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where printing happens")]

mod failure;
mod hint;
mod lane;
mod live;
mod question;
mod report;
pub(crate) mod safe;
mod table;
mod transfer;

pub use failure::Failure;
pub(crate) use failure::chain;
pub use lane::{Lane, Outcome};
pub(crate) use live::Live;
pub use question::Questions;
pub(crate) use question::go_on;
pub use report::Report;
pub use table::aligned;
pub use transfer::Transfer;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::Mutex,
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::{Value, json};

use crate::terminal;

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

/// Where talk goes when it is plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// The command has no answer.
    Stdout,
    /// Stdout is for the command's answer.
    Stderr,
}

/// Prints everything that `machine` prints.
#[derive(Debug)]
pub struct Ui {
    style: Style,
    talk: Talk,
    bars: MultiProgress,
    questions: Questions,
    output_error: Mutex<Option<io::Error>>,
}

impl Ui {
    pub fn new(json: bool, talk: Talk) -> Self {
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
        Self { style, talk, questions: Questions::new(bars.clone()), bars, output_error: Mutex::new(None) }
    }

    /// Prints what a command answers.
    pub fn print(&self, report: &Report) {
        match self.style {
            Style::Json => self.data(&report.json),
            Style::Terminal | Style::Plain => self.data(&report.text),
        }
    }

    /// What a script reads: exactly as given through a pipe, made safe on a terminal.
    fn data(&self, text: &str) {
        if io::stdout().is_terminal() {
            self.write(&safe::printable(text));
        } else {
            self.write(text);
        }
    }

    fn write(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            // A reader that went away is no failure of ours.
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let mut failure = self.output_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failure.get_or_insert(error);
        }
    }

    /// Why something that was to be read by a script could not be written, if so.
    pub fn output_failure(&self) -> Option<Failure> {
        let error = self.output_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        Some(Failure::because("Could not write to the standard output", &error))
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

    /// A text that is drawn again in place while it changes, on a terminal; nothing elsewhere.
    pub(crate) fn live(&self) -> Live {
        Live::new(self)
    }

    /// The progress of a copy.
    pub fn transfer(&self) -> Transfer {
        Transfer::new(self)
    }

    /// Whom to ask what has to be known in the middle of something.
    pub fn questions(&self) -> Questions {
        self.questions.clone()
    }

    /// Asks a yes-or-no question. At end of file, as without a terminal, the answer is no answer.
    pub fn confirm(&self, question: &str) -> Option<bool> {
        let question = safe::printable(question);
        self.bars.suspend(|| match self.talk {
            Talk::Stdout if self.style != Style::Json => self.write(&question),
            _ => {
                let mut stderr = io::stderr().lock();
                let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
            }
        });
        let mut reply = String::new();
        match io::stdin().lock().read_line(&mut reply) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(reply.starts_with(['y', 'Y'])),
        }
    }

    /// Prints a failure on stderr (and as an event, with `--json`).
    pub fn report(&self, failure: &Failure) {
        if self.style == Style::Json {
            self.event(&failure.to_json());
        }
        self.bars.suspend(|| to_stderr(&failure.to_string()));
    }

    /// Prints why a command line cannot be understood, or the help that was asked for. Returns the exit status.
    pub(crate) fn usage(&self, program: &str, error: &clap::Error) -> u8 {
        use clap::error::{ContextKind, ContextValue, ErrorKind};
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            self.help(&error.render());
            return 0;
        }
        let (text, status) = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
            (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => {
                (format!("{program}: '{word}' is not a {program} command. See '{program} --help'."), 1)
            }
            _ => (error.render().to_string(), 2),
        };
        let text = text.trim_end();
        if self.style == Style::Json {
            let message = text.strip_prefix("error: ").unwrap_or(text);
            self.event(&Failure::text(message).to_json());
        }
        to_stderr(&safe::printable(text));
        status
    }

    /// Help, with its headings in bold on a terminal.
    pub(crate) fn help(&self, text: &clap::builder::StyledStr) {
        let stdout = io::stdout();
        if stdout.is_terminal() && terminal::understands_escapes(&stdout) {
            self.write(&text.ansi().to_string());
        } else {
            self.write(&text.to_string());
        }
    }

    fn event(&self, object: &Value) {
        self.write(&format!("{}\n", safe::json(&object.to_string())));
    }

    fn line(&self, host: Option<&str>, event: &str, text: &str) {
        match self.style {
            Style::Json => {
                let mut object = json!({ "event": event, "text": text });
                if let Some(host) = host {
                    object["host"] = json!(host);
                }
                object["time"] = json!(jiff::Timestamp::now().to_string());
                self.event(&object);
            }
            Style::Terminal | Style::Plain => {
                let text = safe::printable(text);
                let text = match host {
                    Some(host) => format!("({host}) {text}"),
                    None => text.into_owned(),
                };
                if question::hold(self.talk, &text) {
                    return;
                }
                self.bars.suspend(|| match self.talk {
                    Talk::Stderr => to_stderr(&text),
                    Talk::Stdout => self.write(&format!("{text}\n")),
                });
            }
        }
    }
}

/// One line on stderr. If nobody reads it, nobody can be told.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Where the log of `--debug` goes: stderr, with everything in it made safe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let _ = io::stderr().lock().write_all(safe::printable(&text).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().lock().flush();
        Ok(())
    }
}
