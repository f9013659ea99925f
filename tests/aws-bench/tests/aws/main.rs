//! `machine` on AWS: the whole driver on a bench where every call goes to an emulator and every instance is a VM.
//!
//! `cargo xtask test` builds all of it, names it in the environment and runs these tests one after the other; plain
//! `cargo test` passes over them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod cloud;
mod crashes;
mod faults;
mod figures;
mod leftovers;
mod life;
mod refusals;
mod shapes;

/// A store with hosts, as the other end-to-end tests have it.
#[path = "../../../end_to_end/bench.rs"]
#[allow(dead_code, reason = "written for the tests of local VMs, which use all of it")]
mod store;
