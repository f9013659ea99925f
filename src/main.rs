//! The `machine` command: parse, run, print the error, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    // rustls must be told its backend once; being told twice is no failure.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == machine_driver_qemu::PORT_FORWARDER_WORD) {
        return machine_driver_qemu::port_forwarder_main(&words[2..]);
    }
    ExitCode::from(machine::cli::main(words))
}
