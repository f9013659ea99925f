//! The one door for output: the console during boot, the terminal for commands.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;

/// A line of MachineOS's own, on the console.
pub(crate) fn say(message: &str) {
    // Nobody is there to be told when the console itself fails.
    let _ = writeln!(std::io::stdout(), "machineos: {message}");
}

/// A failure and its causes, on the console.
pub(crate) fn report(failure: &dyn Error) {
    say(&chain(failure));
}

/// The answer of a command, of one line or several, which nothing else gets between.
pub(crate) fn answer(text: &str) {
    let _ = std::io::stdout().lock().write_all(format!("{text}\n").as_bytes());
}

/// A complaint of a command.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error with its causes on one line.
pub(crate) fn chain(failure: &dyn Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(next) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}
