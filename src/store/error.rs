//! What can go wrong with the store.

use std::{
    io,
    path::{Path, PathBuf},
};

use machine_driver::{HostName, InvalidHostName};
use machine_pki::PkiError;

use super::{PhaseError, text::printable};

/// An operation on the store failed. Nothing that was there before is lost.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Name(#[from] InvalidHostName),
    #[error(
        "Docker machine \"{name}\" does not exist. Use \"machine ls\" to list machines. Use \"machine create\" to add a new one."
    )]
    Missing { name: HostName },
    #[error("Docker machine \"{name}\" already exists")]
    Exists { name: HostName },
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Could not write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` is longer than {at_most} bytes, too long for what it should be", path.display())]
    TooLarge { path: PathBuf, at_most: u64 },
    #[error("Could not understand `{}`", path.display())]
    Malformed { path: PathBuf, source: Malformation },
    #[error("`{}` is from the future: format {found}, and this machine reads up to {known}", path.display())]
    Newer { path: PathBuf, found: u64, known: u32 },
    #[error("`{}` does not hold the store's id", path.display())]
    NoId { path: PathBuf },
    #[error("`{name}` is in use by {owner}")]
    Locked { name: HostName, owner: String },
    #[error("The store is in use by {owner}")]
    StoreLocked { path: PathBuf, owner: String },
    #[error(transparent)]
    Phase(#[from] PhaseError),
    #[error("`{}` is missing", path.display())]
    Absent { path: PathBuf, name: HostName },
    #[error("Could not use the certificates in `{}`", path.display())]
    Certificates { path: PathBuf, source: PkiError },
    #[error("`{}` is there, but `{}` is not", present.display(), absent.display())]
    HalfPair { present: PathBuf, absent: PathBuf },
}

/// What is wrong with a text that should be JSON of a known form. What it quotes of the text has no control characters.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformation(String);

impl StoreError {
    pub(super) fn malformed(path: &Path, error: &serde_json::Error) -> Self {
        Self::Malformed { path: path.to_owned(), source: Malformation(printable(&error.to_string())) }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Newer { .. } => {
                Some("Upgrade `machine`, or use another store with `--storage-path`".into())
            }
            Self::Malformed { path, .. } => {
                Some(format!("Repair it by hand, or move `{}` away", path.parent().unwrap_or(path).display()))
            }
            Self::NoId { .. } => Some(
                "Put back the file as it was: what this store made at providers is known by that id".into(),
            ),
            Self::Locked { .. } | Self::StoreLocked { .. } => {
                Some("Wait until it has finished, or end it".into())
            }
            Self::Exists { name } => {
                Some(format!("Choose another name, or remove it first with `machine rm {name}`"))
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("Make room on that disk, then run the same command again".into())
            }
            Self::Write { source, .. } | Self::Read { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("Check who owns it, or use another store with `--storage-path`".into())
            }
            Self::Read { path, source }
                if source.kind() == io::ErrorKind::NotFound && path.ends_with("config.json") =>
            {
                let folder = path.parent().unwrap_or(path);
                Some(format!(
                    "Put it back, or move `{}` away; `machine rm -f` takes it for a host of which nothing is known",
                    folder.display()
                ))
            }
            Self::HalfPair { present, .. } => {
                Some(format!("Put the missing file back, or move `{}` away", present.display()))
            }
            Self::Certificates { source, .. } => source.hint(),
            Self::Phase(error) => Some(error.hint()),
            Self::Absent { name, .. } => {
                Some(format!("`machine regenerate-certs {name}` puts the host's certificates back"))
            }
            _ => None,
        }
    }
}
