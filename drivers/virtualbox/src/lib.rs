//! The driver of VMs on this machine that VirtualBox runs, by its program VBoxManage alone.
//!
//! A host's folder holds `NAME-ID/` (the VM's own folder, with its settings, its logs and `disk.vdi`), `seed.iso` (what
//! the first boot is told), `console.log` and `console.log.1` (serial console of this and the last boot), `ports.log`,
//! and, while the VM runs, `ports.lock` and the socket `ports.sock`. The VM has the host's id for its UUID, so it is
//! found whatever it is called, and two stores do not clash.
//!
//! ```text
//! 127.x.y.z:22,2376,3376 ── NAT rule ──▶ guest
//! 127.x.y.z:PORT ────────── NAT rule ──▶ guest PORT     added and removed while the VM runs
//!         ▲                                 │
//!   one small process per VM ◀── second serial port ── a guest service that reports listening ports
//! ```
//!
//! No host-only adapter is needed, and so no privileges. Where this machine has no loopback address but 127.0.0.1
//! (macOS), free ports of that are taken. VMs of a store reach one another on an internal network of VirtualBox's.

mod boot;
mod check;
mod config;
mod docker_machine;
mod driver;
mod failure;
mod files;
mod first_boot;
mod image;
mod info;
mod making;
mod place;
mod ports;
mod power;
mod program;
mod state;
mod work;

use std::{ffi::OsString, process::ExitCode};

pub use driver::VirtualBox;
use ports::{PORT_FORWARDER_WORD, port_forwarder_main};

/// What a program that uses the driver has to call first, with all its arguments but its own name: it is also run as
/// the port forwarder. `None`: that is not meant.
pub fn helper_main(arguments: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = arguments.split_first()?;
    (word.to_str()? == PORT_FORWARDER_WORD).then(|| port_forwarder_main(rest))
}
