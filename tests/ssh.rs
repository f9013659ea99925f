//! Our SSH against OpenSSH: every test has real servers of its own on the loopback network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

#[path = "ssh/child.rs"]
mod child;
#[path = "ssh/commands.rs"]
mod commands;
#[path = "ssh/copies.rs"]
mod copies;
#[path = "ssh/host_keys.rs"]
mod host_keys;
#[path = "ssh/interactive.rs"]
mod interactive;
#[path = "ssh/login.rs"]
mod login;
#[path = "ssh/machine.rs"]
mod machine_program;
#[path = "ssh/played.rs"]
mod played;
#[path = "ssh/program.rs"]
mod program;
#[path = "ssh/screen.rs"]
mod screen;
#[path = "ssh/server.rs"]
mod server;
