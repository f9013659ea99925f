//! What lies where in the store.
//!
//! ```text
//! images/lock                   held while an engine uses the store
//! images/state.json             images and names; renaming a new one over it is what makes a change happen
//! images/configs/HEX.json       configurations, byte for byte
//! images/layers/HEX/diff        a layer for overlayfs, HEX being its chain id
//! images/layers/HEX/split.gz    the rest of its tar stream
//! images/layers/HEX/layer.json  its digest and sizes
//! images/layers/HEX/distribution.json  under which digests registries have it
//! images/downloads/HEX          blobs of registries on their way here, HEX being their digest
//! images/l/N                    short names of the diff directories, since mount options are limited to a page
//! images/tmp                    work in progress, emptied at start
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engine_model::ImageId;
use serde::{Deserialize, Serialize};

use super::error::ImageError;

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Paths(pub(super) PathBuf);

impl Paths {
    pub(super) fn temporary(&self) -> PathBuf {
        self.0.join("tmp")
    }

    pub(super) fn config(&self, id: &ImageId) -> PathBuf {
        self.configs().join(format!("{}.json", id.hex()))
    }

    pub(super) fn configs(&self) -> PathBuf {
        self.0.join("configs")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.0.join("layers")
    }

    pub(super) fn layer(&self, chain: &str) -> PathBuf {
        self.layers().join(chain.trim_start_matches("sha256:"))
    }

    pub(super) fn distribution(&self, chain: &str) -> PathBuf {
        self.layer(chain).join("distribution.json")
    }

    pub(super) fn downloads(&self) -> PathBuf {
        self.0.join("downloads")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.0.join("l")
    }

    pub(super) fn link(&self, number: u64) -> PathBuf {
        self.links().join(number.to_string())
    }

    pub(super) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

/// The contents of `layer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LayerFile {
    pub(super) diff_id: String,
    pub(super) size: u64,
    pub(super) tar_size: u64,
    /// The number of its short name.
    pub(super) link: u64,
}

/// A number that no short name has, not even one of a layer that is not known.
pub(super) fn free_link(paths: &Paths) -> Result<u64, ImageError> {
    let links = paths.links();
    let entries = fs::read_dir(&links).map_err(ImageError::store(&links))?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    Ok(numbers.max().unwrap_or(0) + 1)
}

/// Where the short name of a layer leads.
pub(super) fn link_target(chain: &str) -> PathBuf {
    Path::new("../layers").join(chain.trim_start_matches("sha256:")).join("diff")
}

/// Makes the short name of a layer, right or not before.
pub(super) fn link(paths: &Paths, chain: &str, number: u64) -> Result<(), ImageError> {
    let path = paths.link(number);
    let target = link_target(chain);
    if fs::read_link(&path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    if let Err(source) = fs::remove_file(&path)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(ImageError::Store { path, source });
    }
    std::os::unix::fs::symlink(&target, &path).map_err(ImageError::store(path))
}
