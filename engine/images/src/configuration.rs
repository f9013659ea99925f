//! The configuration of an image: what is to be an image is read, and digested, here.

use engine_model::ImageId;
use engine_model::wire::{HistoryEntry, ImageConfig, null_is_default};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::reference::{Reference, is_digest};

/// What overlayfs and docker can do.
pub(super) const MOST_LAYERS: usize = 125;

/// An image configuration, as far as it is needed here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) variant: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) os: String,
    pub(super) created: Option<Timestamp>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) author: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) comment: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) config: ImageConfig,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) rootfs: RootFs,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) history: Vec<HistoryEntry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) diff_ids: Vec<String>,
}

impl ConfigFile {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let config: Self = parse("the image configuration", bytes)?;
        if config.rootfs.diff_ids.len() > MOST_LAYERS {
            return Err(ImageError::invalid(format!("an image has more than {MOST_LAYERS} layers")));
        }
        if let Some(bad) = config.rootfs.diff_ids.iter().find(|digest| !is_digest(digest)) {
            return Err(ImageError::invalid(format!("`{bad}` is not a layer digest")));
        }
        if !matches!(config.os.as_str(), "" | "linux") {
            let reason = format!("cannot load {} image on linux", config.os);
            return Err(ImageError::invalid(reason));
        }
        Ok(config)
    }
}

/// An image that is to be put into the store.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// The digest of the configuration.
    pub(super) id: ImageId,
    /// The exact bytes of the configuration.
    pub(super) config: Vec<u8>,
    pub(super) parsed: ConfigFile,
    /// With a tag or a digest each.
    pub(super) names: Vec<Reference>,
}

impl Incoming {
    /// Reads the bytes of a configuration.
    pub(super) fn read(config: Vec<u8>, names: Vec<Reference>) -> Result<Self, ImageError> {
        let parsed = ConfigFile::parse(&config)?;
        let digest = format!("sha256:{:x}", Sha256::digest(&config));
        let id = ImageId::parse(&digest).ok_or_else(|| ImageError::invalid("no digest"))?;
        Ok(Self { id, config, parsed, names })
    }
}

/// Reads JSON that came from outside; `what` names it in the error.
pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::invalid(format!("{what} is not as it should be: {error}")))
}
