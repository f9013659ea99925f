//! The library behind the `machine` command: a host's record, its login, its provisioning and its engine.

pub mod bundle;
pub mod cli;
pub mod drivers;
pub mod engine_api;
pub mod lifecycle;
pub mod provision;
pub mod ssh;
pub mod store;
pub mod terminal;
pub mod ui;
