//! Log drivers that send a container's output elsewhere, and the process of its own that they run in.
//!
//! The process is this program again, as `engine log`, a child of the container's supervising process: like that one it
//! outlives the daemon. What a container says reaches it through a pipe (see [`engine_shim::outlet`]), so that a log server
//! that is slow or gone holds up nobody but, in blocking mode, the container itself.

mod aws;
mod awslogs;
mod connection;
mod driver;
mod drivers;
mod file;
mod fluentd;
#[cfg(test)]
mod fuzz;
mod gelf;
mod journald;
mod lines;
mod multiline;
pub mod options;
mod process;
mod syslog;
mod tls;

pub use driver::{ContainerInfo, Settings};
pub use options::{DRIVERS, OptionError};
pub use process::main;

/// The daemon's variables that a driver works by.
pub fn environment(driver: &str) -> &'static [&'static str] {
    match driver {
        "awslogs" => &aws::ENVIRONMENT,
        "syslog" | "fluentd" => &["SSL_CERT_FILE", "SSL_CERT_DIR", "TZ"],
        _ => &[],
    }
}
