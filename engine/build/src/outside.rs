//! What a build needs of the rest of the engine, and what it tells while it goes on.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{self, Read};
use std::path::PathBuf;

use async_trait::async_trait;
use engine_model::{Changes, Failure, Image, ImageId, NewImage};
use serde_json::Value;
use tokio::sync::mpsc;

/// Images and containers, as a build needs them. Calls that are not asynchronous block.
#[async_trait]
pub trait Outside: Debug + Send + Sync {
    /// An image by name, id or the beginning of an id.
    fn find(&self, reference: &str) -> Result<Image, Failure>;

    /// The directories for overlayfs, top layer first.
    fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, Failure>;

    /// The image that an earlier build has made by doing the same to the same parent.
    fn find_step(&self, parent: Option<&ImageId>, key: &str) -> Option<Image>;

    /// Makes an image, with a layer of these changes.
    fn make(&self, new: &NewImage, changes: Option<&Changes>) -> Result<ImageId, Failure>;

    /// Notes which steps were of use, and which image is the result, to be shown with or without a name.
    fn finish(&self, used: &BTreeSet<ImageId>, result: &ImageId) -> Result<(), Failure>;

    /// Gives an image a name, and returns it as people write it.
    fn tag(&self, id: &ImageId, name: &str) -> Result<String, Failure>;

    /// What an archive holds, whatever it is compressed by.
    fn decompress<'a>(&self, archive: Box<dyn Read + 'a>) -> io::Result<Box<dyn Read + 'a>>;

    /// Makes an image of what a container has changed.
    async fn commit(&self, container: &str, new: NewImage) -> Result<ImageId, Failure>;

    /// Brings an image from its registry, and tells how that goes on in lines of the API. `registries` is what the client
    /// has sent in the header `X-Registry-Config`, as it came.
    async fn pull(
        &self,
        reference: &str,
        registries: &str,
        progress: &mpsc::Sender<Told>,
    ) -> Result<(), Failure>;
}

/// What a build tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Text(String),
    /// What a command has written to its standard error.
    Errors(String),
    /// A stage has become this image.
    Image(ImageId),
    /// A line of the API, as a pull tells it.
    Line(Value),
}
