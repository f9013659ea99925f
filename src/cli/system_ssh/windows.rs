//! How programs of Windows end, and which ones are not there.

use std::process::ExitStatus;

use crate::ui::Failure;

/// The status to end with ourselves. A program that crashed has one of 32 bits.
pub(in crate::cli) fn status_of(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Says that a program is there on unix only. Its ports to Windows are programs of Cygwin: they take `C:` for a host, and
/// read keys and pinned host keys by paths of their own.
pub(in crate::cli) fn needs_unix(what: &str, program: &str, instead: &str) -> Result<(), Failure> {
    Err(Failure::text(format!("{what} is not there on Windows: it takes {program}, a program of unix"))
        .with_hint(instead))
}
