//! What a transfer with a registry tells while it works.

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferEvent {
    /// A pull has found what it is to bring: the repository's path, and the tag or digest.
    From { path: String, reference: String },
    /// A push begins, to this repository.
    To { repository: String },
    /// Something became of a layer, called by the first digits of its digest.
    Layer { id: String, step: LayerStep },
    /// The digest of what was pulled.
    Pulled { digest: String },
    /// What a pull ended with.
    Status { text: String },
    /// What a push ended with: the digest and the size of the manifest.
    Pushed { tag: String, digest: String, size: u64 },
}

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerStep {
    /// It is to be pulled.
    Planned,
    /// It is to be pushed.
    Preparing,
    /// Others are before it.
    Waiting,
    /// It is in the store.
    Exists,
    /// It is in the registry.
    ExistsThere,
    /// The registry had it in another repository.
    Mounted,
    /// Bytes of the packed layer.
    Downloading {
        current: u64,
        total: u64,
    },
    /// It is tried again, after so many seconds.
    Retrying {
        seconds: u64,
    },
    Verifying,
    Downloaded,
    /// Bytes of the packed layer.
    Extracting {
        current: u64,
        total: u64,
    },
    Pulled,
    /// Bytes of the packed layer.
    Pushing {
        current: u64,
        total: u64,
    },
    Pushed,
}
