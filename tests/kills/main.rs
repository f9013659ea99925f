//! `machine` is killed with -9 at every write of `create`, `rm` and `regenerate-certs`, and while it makes a store's
//! authority: the same command again ends well, or `rm` leaves nothing.
//!
//! Hosts are those of the driver `none`; servers that are there already (`generic`); and VMs that do not boot (`qemu`,
//! played by its stand-in). Servers and VMs are guests: real SSH servers, with an engine that is reached by mutual TLS.
//! What AWS has is in the tests of its bench, and VMs that boot are in `end_to_end/interrupted.rs`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod bench;
mod certificates;
mod create;
mod remove;
