//! The library behind the `machine` command: a host's record, its login, its provisioning and its engine.

pub mod provision;
pub mod ssh;
