//! Under which digests registries know a layer, so that it need not be packed, or sent, again. It is beside the layer, and
//! nothing is lost with it.

use std::fs;

use engine_store::{Durability, write_bytes};
use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

use super::layout::Paths;

/// Enough for a layer that is everywhere.
const MOST: usize = 32;
const MOST_REPOSITORIES: usize = 64;
const LARGEST: u64 = 1 << 20;

/// A packed form of a layer that a registry has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) media_type: String,
    /// In full, the last one last.
    pub(super) repositories: Vec<String>,
}

impl Known {
    pub(super) fn pulled(layer: &Descriptor, repository: &str) -> Self {
        Self {
            digest: layer.digest().as_ref().to_owned(),
            size: layer.size(),
            media_type: layer.media_type().to_string(),
            repositories: vec![repository.to_owned()],
        }
    }
}

/// All that is known of a layer; nothing, if that cannot be read.
pub(super) fn read(paths: &Paths, chain: &str) -> Vec<Known> {
    let path = paths.distribution(chain);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGEST) {
        return Vec::new();
    }
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Adds to what is known of a layer.
pub(super) fn note(paths: &Paths, chain: &str, news: &Known) {
    let mut all = read(paths, chain);
    let mut known = match all.iter().position(|known| known.digest == news.digest) {
        Some(place) => all.remove(place),
        None => Known { repositories: Vec::new(), ..news.clone() },
    };
    known.repositories.retain(|repository| !news.repositories.contains(repository));
    known.repositories.extend(news.repositories.iter().cloned());
    let surplus = known.repositories.len().saturating_sub(MOST_REPOSITORIES);
    known.repositories.drain(..surplus);
    all.push(known);
    let surplus = all.len().saturating_sub(MOST);
    all.drain(..surplus);
    let path = paths.distribution(chain);
    let written = serde_json::to_vec(&all)
        .map_err(std::io::Error::other)
        .and_then(|bytes| write_bytes(&path, &bytes, Durability::Atomic));
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "What registries have of a layer was not noted");
    }
}
