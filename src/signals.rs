//! How the system tells this program that it is to end.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{Termination, was_terminated};
#[cfg(windows)]
pub(crate) use windows::{Termination, was_terminated};
