//! The driver of VMs on this machine, run by QEMU without privileges.
//!
//! A host's folder holds `disk.qcow2` (over a shared base image, or empty), `seed.iso` (what the first boot is
//! told), `console.log` and `console.log.1` (serial console of this and the last boot), `qemu.log` (QEMU's
//! complaints), `ports.log`, `qemu.pid` and the sockets `qmp.sock`, `ports-qmp.sock` and `ports.sock`.
//!
//! Each VM has a loopback address of its own, on which its SSH, its engine and its published ports are.
//! Two processes belong to it: QEMU, and a small one that forwards ports ([`port_forwarder_main`]).

#[cfg(not(target_os = "linux"))]
compile_error!("This driver reads /proc and opens sockets through it: it is for Linux");

mod accelerator;
mod address;
mod check;
mod command;
mod config;
mod console;
mod disk;
mod driver;
mod first_boot;
mod image;
mod ports;
mod process;
mod qmp;
mod state;
mod vm;

pub use driver::Qemu;
pub use image::IMAGE_PATH_VARIABLE;
pub use ports::{PORT_FORWARDER_WORD, port_forwarder_main};
