//! The `machine` command: parse, run, print the error, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    // rustls must be told its backend once; being told twice is no failure.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words: Vec<_> = std::env::args_os().collect();
    #[cfg(unix)]
    if let Some(code) = machine_driver_qemu::helper_main(&words[1..]) {
        return code;
    }
    if let Some(code) = machine_driver_virtualbox::helper_main(&words[1..]) {
        return code;
    }
    ExitCode::from(machine::main(words))
}
