//! Why something with an image failed, in the words that docker's users know.

use std::io;
use std::path::PathBuf;

use engine_model::{Failure, Kind};

/// A failed attempt on the image store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("No such image: {reference}")]
    NotFound { reference: String },
    #[error(
        "The image {reference} cannot be read; load it again, or remove it (`docker info` says what cannot be read)"
    )]
    Unreadable { reference: String },
    #[error("invalid reference format: `{reference}`")]
    InvalidReference { reference: String },
    #[error("invalid reference format: repository name ({path}) must be lowercase")]
    UpperCaseReference { path: String },
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    #[error("No such image: {prefix} (it is the beginning of more than one image id)")]
    Ambiguous { prefix: String },
    #[error("Another engine uses `{}`", path.display())]
    Locked { path: PathBuf },
    #[error("Could not read the state of the images")]
    State(#[from] engine_store::ReadError),
    #[error("The layer {diff_id} cannot be written out again as it was")]
    NotReproducible { diff_id: String },
    #[error(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - container {container} is using its referenced image {image}"
    )]
    ReferenceInUse { reference: String, container: String, image: String },
    #[error("conflict: unable to delete {image} ({}) - {reason}", if *.forcible { "must be forced" } else { "cannot be forced" })]
    InUse { image: String, forcible: bool, reason: String },
    #[error("invalid archive: {reason}")]
    InvalidArchive { reason: String },
    #[error("Could not read the archive")]
    ReadArchive { source: io::Error },
    #[error("Could not read what was changed in `{}`", path.display())]
    ReadChanges { path: PathBuf, source: io::Error },
    #[error("Could not describe the image in OCI's words")]
    Describe { source: oci_spec::OciSpecError },
    #[error("Could not write the archive")]
    WriteArchive { source: io::Error },
    #[error("Could not unpack `{entry}`")]
    Unpack { entry: String, source: io::Error },
    #[error("Could not use `{}`", path.display())]
    Store { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Registry(#[from] engine_registry::RegistryError),
    #[error("manifest for {reference} not found: {message}")]
    NotInRegistry { reference: String, message: String },
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login': {message}"
    )]
    PullDenied { repository: String, message: String },
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform { platform: String },
    #[error(
        "the image was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    OtherPlatform { found: String, wanted: String },
    #[error("it is no image: the type of its configuration is `{media_type}`")]
    NoImage { media_type: String },
    #[error("An image does not exist locally with the tag: {repository}")]
    NothingToPush { repository: String },
    #[error("cannot push a digest reference")]
    PushOfDigest,
    #[error("The work on the image was cut short")]
    CutShort,
    #[error("`{}` is damaged", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

impl ImageError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. }
            | Self::NotInRegistry { .. }
            | Self::PullDenied { .. }
            | Self::NoPlatform { .. }
            | Self::OtherPlatform { .. }
            | Self::NothingToPush { .. }
            // It may be a name as well, which clients pull that hear this.
            | Self::Ambiguous { .. } => Kind::NotFound,
            Self::Registry(error) => error.kind(),
            Self::InvalidReference { .. }
            | Self::UpperCaseReference { .. }
            | Self::TagWithDigest
            | Self::NoImage { .. }
            | Self::PushOfDigest
            | Self::InvalidArchive { .. } => Kind::Invalid,
            Self::ReferenceInUse { .. } | Self::InUse { .. } => Kind::Conflict,
            Self::ReadArchive { source } | Self::Unpack { source, .. } => Kind::of_archive(source),
            Self::Unreadable { .. }
            | Self::WriteArchive { .. }
            | Self::Describe { .. }
            | Self::ReadChanges { .. }
            | Self::Store { .. }
            | Self::Damaged { .. }
            | Self::Locked { .. }
            | Self::CutShort
            | Self::State(_)
            | Self::NotReproducible { .. } => Kind::Internal,
        }
    }

    /// For work that panicked or was cancelled, which has said so itself.
    pub(super) fn cut_short<E>(_: E) -> Self {
        Self::CutShort
    }

    /// In dockerd's words about a pull, where it has some.
    #[must_use]
    pub fn of_pull(self, name: &super::Reference) -> Self {
        use engine_registry::RegistryError;
        match self {
            Self::Registry(RegistryError::NotFound { message }) => {
                Self::NotInRegistry { reference: name.familiar(), message }
            }
            Self::Registry(RegistryError::Denied { message }) => {
                Self::PullDenied { repository: name.familiar_repository(), message }
            }
            other => other,
        }
    }

    pub(super) fn store(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Store { path, source }
    }

    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Self::InvalidArchive { reason: reason.into() }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::of(error.kind(), &error)
    }
}
