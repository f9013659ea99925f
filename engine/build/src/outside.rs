//! What a build needs of the rest of the engine and of its client, and what it tells while it goes on.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use engine_model::{Changes, Failure, Image, ImageId, NewImage};
use futures_util::stream::BoxStream;
use serde_json::Value;
use tokio::sync::mpsc;

use super::error::BuildError;

/// Images and containers, as a build needs them. Calls that are not asynchronous block.
#[async_trait]
pub trait Outside: Debug + Send + Sync {
    /// An image by name, id or the beginning of an id.
    fn find(&self, reference: &str) -> Result<Image, Failure>;

    /// The directories for overlayfs, top layer first.
    fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, Failure>;

    /// The image that an earlier build has made by doing the same to the same parent.
    fn find_step(&self, parent: Option<&ImageId>, key: &str) -> Option<Image>;

    /// What one of these images was on its way, or is, after the step by which `new` is to be made, as its history tells.
    fn find_in_history(&self, sources: &[ImageId], new: &NewImage) -> Result<Option<ImageId>, Failure>;

    /// Makes one layer of all that an image has above its base, in an image of its own.
    fn squash(&self, id: &ImageId, base: Option<&ImageId>) -> Result<ImageId, Failure>;

    /// Makes an image, with a layer of these changes.
    fn make(&self, new: &NewImage, changes: Option<&Changes>) -> Result<ImageId, Failure>;

    /// Notes which steps were of use, and which image is a result that is to be shown, with or without a name.
    fn finish(&self, used: &BTreeSet<ImageId>, result: Option<&ImageId>) -> Result<(), Failure>;

    /// Gives an image a name, and returns it as people write it.
    fn tag(&self, id: &ImageId, name: &str) -> Result<String, Failure>;

    /// What an archive holds, whatever it is compressed by.
    fn decompress<'a>(&self, archive: Box<dyn Read + 'a>) -> io::Result<Box<dyn Read + 'a>>;

    /// Writes everything in a folder as an archive.
    fn pack(&self, folder: &Path, output: &mut dyn Write) -> io::Result<()>;

    /// Makes an image of what a container has changed.
    async fn commit(&self, container: &str, new: NewImage) -> Result<ImageId, Failure>;

    /// The whole name of an image, with its registry and tag, as people write it or not.
    fn whole_name(&self, reference: &str) -> String;

    /// Brings an image from its registry, and tells how that goes on in lines of the API.
    async fn pull(&self, reference: &str, keys: &Keys, progress: &mpsc::Sender<Told>) -> Result<(), Failure>;

    /// Asks a server for a file by HTTP or HTTPS. `None` if it is still what `known` says.
    async fn fetch(&self, address: &str, known: &Validators) -> Result<Option<Arriving>, Failure>;

    /// Names and values of variables by which programs of this host find its proxies.
    fn proxies(&self) -> Vec<(String, String)>;
}

/// What a server has said of a file, by which it can be asked again whether that is still so. Empty if it has said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, as it came.
    pub tag: String,
    /// `Last-Modified`, as it came.
    pub modified: String,
}

/// A file that a server sends.
pub struct Arriving {
    pub validators: Validators,
    /// In bytes, if the server says so.
    pub length: Option<u64>,
    /// `Content-Disposition`, as it came; empty if it did not.
    pub disposition: String,
    pub pieces: BoxStream<'static, Result<Bytes, Failure>>,
}

impl Debug for Arriving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Arriving").field("length", &self.length).finish_non_exhaustive()
    }
}

/// How registries learn who the client of a build is.
#[derive(Clone, Debug)]
pub enum Keys {
    /// From what the client has sent in the header `X-Registry-Config`, as it came.
    Header(String),
    /// From the client itself, when it comes to that.
    Client(Arc<dyn Client>),
}

impl Default for Keys {
    fn default() -> Self {
        Self::Header(String::new())
    }
}

/// A user's name and password, or an identity token without a name.
#[derive(Clone)]
pub struct Login {
    pub username: String,
    pub secret: String,
}

impl Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The client of a build, where it can be asked while the build goes on.
#[async_trait]
pub trait Client: Debug + Send + Sync {
    /// What it has under this name; `None` if that is nothing.
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Failure>;

    /// Makes a socket at this path at which its SSH agent answers, as long as what is returned is held. `None` if it
    /// forwards none of this name.
    async fn agent(&self, id: &str, socket: &Path) -> Result<Option<Box<dyn Any + Send + Sync>>, Failure>;

    /// Who it is to this registry; `None` if nobody in particular.
    async fn login(&self, registry: &str) -> Result<Option<Login>, Failure>;
}

/// To whom a build tells how it goes on.
#[derive(Clone, Debug)]
pub enum Audience {
    /// Who reads lines: stage after stage, in the order of the Dockerfile.
    Reader(mpsc::Sender<Told>),
    /// Who watches steps, several of which may be under way.
    Watcher(mpsc::Sender<Event>),
}

/// A step: its stage, and its number in there. The base of a stage comes before its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId {
    pub stage: usize,
    pub number: usize,
}

/// What becomes of steps.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Began {
        step: StepId,
        title: String,
    },
    /// A command has written something, or a pull tells how far it is.
    Said {
        step: StepId,
        said: Told,
    },
    Ended {
        step: StepId,
        is_cached: bool,
    },
    /// `lines` are the first and last of the instruction, counted from 1. Not every instruction is a step that is told.
    Failed {
        step: Option<StepId>,
        lines: (usize, usize),
        error: BuildError,
    },
    /// What the client should know of, though the build goes on.
    Warning(String),
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
