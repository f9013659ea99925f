//! What can go wrong with containers, in docker's words where clients read them.

use std::io;
use std::path::PathBuf;

use engine_model::{Failure, Kind};
use engine_shim::client::ShimError;

use crate::mounts::MountError;
use crate::oci::SpecError;

#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    #[error("Could not find the file {} in container", .0.display())]
    NoSuchFile(PathBuf),
    #[error("{0}")]
    NotFound(String),
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken { name: String, id: String },
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    /// It does not run, or has ended although its record does not say so yet.
    #[error("container {0} is not running")]
    Ended(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0} is not supported by this engine yet")]
    Unsupported(String),
    #[error("already so")]
    NotModified,
    /// Of the images or networks.
    #[error(transparent)]
    Outside(#[from] Failure),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Shim(#[from] ShimError),
    #[error("error while creating mount source path '{}'", path.display())]
    CreateSource { path: PathBuf, source: io::Error },
    #[error("Could not write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("Could not pack the files of the container")]
    Pack { source: io::Error },
    #[error("Could not unpack the archive in `{}`", path.display())]
    Unpack { path: PathBuf, source: io::Error },
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Record(#[from] engine_store::ReadError),
    #[error("Could not remove `{}`", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("Could not unmount `{}`", path.display())]
    Unmount { path: PathBuf, source: io::Error },
    #[error("Could not change the cgroup of the container")]
    Cgroup { source: io::Error },
    #[error("Could not open the {what} of container {id}")]
    Process { id: String, what: String, source: io::Error },
    #[error("Could not make the network namespace of container {id}")]
    Pin { id: String, source: io::Error },
    #[error("The work on the container was cut short")]
    Interrupted(#[from] tokio::task::JoinError),
    #[error("The transfer did not come to its end")]
    Transfer(#[from] engine_model::task::ApartError),
    #[error("Could not keep files for a client for a while")]
    Spool { source: io::Error },
}

impl ContainerError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchContainer(_) | Self::NoSuchExec(_) | Self::NoSuchFile(_) | Self::NotFound(_) => {
                Kind::NotFound
            }
            Self::InvalidName(_) | Self::Invalid(_) | Self::Ambiguous(_) | Self::Spec(_) | Self::Mount(_) => {
                Kind::Invalid
            }
            Self::NameTaken { .. } | Self::Conflict(_) | Self::Ended(_) => Kind::Conflict,
            Self::Unsupported(_) | Self::Shim(ShimError::Unknown { .. }) => Kind::Unsupported,
            Self::NotModified => Kind::NotModified,
            Self::Outside(failure) => failure.kind,
            Self::Unpack { source, .. } => Kind::of_archive(source),
            _ => Kind::Internal,
        }
    }
}

impl From<ContainerError> for Failure {
    fn from(error: ContainerError) -> Self {
        Self::of(error.kind(), &error)
    }
}
