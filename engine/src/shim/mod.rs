//! The process that supervises one container.

use std::ffi::OsString;
use std::process::ExitCode;

/// The arguments are those after `shim`.
pub fn main(_arguments: &[OsString]) -> ExitCode {
    ExitCode::FAILURE
}
