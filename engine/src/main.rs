//! The container engine in one binary: the daemon, the command line and the process that supervises a container.

#![allow(
    unreachable_pub,
    reason = "nothing of a binary is reachable; here `pub` is what a module offers to the others"
)]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

mod api;
mod app;
mod building;
mod config;
mod daemon;
#[cfg(test)]
mod fuzz;
mod host;
mod kept;
mod making;
mod metrics;
mod peer;
mod progress;
mod prune;
mod pulling;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called_as = arguments.first().and_then(|path| Path::new(path).file_name()).unwrap_or_default();
    let called_as_swarm = called_as == "swarm";
    let called_as_docker = called_as == "docker";
    let first = arguments.get(1).cloned().unwrap_or_default();
    if called_as_swarm {
        arguments.splice(..1, ["docker".into(), "swarm".into()]);
    } else if !called_as_docker && first == "daemon" {
        return daemon::main(arguments);
    } else if !called_as_docker && first == "shim" {
        return engine_shim::main(&arguments[2..]);
    } else if !called_as_docker && first == "log" {
        return engine_logging::main(&arguments[2..]);
    } else if !called_as_docker && first == "late-mounts" {
        return engine_shim::late_mounts(&arguments[2..]);
    }
    engine_cli::main(&arguments)
}
