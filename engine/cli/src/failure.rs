//! Why a command failed, in the words that scripts look for, and with which exit code.

use std::io;

use thiserror::Error;

/// The outcome of a command; a container's own exit code travels as [`Failure::Exit`].
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("Error response from daemon: {message}")]
    Daemon { status: u16, message: String },
    #[error("Cannot connect to the Docker daemon at {host}. Is the docker daemon running?")]
    Unreachable { host: String },
    #[error("permission denied while trying to connect to the Docker daemon socket at {host}")]
    Forbidden { host: String },
    #[error("error during connect to {host}")]
    Connection { host: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("Failed to initialize: {0}")]
    Setting(String),
    #[error("Could not read `{path}`")]
    ReadFile { path: String, source: io::Error },
    #[error("Could not write `{path}`")]
    WriteFile { path: String, source: io::Error },
    #[error("Could not write the output")]
    Output(#[source] io::Error),
    #[error("Could not read the input")]
    Input(#[source] io::Error),
    #[error("The daemon answered something that is not understood: {0}")]
    Answer(String),
    /// What the user asked for makes no sense, or cannot be done; the text says all.
    #[error("{0}")]
    Refused(String),
    /// The template of `inspect` makes no sense.
    #[error("template parsing error: {0}")]
    Template(gotemplate::TemplateError),
    /// `run` and `create` failed before there was a process.
    #[error("docker: {source}\n\nRun 'docker {command} --help' for more information")]
    Run { source: Box<Failure>, command: &'static str, code: u8 },
    /// The command itself has nothing to say: what there is to say was said.
    #[error("exit status {0}")]
    Exit(u8),
}

impl Failure {
    /// The message of a refusal.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// Whether the daemon answered that the thing does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Daemon { status: 404, .. })
    }

    /// Whether the daemon answered that it cannot do this at all.
    pub(crate) fn is_not_supported(&self) -> bool {
        matches!(self, Self::Daemon { status: 501 | 503, .. })
    }

    /// Whether the reader of our output has gone away, which is its right.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code, and what to print on standard error before.
    pub(crate) fn report(&self) -> (u8, Option<String>) {
        match self {
            Self::Exit(code) => (*code, None),
            _ if self.is_broken_pipe() => (0, None),
            Self::Run { source, .. } if source.is_broken_pipe() => (0, None),
            Self::Run { source, code, command } => match source.as_ref() {
                Self::Exit(code) => (*code, None),
                // The value of an option, rather than the command: here the usage helps.
                Self::Refused(text) if text.starts_with("invalid argument") => {
                    let operands =
                        if *command == "build" { "PATH | URL | -" } else { "IMAGE [COMMAND] [ARG...]" };
                    let usage = format!("Usage:  docker {command} [OPTIONS] {operands}");
                    (
                        125,
                        Some(format!(
                            "{text}\n\n{usage}\n\nRun 'docker {command} --help' for more information"
                        )),
                    )
                }
                _ => (*code, Some(self.to_string())),
            },
            // As the stock client: the exit code of a wrong use, by sysexits.h.
            Self::Template(_) => (64, Some(self.to_string())),
            _ => (1, Some(chain(self))),
        }
    }
}

/// The message and, after colons, all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
