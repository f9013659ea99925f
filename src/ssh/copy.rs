//! `scp`: files and directories from here to a host, back, and between hosts.

use std::path::PathBuf;

use super::{Session, SshError};

/// One end of a copy.
#[derive(Debug)]
pub enum Place<'a> {
    /// A path on this machine.
    Local(PathBuf),
    /// A path on a host; relative ones and the empty one start at the home of the user.
    Remote(&'a Session, String),
}

/// What to copy, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyOptions {
    /// Directories are copied with all that is in them; without it they are refused.
    pub recursive: bool,
    /// Modification times are kept too.
    pub preserve_times: bool,
}

/// What a copy tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyEvent<'a> {
    /// A file begins.
    File { name: &'a str, size: u64 },
    /// So many bytes more have arrived, of any file.
    Bytes(u64),
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The connection.
    #[error(transparent)]
    Ssh(#[from] SshError),
}

/// Copies a file, or with `recursive` a directory, with its modes. As with `scp`, a destination that is a directory
/// receives the source under its own name.
pub async fn copy(
    from: &Place<'_>,
    to: &Place<'_>,
    options: CopyOptions,
    progress: &(dyn Fn(CopyEvent<'_>) + Send + Sync),
) -> Result<(), CopyError> {
    let _ = progress;
    todo!("{from:?}{to:?}{options:?}")
}
