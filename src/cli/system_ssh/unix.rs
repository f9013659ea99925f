//! How programs of unix end.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use crate::ui::Failure;

/// The status to end with ourselves: 128 plus the signal's number where it was one.
pub(in crate::cli) fn status_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Says that a program is there on unix only, where it is not.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it is not there")]
pub(in crate::cli) fn needs_unix(_: &str, _: &str, _: &str) -> Result<(), Failure> {
    Ok(())
}
