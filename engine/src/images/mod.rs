//! The image store: content addressed configurations and unpacked layers, shared between images.

use std::io::Read;
use std::path::{Path, PathBuf};

mod error;
mod types;

pub use error::ImageError;
pub use types::{HistoryEntry, Image, ImageConfig, ImageId, ImageUser, LoadEvent, Loaded, Removed};

/// All images of this engine. Cheap to clone; every call blocks.
#[derive(Clone, Debug)]
pub struct ImageStore {}

impl ImageStore {
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        todo!("{root:?}")
    }
    pub fn load(
        &self,
        reader: impl Read,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>, ImageError> {
        todo!()
    }
    pub fn list(&self) -> Vec<Image> {
        todo!()
    }
    pub fn find(&self, reference: &str) -> Result<Image, ImageError> {
        todo!()
    }
    pub fn tag(&self, source: &str, repository_and_tag: &str) -> Result<(), ImageError> {
        todo!()
    }
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        users: &[ImageUser],
    ) -> Result<Vec<Removed>, ImageError> {
        todo!()
    }
    /// The directories for overlayfs, top layer first.
    pub fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, ImageError> {
        todo!()
    }
}
