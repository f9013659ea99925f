//! The docker command line over the API.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one command; the arguments begin with the program's name.
pub fn main(_arguments: &[OsString]) -> ExitCode {
    ExitCode::FAILURE
}
