//! A command or a shell on the host, joined to our own standard input and output.

use std::io;

use bytes::Bytes;
use russh::Pty;
use rustix::termios::{InputModes, SpecialCodeIndex, tcgetattr};
use tokio::io::{AsyncWriteExt, Stderr, Stdout};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::command::{Consumer, Control, Controls, NoControls, Stream};
use super::error::abbreviated;
use super::standard_input::StandardInput;
use super::{ExitStatus, Session, SshError};
use crate::terminal::{RawMode, Size};

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
        let mut terminal = Terminal::new(escaped).map_err(own("signals"))?;
        let Size { columns, rows } = Size::current();
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
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

/// The properties of our terminal that matter on the other side. The rest is that of a fresh one.
fn terminal_modes() -> Vec<(Pty, u32)> {
    let Ok(ours) = tcgetattr(io::stdin()) else { return Vec::new() };
    let utf8 = ours.input_modes.contains(InputModes::IUTF8);
    vec![(Pty::VERASE, ours.special_codes[SpecialCodeIndex::VERASE].into()), (Pty::IUTF8, utf8.into())]
}

/// Our standard output and error, without a buffer in between.
struct Outputs {
    out: Stdout,
    err: Stderr,
}

impl Outputs {
    fn new() -> Self {
        Self { out: tokio::io::stdout(), err: tokio::io::stderr() }
    }
}

impl Consumer for Outputs {
    async fn consume(&mut self, stream: Stream, data: Bytes) -> Result<(), SshError> {
        match stream {
            Stream::Out => {
                self.out.write_all(&data).await.map_err(own("standard output"))?;
                self.out.flush().await.map_err(own("standard output"))
            }
            Stream::Err => {
                self.err.write_all(&data).await.map_err(own("standard error"))?;
                self.err.flush().await.map_err(own("standard error"))
            }
        }
    }
}

/// What happens to our terminal while it belongs to the host.
struct Terminal {
    raw: Option<RawMode>,
    escaped: oneshot::Receiver<()>,
    resized: Signal,
    continued: Signal,
    terminated: Signal,
    hung_up: Signal,
    interrupted: Signal,
    quit: Signal,
}

impl Terminal {
    fn new(escaped: oneshot::Receiver<()>) -> io::Result<Self> {
        Ok(Self {
            raw: None,
            escaped,
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            terminated: signal(SignalKind::terminate())?,
            hung_up: signal(SignalKind::hangup())?,
            interrupted: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

impl Controls for Terminal {
    async fn next(&mut self) -> Control {
        let end = |name: &str| Control::End(ExitStatus::Signal(name.to_owned()));
        tokio::select! {
            _ = self.resized.recv() => Control::Resize(Size::current()),
            _ = self.continued.recv() => {
                // Whoever stopped us has used the terminal in between.
                if let Some(raw) = &self.raw {
                    let _ = raw.enter_again();
                }
                Control::Resize(Size::current())
            }
            _ = self.terminated.recv() => end("TERM"),
            _ = self.hung_up.recv() => end("HUP"),
            // Keys do not send these while the terminal is raw, but other processes may.
            _ = self.interrupted.recv() => end("INT"),
            _ = self.quit.recv() => end("QUIT"),
            // As `ssh` ends after its escape.
            Ok(()) = &mut self.escaped, if !self.escaped.is_terminated() => Control::End(ExitStatus::Code(255)),
        }
    }
}
