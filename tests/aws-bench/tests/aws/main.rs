//! `machine` on AWS: the whole driver on a bench where every call goes to an emulator.
//!
//! `cargo xtask test` builds all of it, names it in the environment and runs these tests; plain `cargo test` passes over
//! them. In `boots` every instance is a VM; everywhere else instances have states and addresses only, and tests run side
//! by side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod boots;
mod cloud;
mod crashes;
mod faults;
mod figures;
mod leftovers;
mod policy;
mod refusals;
mod removal;
mod rules;
mod shapes;

/// A store with hosts, as the other end-to-end tests have it.
#[path = "../../../end_to_end/bench.rs"]
#[allow(dead_code, reason = "written for the tests of local VMs, which use all of it")]
mod store;
