//! The terminal of the person: settings that are always undone, and its size.

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The settings to go back to, while the terminal is raw; also looked at by the panic hook.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

fn restore() {
    let saved = match SAVED.lock() {
        Ok(mut saved) => saved.take(),
        Err(poisoned) => poisoned.into_inner().take(),
    };
    if let Some(saved) = saved {
        // When the terminal is gone there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &saved);
    }
}

/// Keeps the terminal raw until it is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal on standard input raw.
    pub(crate) fn enter() -> io::Result<Self> {
        Self::change(Termios::make_raw)
    }

    /// Changes the terminal's settings until the value is dropped.
    fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut changed = before.clone();
        change(&mut changed);
        if let Ok(mut saved) = SAVED.lock()
            && saved.is_none()
        {
            *saved = Some(before);
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |information| {
                restore();
                previous(information);
            }));
        }
        let mode = Self(());
        tcsetattr(io::stdin(), OptionalActions::Now, &changed)?;
        Ok(mode)
    }
}

/// Shows nothing of what is typed until it is dropped.
#[derive(Debug)]
pub(crate) struct Hidden {
    _mode: RawMode,
}

impl Hidden {
    pub(crate) fn begin() -> io::Result<Self> {
        Ok(Self { _mode: RawMode::change(|settings| settings.local_modes.remove(LocalModes::ECHO))? })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether a person types.
pub(crate) fn input_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether a person reads.
pub(crate) fn output_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Rows and columns, if standard output is a terminal that knows them.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
