//! What a store promises, through the real program: one authority, trust that is written down, and no half-done work.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod authority;
mod engine;
mod home;
#[path = "../provision/host.rs"]
#[allow(dead_code, reason = "it has more than is needed here")]
mod host;
mod moves;
mod phases;
mod power;
mod records;
mod transport;
