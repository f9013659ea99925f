//! Plays the program that runs the switch, for the tests.

use std::{ffi::OsString, process::ExitCode};

use machine_switch::{SWITCH_WORD, switch_main};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.split_first() {
        Some((word, rest)) if word == SWITCH_WORD => switch_main(rest),
        _ => ExitCode::from(2),
    }
}
