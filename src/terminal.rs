//! The terminal that we run in: its size, its raw mode, answers that it does not show. However we end, it is given back as
//! it was.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

/// A key that does nothing: `_POSIX_VDISABLE`.
const NO_KEY: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };

/// What was changed, and what it was like before; here, so that a panic and a signal can reach it.
static CHANGED: Mutex<Option<Changed>> = Mutex::new(None);

struct Changed {
    terminal: OwnedFd,
    before: Termios,
}

/// Whether somebody is there who can be asked: nobody is where input or errors go elsewhere.
pub fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Gives the terminal back as it was, if it is not already. Whoever ends the program without waiting for its threads calls
/// this last.
pub fn restore() {
    if let Some(Changed { terminal, before }) = CHANGED.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        // There is nobody left to tell.
        let _ = tcsetattr(terminal, OptionalActions::Flush, &before);
    }
}

/// Changes the terminal, until the answer is dropped or the program ends.
fn change(terminal: impl AsFd, change: impl FnOnce(&mut Termios)) -> io::Result<Guard> {
    restore_on_panic();
    let before = tcgetattr(&terminal)?;
    let mut wanted = before.clone();
    change(&mut wanted);
    let kept = terminal.as_fd().try_clone_to_owned()?;
    *CHANGED.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Changed { terminal: kept, before: before.clone() });
    let guard = Guard { before };
    tcsetattr(&terminal, OptionalActions::Flush, &wanted)?;
    Ok(guard)
}

struct Guard {
    before: Termios,
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// A panic that aborts drops nothing, and its message should be readable.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
}

/// Standard input without line editing and without signals from keys, until this is dropped or the program ends.
pub(crate) struct RawMode(Guard);

impl RawMode {
    /// Returns nothing when standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        change(io::stdin(), Termios::make_raw).map(Self).map(Some)
    }

    /// Makes the terminal raw again, after a shell had it in between.
    pub(crate) fn enter_again(&self) -> io::Result<()> {
        let mut raw = self.0.before.clone();
        raw.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?)
    }
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

impl Size {
    /// That of the terminal that we run in, else the customary 80 by 24.
    pub(crate) fn current() -> Self {
        let known = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
        match known.or_else(|_| tcgetwinsize(io::stderr())) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Self { columns: size.ws_col, rows: size.ws_row }
            }
            _ => Self { columns: 80, rows: 24 },
        }
    }
}

/// Asks for a line on the terminal. The answer is none at its end, and where nobody is.
pub fn ask(question: &str) -> Option<String> {
    if !is_attended() {
        return None;
    }
    let terminal = open()?;
    ask_line(&terminal, question).ok()?
}

/// Asks for a line that the terminal does not show. The only key that means anything meanwhile, besides those that edit,
/// is Ctrl-C: a shell that comes back in between would show what is typed next.
pub fn ask_hidden(question: &str) -> Option<String> {
    if !is_attended() {
        return None;
    }
    let terminal = open()?;
    let _guard = change(&terminal, |modes| {
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHONL);
        for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
            modes.special_codes[key] = NO_KEY;
        }
    })
    .ok()?;
    ask_line(&terminal, question).ok()?.filter(|line| !line.is_empty())
}

fn open() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok()
}

fn ask_line(mut terminal: &File, question: &str) -> io::Result<Option<String>> {
    terminal.write_all(question.as_bytes())?;
    let mut line = String::new();
    if BufReader::new(terminal).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}
