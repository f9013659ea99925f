//! A command or a shell on the host, joined to our own standard input and output.

#[cfg(any(windows, test))]
mod text;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt, Stderr, Stdout};
use tokio::sync::oneshot;
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use system::{Events, Screen, terminal_modes};

use super::command::{Consumer, Control, Controls, NoControls, Stream};
use super::error::abbreviated;
use super::standard_input::StandardInput;
use super::{ExitStatus, Session, SshError};
use crate::terminal::{DEFAULT_KIND, RawMode, Size};

impl Session {
    /// Runs a command, or the login shell, on our own standard input, output and error. With `terminal` the host gives it
    /// a terminal of the size of ours; ours is then raw until this returns, and `~.` at the beginning of a line ends the
    /// connection. Without it nothing is added to the bytes and nothing taken away.
    pub async fn run(&self, command: Option<&str>, terminal: bool) -> Result<ExitStatus, SshError> {
        let outcome =
            if terminal { self.run_in_terminal(command).await } else { self.run_in_pipes(command).await };
        match outcome {
            // Whoever read our output went away, which is how pipelines end.
            Err(SshError::OwnStream { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
                Ok(ExitStatus::Signal("PIPE".to_owned()))
            }
            other => other,
        }
    }

    async fn run_in_pipes(&self, command: Option<&str>) -> Result<ExitStatus, SshError> {
        let what = name(command);
        let channel = self.open_channel(&what).await?;
        let started = match command {
            Some(command) => channel.exec(true, command).await,
            None => channel.request_shell(true).await,
        };
        started.map_err(|error| self.channel_error(&what, error))?;
        let stdin = StandardInput::open(None).map_err(own("standard input"))?;
        self.converse(&what, channel, stdin, &mut Outputs::new(), &mut NoControls).await
    }

    async fn run_in_terminal(&self, command: Option<&str>) -> Result<ExitStatus, SshError> {
        let what = name(command);
        let channel = self.open_channel(&what).await?;
        let failed = |error| self.channel_error(&what, error);
        let (escape, escaped) = oneshot::channel();
        // The signals first, so that no change of the size is missed.
        let events = Events::listen().map_err(own("signals"))?;
        let mut terminal = Terminal { raw: None, escaped, events };
        let Size { columns, rows } = Size::current();
        let term = std::env::var("TERM").unwrap_or_else(|_| DEFAULT_KIND.to_owned());
        let modes = terminal_modes();
        let request = channel.request_pty(false, &term, columns.into(), rows.into(), 0, 0, &modes);
        request.await.map_err(failed)?;
        match command {
            Some(command) => channel.exec(true, command).await.map_err(failed)?,
            None => channel.request_shell(true).await.map_err(failed)?,
        }
        terminal.raw = RawMode::enter().map_err(own("terminal"))?;
        let escape = terminal.raw.is_some().then_some(escape);
        let stdin = StandardInput::open(escape).map_err(own("standard input"))?;
        self.converse(&what, channel, stdin, &mut Outputs::new(), &mut terminal).await
    }
}

fn name(command: Option<&str>) -> String {
    command.map_or_else(|| "the shell".to_owned(), abbreviated)
}

fn own(what: &'static str) -> impl Fn(io::Error) -> SshError {
    move |source| SshError::OwnStream { what, source }
}

/// Our standard output and error, without a buffer in between.
struct Outputs {
    out: Output<Stdout>,
    err: Output<Stderr>,
}

struct Output<W> {
    stream: W,
    screen: Screen,
}

impl Outputs {
    fn new() -> Self {
        Self {
            out: Output { stream: tokio::io::stdout(), screen: Screen::of(&io::stdout()) },
            err: Output { stream: tokio::io::stderr(), screen: Screen::of(&io::stderr()) },
        }
    }
}

impl<W: AsyncWrite + Unpin> Output<W> {
    async fn write(&mut self, data: Bytes) -> io::Result<()> {
        self.stream.write_all(&self.screen.shown(data)).await?;
        self.stream.flush().await
    }
}

impl Consumer for Outputs {
    async fn consume(&mut self, stream: Stream, data: Bytes) -> Result<(), SshError> {
        match stream {
            Stream::Out => self.out.write(data).await.map_err(own("standard output")),
            Stream::Err => self.err.write(data).await.map_err(own("standard error")),
        }
    }
}

/// What happens to our terminal while it belongs to the host.
struct Terminal {
    raw: Option<RawMode>,
    escaped: oneshot::Receiver<()>,
    events: Events,
}

impl Controls for Terminal {
    async fn next(&mut self) -> Control {
        tokio::select! {
            control = self.events.next(self.raw.as_ref()) => control,
            // As `ssh` ends after its escape.
            Ok(()) = &mut self.escaped, if !self.escaped.is_terminated() => Control::End(ExitStatus::Code(255)),
        }
    }
}
