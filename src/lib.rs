//! The library behind the `machine` command: a host's record, its login, its provisioning and its engine.
//!
//! Only what its own tests drive from outside is public, so that the compiler sees what nobody uses. Within the crate,
//! `pub` says what a module offers to its siblings.

#![allow(unreachable_pub, reason = "`pub` is what a module offers, to the rest of the crate as well")]
#![allow(
    clippy::struct_field_names,
    reason = "`_pem` and `_options` say what is in a field, here as in public types"
)]

pub mod bundle;
mod cli;
mod drivers;
mod engine_api;
mod lifecycle;
pub mod provision;
mod signals;
pub mod ssh;
mod store;
pub mod terminal;
mod ui;

pub use cli::main;
