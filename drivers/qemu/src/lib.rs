//! The driver of VMs on this machine, run by QEMU without privileges.
//!
//! A host's folder holds `disk.qcow2` (over a shared base image, or empty), `seed.iso` (what the first boot is
//! told), `console.log` and `console.log.1` (serial console of this and the last boot), `qemu.log` (QEMU's
//! complaints), `ports.log`, `qemu.pid`, the sockets `qmp.sock`, `ports-qmp.sock` and `ports.sock`, and `inside`, which
//! leads to the network that the store's VMs share.
//!
//! The seed stays after the first boot, with the host key in it. The guest keeps that key for good, and needs the seed at
//! later boots: without it cloud-init takes the VM for a new one and makes other keys, and MachineOS goes back to it when
//! its disk has lost them. Nothing is gained by its going: whoever may read it (0600, in a folder of 0700) may read the
//! same key in `disk.qcow2`, and the key that logs in beside it.
//!
//! Each VM has a loopback address of its own, on which its SSH, its engine and its published ports are, and an address
//! on the network inside its store. Two processes belong to it: QEMU, and a small one that forwards ports. One more, the
//! switch, serves the network inside, for all VMs of a store ([`machine_switch`]).

#[cfg(not(target_os = "linux"))]
compile_error!("This driver reads /proc and opens sockets through it: it is for Linux");

mod accelerator;
mod check;
mod command;
mod config;
mod disk;
mod driver;
mod emulator;
mod first_boot;
mod inside;
mod making;
mod paths;
mod ports;
mod process;
mod qmp;
mod running;
mod state;
mod vm;

use std::{ffi::OsString, process::ExitCode};

pub use driver::Qemu;
pub use machine_driver::local::image::IMAGE_PATH_VARIABLE;
use machine_driver::local::{address, console, image, reservations};
use ports::{PORT_FORWARDER_WORD, port_forwarder_main};

/// What a program that uses the driver has to call first, with all its arguments but its own name: it is also run as
/// the port forwarder and as the switch. `None`: neither is meant.
pub fn helper_main(arguments: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = arguments.split_first()?;
    match word.to_str()? {
        PORT_FORWARDER_WORD => Some(port_forwarder_main(rest)),
        machine_switch::SWITCH_WORD => Some(machine_switch::switch_main(rest)),
        _ => None,
    }
}
