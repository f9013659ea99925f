//! The terminal that we run in: its size, its raw mode, answers that it does not show. However we end, it is given back as
//! it was.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Arc, Mutex, Once, PoisonError};

use terminal_size::{Height, Width, terminal_size_of};
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

#[cfg(windows)]
pub(crate) use system::is_console;
pub(crate) use system::{DEFAULT_KIND, understands_escapes};

/// What was changed, and what it was like before; here, so that a panic and a signal can reach it.
static CHANGED: Mutex<Option<Arc<system::Modes>>> = Mutex::new(None);

/// Whether somebody is there who can be asked: nobody is where input or errors go elsewhere.
pub fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Gives the terminal back as it was, if it is not already. Whoever ends the program without waiting for its threads calls
/// this last.
pub fn restore() {
    if let Some(before) = CHANGED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        before.restore();
    }
}

/// Changes the terminal that had these modes, until the answer is dropped or the program ends.
fn change(before: system::Modes, change: impl FnOnce(&system::Modes) -> io::Result<()>) -> io::Result<Guard> {
    restore_on_panic();
    let before = Arc::new(before);
    *CHANGED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
    let guard = Guard { before };
    change(&guard.before)?;
    Ok(guard)
}

struct Guard {
    before: Arc<system::Modes>,
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
pub(crate) struct RawMode(
    #[cfg_attr(windows, expect(dead_code, reason = "nobody stops a program there and goes on with it"))]
    Guard,
);

impl RawMode {
    /// Returns nothing when standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        match system::Modes::of_standard_input()? {
            Some(modes) => change(modes, system::Modes::make_raw).map(Self).map(Some),
            None => Ok(None),
        }
    }

    /// Makes the terminal raw again, after a shell had it in between.
    #[cfg(unix)]
    pub(crate) fn enter_again(&self) -> io::Result<()> {
        self.0.before.make_raw_again()
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
        let known = terminal_size_of(io::stdout()).or_else(|| terminal_size_of(io::stdin()));
        Self::or_customary(known.or_else(|| terminal_size_of(io::stderr())))
    }

    /// That of the terminal that errors go to, else the same.
    pub(crate) fn of_standard_error() -> Self {
        Self::or_customary(terminal_size_of(io::stderr()))
    }

    fn or_customary(known: Option<(Width, Height)>) -> Self {
        known.map_or(Self { columns: 80, rows: 24 }, |(Width(columns), Height(rows))| Self { columns, rows })
    }
}

/// Asks for a line on the terminal. The answer is none at its end, and where nobody is.
pub fn ask(question: &str) -> Option<String> {
    if !is_attended() {
        return None;
    }
    system::Console::open()?.ask_line(question).ok()?
}

/// Asks for a line that the terminal does not show. The only key that means anything meanwhile, besides those that edit,
/// is Ctrl-C: a shell that comes back in between would show what is typed next.
pub fn ask_hidden(question: &str) -> Option<String> {
    if !is_attended() {
        return None;
    }
    let mut console = system::Console::open()?;
    let _guard = change(console.modes().ok()?, system::Modes::hide_typing).ok()?;
    console.ask_line(question).ok()?.filter(|line| !line.is_empty())
}
