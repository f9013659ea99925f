//! The `Driver` contract: all that the author of a driver needs, and nothing of engines or of the command line.
//!
//! A driver knows one provider. It is handed a [`HostView`] (who the host is and where its folder is), a
//! [`Journal`] (what has been made for it so far) and a [`Progress`] (where to say what is going on), and makes,
//! runs and removes the host. See [`Driver`] for the rules that every driver keeps, and [`conformance`] for the
//! suite that checks them. Everything that passes between a driver and its caller is plain data, so that a driver can
//! be a program of its own.

mod access;
mod book;
pub mod conformance;
mod driver;
mod error;
mod flags;
mod host;
mod journal;
pub mod local;
mod progress;
pub mod seed;

pub use access::{Forecast, InvalidNetwork, Network, Place, Protocol, Rule, Source};
pub use book::{Book, parse_state};
pub use driver::{Driver, DriverInfo, Features, HostKeySource, LoginSource, Row};
pub use error::{DriverError, ErrorKind};
pub use flags::{Flag, FlagKind, OptionValue, Options, OptionsError};
pub use host::{
    Description, Endpoint, HostId, HostKey, HostName, HostView, Inside, InvalidHostName, InvalidState,
    Leftover, LoginKey, SshEndpoint, SshKey, State, is_device_on_windows,
};
pub use journal::{Entry, EntryStatus, Journal, JournalError, MemoryJournal};
pub use progress::{Progress, Silent};

/// The edition of this contract, which a driver in another process has to speak.
pub const CONTRACT: u32 = 2;
