//! What the drivers of VMs on this machine share: images, addresses, and published ports.

pub mod address;
pub mod console;
pub mod disk;
pub mod first_boot;
pub mod image;
pub mod inside;
pub mod ports;
pub mod reservations;
