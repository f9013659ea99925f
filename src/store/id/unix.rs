//! What tells one computer from another on unix, and one folder on it.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

/// The number that the system's installation has.
pub(super) fn computer() -> String {
    fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

/// What the computer is called.
pub(super) fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The number of a folder, which renaming does not change.
pub(super) fn number(folder: &Path) -> io::Result<u64> {
    fs::metadata(folder).map(|folder| folder.ino())
}
