//! A terminal of unix while it belongs to the host: its properties, and the signals that tell of it.

use std::io;

use bytes::Bytes;
use russh::Pty;
use rustix::termios::{InputModes, SpecialCodeIndex, tcgetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ssh::ExitStatus;
use crate::ssh::command::Control;
use crate::terminal::{RawMode, Size};

/// The properties of our terminal that matter on the other side. The rest is that of a fresh one.
pub(super) fn terminal_modes() -> Vec<(Pty, u32)> {
    let Ok(ours) = tcgetattr(io::stdin()) else { return Vec::new() };
    let utf8 = ours.input_modes.contains(InputModes::IUTF8);
    vec![(Pty::VERASE, ours.special_codes[SpecialCodeIndex::VERASE].into()), (Pty::IUTF8, utf8.into())]
}

/// What becomes of bytes on their way out: nothing.
pub(super) struct Screen;

impl Screen {
    pub(super) fn of<T>(_: &T) -> Self {
        Self
    }

    #[allow(clippy::unused_self, reason = "elsewhere it remembers something")]
    pub(super) fn shown(&mut self, data: Bytes) -> Bytes {
        data
    }
}

/// What happens to our terminal.
pub(super) struct Events {
    resized: Signal,
    continued: Signal,
    terminated: Signal,
    hung_up: Signal,
    interrupted: Signal,
    quit: Signal,
}

impl Events {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            terminated: signal(SignalKind::terminate())?,
            hung_up: signal(SignalKind::hangup())?,
            interrupted: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next one. May be dropped and called again without losing any.
    pub(super) async fn next(&mut self, raw: Option<&RawMode>) -> Control {
        let end = |name: &str| Control::End(ExitStatus::Signal(name.to_owned()));
        tokio::select! {
            _ = self.resized.recv() => Control::Resize(Size::current()),
            _ = self.continued.recv() => {
                // Whoever stopped us has used the terminal in between.
                if let Some(raw) = raw {
                    let _ = raw.enter_again();
                }
                Control::Resize(Size::current())
            }
            _ = self.terminated.recv() => end("TERM"),
            _ = self.hung_up.recv() => end("HUP"),
            // Keys do not send these while the terminal is raw, but other processes may.
            _ = self.interrupted.recv() => end("INT"),
            _ = self.quit.recv() => end("QUIT"),
        }
    }
}
