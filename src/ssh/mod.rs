//! The way to a host: one SSH session with a known host key, and everything that is done over it.
//!
//! A [`Session`] is one login. Commands, copies and forwards are channels on it and may run side by side. All waiting is
//! bounded: each layer has its own time limit ([`Timeouts`]) and its own error ([`SshError`]), so that a failure says how
//! far the connection came.

mod agent;
mod authentication;
mod banner;
mod command;
mod copy;
mod error;
mod forward;
mod host_key;
mod interactive;
mod key;
mod session;
mod standard_input;
mod target;

pub use banner::wait_for_banner;
pub use command::{ExitStatus, Output, Stream};
pub use copy::{CopyError, CopyEvent, CopyLimits, CopyOptions, Place, copy};
pub use error::{Cause, SshError};
pub use forward::{Forward, ForwardedStream, Listener};
pub use host_key::{OfferedKey, expected_key, fingerprint_of, is_fingerprint, same_key};
pub use key::{KeyPair, generate_key_pair, public_half};
pub use session::Session;
pub use target::{HostKeyPolicy, Key, Passphrase, Target, Timeouts};
