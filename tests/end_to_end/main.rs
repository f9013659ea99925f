//! End to end, on VMs in software emulation: `machine`, its images, its engine and the stock docker CLI together.
//!
//! `cargo xtask test` builds all of it, names it in the environment and runs these tests one after the other; plain
//! `cargo test` passes over them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod bad_input;
mod bench;
mod debian;
mod interrupted;
mod machineos;
mod stock_clients;
