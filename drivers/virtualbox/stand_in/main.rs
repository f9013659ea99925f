//! Plays VBoxManage, the VMs that it starts and the port forwarder for the tests: it takes the words that the driver
//! uses and refuses all others, says what version 7.2 says (see `recorded/`), keeps its registry in `VBOX_USER_HOME`,
//! and listens where the rules of a VM that runs say. It runs no guest. Where `MACHINE_VBOXMANAGE` names the real one,
//! that answers, and VMs are booted with QEMU.
//!
//! Files in its home steer it: `version` is what it says of itself, and `fail` has a command, how many times it fails,
//! and what is said then, one a line. Files beside a VM's console steer that VM: `ignore-power-button`, `bind-nothing`, and
//! `guest-ports`, which is what the guest says.

#[cfg(unix)]
mod bench;
#[cfg(unix)]
mod play;
#[cfg(unix)]
mod registry;
#[cfg(unix)]
mod vm;

use std::process::ExitCode;

#[cfg(unix)]
fn main() -> ExitCode {
    play::main()
}

/// The tests that need it are for unix.
#[cfg(not(unix))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
