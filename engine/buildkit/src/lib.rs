//! Builds images for clients that speak BuildKit's protocol, by the engine's own builder.
//!
//! ```text
//! /grpc ─ server ─ control ─┬─ solve ─ options ─▶ engine-build
//!                           ├─ progress ─▶ the client's status stream
//!                           ├─ exports ─▶ files of a result, to the client
//!                           └─ usage, pruning ─▶ House
//! /session ─ session ─ caller ─┬─ filesync ─ tree    files of the client
//!                              └─ client             its secrets, logins and SSH agent
//! ```
//!
//! Whoever serves HTTP hands connections in, once they have become streams of bytes.

mod caller;
mod client;
mod control;
mod exports;
mod filesync;
#[cfg(test)]
mod fuzz;
mod gateway;
mod grpc;
mod house;
mod job;
mod messages;
mod options;
mod progress;
mod server;
mod session;
mod solve;
mod source;
mod telling;
mod tree;

pub use control::Control;
pub use house::{House, PruneWish, Record};
pub use session::{Introduction, SessionError, Sessions};
