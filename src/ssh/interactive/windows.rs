//! A console of Windows while it belongs to the host: its properties, what it can show, and what happens to it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use russh::Pty;
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff,
    ctrl_shutdown,
};
use tokio::time::{Interval, MissedTickBehavior, interval};
use winapi_util::AsHandleRef;

use super::text::WholeCharacters;
use crate::ssh::ExitStatus;
use crate::ssh::command::Control;
use crate::terminal::{RawMode, Size, is_console};

/// A console tells of a new size of its buffer only, and not of its window's: it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What the backspace key sends.
const DELETE: u32 = 0x7f;

/// The properties of our terminal that matter on the other side.
pub(super) fn terminal_modes() -> Vec<(Pty, u32)> {
    if is_console(&io::stdin()) { vec![(Pty::VERASE, DELETE), (Pty::IUTF8, 1)] } else { Vec::new() }
}

/// What becomes of bytes on their way out: a console takes characters, and nothing else.
pub(super) struct Screen(Option<WholeCharacters>);

impl Screen {
    pub(super) fn of(stream: &impl AsHandleRef) -> Self {
        Self(is_console(stream).then(WholeCharacters::default))
    }

    pub(super) fn shown(&mut self, data: Bytes) -> Bytes {
        match &mut self.0 {
            Some(characters) => characters.of(&data).into(),
            None => data,
        }
    }
}

/// What happens to our terminal.
pub(super) struct Events {
    look: Interval,
    size: Size,
    interrupted: CtrlC,
    broken: CtrlBreak,
    closed: CtrlClose,
    logged_off: CtrlLogoff,
    shut_down: CtrlShutdown,
}

impl Events {
    pub(super) fn listen() -> io::Result<Self> {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            look,
            size: Size::current(),
            interrupted: ctrl_c()?,
            broken: ctrl_break()?,
            closed: ctrl_close()?,
            logged_off: ctrl_logoff()?,
            shut_down: ctrl_shutdown()?,
        })
    }

    /// Waits for the next one. May be dropped and called again without losing any.
    pub(super) async fn next(&mut self, _: Option<&RawMode>) -> Control {
        let end = |name: &str| Control::End(ExitStatus::Signal(name.to_owned()));
        loop {
            tokio::select! {
                _ = self.look.tick() => {
                    let size = Size::current();
                    if size != self.size {
                        self.size = size;
                        return Control::Resize(size);
                    }
                }
                // The key sends a byte while the console is raw; this is another process that has us end.
                _ = self.interrupted.recv() => return end("INT"),
                _ = self.broken.recv() => return end("INT"),
                _ = self.closed.recv() => return end("HUP"),
                _ = self.logged_off.recv() => return end("HUP"),
                _ = self.shut_down.recv() => return end("TERM"),
            }
        }
    }
}
