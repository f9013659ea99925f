//! What a store promises, through the real program: one authority, trust that is written down, and no half-done work.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod authority;
mod home;
#[path = "../killed/mod.rs"]
mod killed;
mod phases;
mod records;
mod transport;
