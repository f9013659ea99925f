//! What an image is: its id, and what the store tells about it.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::wire::{HistoryEntry, ImageConfig};

/// The digest of an image's configuration, `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// `None` if the text is not `sha256:` and 64 lower case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let valid = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    /// With the algorithm in front.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Only the 64 digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The 12 digits that people see.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<String> for ImageId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is not an image id"))
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: ImageId,
    /// In the short form that people write, such as `busybox:latest`.
    pub repo_tags: Vec<String>,
    /// In the short form, such as `busybox@sha256:…`.
    pub repo_digests: Vec<String>,
    pub created: Option<Timestamp>,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    pub architecture: String,
    pub variant: String,
    pub os: String,
    pub author: String,
    pub comment: String,
    pub config: ImageConfig,
    /// Digests of the uncompressed layers, base first.
    pub diff_ids: Vec<String>,
    /// Sizes of the same layers, unpacked.
    pub layer_sizes: Vec<u64>,
    pub history: Vec<HistoryEntry>,
    /// When a tag was last put on it here.
    pub last_tagged: Option<Timestamp>,
    /// When it came in.
    pub added: Option<Timestamp>,
    /// It has no name because the names could not be read, not because a user took it away.
    pub recovered: bool,
    /// What a build has made it of.
    pub parent: Option<ImageId>,
}

impl Image {
    /// The last time that somebody did something with it, as far as is known.
    pub fn last_used(&self) -> Option<Timestamp> {
        [self.created, self.last_tagged, self.added].into_iter().flatten().max()
    }
}

/// A container that needs an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's full id.
    pub container: String,
    pub running: bool,
}

/// What a load tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// Bytes of the archive read so far.
    Read { bytes: u64 },
    /// A layer is being unpacked: its short digest, bytes done, bytes in all.
    Layer { id: String, current: u64, total: u64 },
}

/// An image that a load brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub id: ImageId,
    /// The names it got, in short form; empty if the archive named none.
    pub tags: Vec<String>,
}

/// One thing that a removal did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or layer is gone.
    Deleted(String),
}

/// What is to be made here: an image with one layer more than its parent, or none more.
#[derive(Clone, Debug, Default)]
pub struct NewImage {
    /// Whose layers and history it goes on with; without one it begins with nothing.
    pub parent: Option<ImageId>,
    pub config: ImageConfig,
    /// Empty for the parent's, or this host's.
    pub architecture: String,
    pub variant: String,
    pub author: String,
    pub comment: String,
    /// What made it, for its history.
    pub created_by: String,
    /// In any form; each takes the name from the image that has it.
    pub names: Vec<String>,
    /// The step of a build that made it.
    pub step: Option<NewStep>,
}

/// A step of a build, as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStep {
    /// Says what was done to the parent, and with what. The same again has the same result.
    pub key: String,
    /// Nobody is shown it unless it gets a name; it is there for the next build.
    pub is_intermediate: bool,
}

/// Changes on top of layers, as overlayfs keeps them.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Where they are.
    pub upper: PathBuf,
    /// What they are changes of, top layer first.
    pub lower: Vec<PathBuf>,
    /// Paths inside that something was mounted on: what was only made for that is not changed.
    pub mount_points: Vec<PathBuf>,
}

/// A step of a build that is kept for the next one, as `docker system df` shows it.
#[derive(Clone, Debug)]
pub struct KeptStep {
    pub id: ImageId,
    pub parent: Option<ImageId>,
    /// What was done.
    pub description: String,
    /// Of its own layer, in bytes; 0 if it has none.
    pub size: u64,
    /// An image that is shown has all its layers.
    pub is_shared: bool,
    pub created: Option<Timestamp>,
    pub last_used: Timestamp,
    /// How often a build found it.
    pub uses: u64,
}
