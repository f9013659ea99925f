//! The driver of VMs of Hyper-V, which it tells what to do through PowerShell.
//!
//! Each operation is one process of PowerShell that runs one of the scripts in `templates/hyperv/`. A script never has a
//! value put into it: what it is about comes as one JSON document on its standard input, and one goes out.
//!
//! A host's folder holds `disk.vhdx` (over a base that all hosts of the image share), `data.vhdx` (where the image keeps
//! its data on a disk of its own), `seed.iso` (what the first boot is told), and the folder in which Hyper-V keeps the
//! VM's configuration. In Hyper-V the VM is called by the host's name and its id, so that two stores cannot clash.

mod config;
mod driver;
mod facts;
mod failure;
mod first_boot;
mod image;
mod machine;
mod making;
mod scripts;
mod shell;
mod state;
mod vhdx;

pub use driver::{Hyperv, Patience};
pub use image::IMAGE_PATH_VARIABLE;
pub use shell::POWERSHELL_VARIABLE;
