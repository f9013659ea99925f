//! How the engine keeps things on disk: one writer, one reader, and one place for what cannot be read.
//!
//! *Writing* replaces a file as a whole, so that a reader never sees a half. [`Durability`] says what a power cut may
//! do to it. *Reading* tells three cases apart: there is none, there is one, and there is one that cannot be
//! understood. The last is never taken for the first: it is put into the [`Quarantine`], where it stays until
//! somebody has looked at it.

mod quarantine;
mod read;
mod remove;
mod write;

pub use quarantine::Quarantine;
pub use read::{ReadError, read, read_versioned};
pub use remove::{leftovers, remove_directory, tidy};
pub use write::{Durability, sync, sync_directory, write, write_bytes};
