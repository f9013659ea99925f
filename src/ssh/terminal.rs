//! The terminal that we run in: its size, its raw mode, and questions on it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::panic;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was like before it became raw; here, so that a panic can reach it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input without line editing and without signals from keys, until this is dropped or the program panics.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Returns nothing when standard input is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        restore_on_panic();
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
        let guard = Self { before };
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Some(guard))
    }

    /// Makes the terminal raw again, after a shell had it in between.
    pub(super) fn enter_again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
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

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: u16,
    pub(super) rows: u16,
}

impl Size {
    /// That of the terminal that we run in, else the customary 80 by 24.
    pub(super) fn current() -> Self {
        let known = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
        match known.or_else(|_| tcgetwinsize(io::stderr())) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Self { columns: size.ws_col, rows: size.ws_row }
            }
            _ => Self { columns: 80, rows: 24 },
        }
    }
}

/// Asks for the passphrase of a key without showing it. Nobody is asked where nobody looks.
pub(super) fn ask_passphrase(path: &Path) -> Option<String> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    let before = tcgetattr(&terminal).ok()?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHONL);
    tcsetattr(&terminal, OptionalActions::Flush, &silent).ok()?;
    let answer = ask_line(&terminal, &format!("Passphrase for `{}`: ", path.display()));
    tcsetattr(&terminal, OptionalActions::Flush, &before).ok()?;
    answer.ok().filter(|line| !line.is_empty())
}

fn ask_line(mut terminal: &File, question: &str) -> io::Result<String> {
    terminal.write_all(question.as_bytes())?;
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
