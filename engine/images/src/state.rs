//! What the store knows: images, names and layers, read from disk at start and written as one file at each change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engine_model::chain;
use engine_model::{Image, ImageId, NewStep};
use engine_store::{Durability, Quarantine, ReadError, tidy, write_bytes};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::configuration::ConfigFile;
use super::error::ImageError;
use super::layout::{LayerFile, Paths, link};
use super::reference::Reference;
use super::repair;

const FORMAT: u32 = 1;

/// A layer and how many images, and loads under way, need it.
#[derive(Clone, Debug)]
pub(super) struct LayerState {
    pub(super) file: LayerFile,
    pub(super) users: usize,
}

/// The part of `state.json` that belongs to one image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) last_tagged: Option<Timestamp>,
    #[serde(default)]
    pub(super) added: Option<Timestamp>,
    /// Removed by force while a stopped container needed it: shown to nobody, collected later.
    #[serde(default)]
    pub(super) hidden: bool,
    /// Found again without its names, when the list of images could not be read.
    #[serde(default)]
    pub(super) recovered: bool,
    /// Of an image that a build has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<StepRecord>,
}

/// The step of a build that made an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StepRecord {
    pub(super) parent: Option<ImageId>,
    /// Says what was done to the parent, and with what.
    pub(super) key: String,
    pub(super) is_intermediate: bool,
    pub(super) last_used: Timestamp,
    #[serde(default)]
    pub(super) uses: u64,
}

impl StepRecord {
    /// Of a step that is done now.
    pub(super) fn new(parent: Option<ImageId>, step: &NewStep) -> Self {
        Self {
            parent,
            key: step.key.clone(),
            is_intermediate: step.is_intermediate,
            last_used: Timestamp::now(),
            uses: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct StoredImage {
    pub(super) record: ImageRecord,
    pub(super) config: ConfigFile,
    /// Chain ids, base first.
    pub(super) chains: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct StateFile {
    version: u32,
    images: BTreeMap<ImageId, ImageRecord>,
    /// Names in full.
    names: BTreeMap<String, ImageId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<ImageId, StoredImage>,
    /// Images that cannot be read. Their names stay, and all layers.
    pub(super) unreadable: BTreeMap<ImageId, ImageRecord>,
    pub(super) names: BTreeMap<String, ImageId>,
    pub(super) layers: HashMap<String, LayerState>,
}

/// Docker's and OCI's chain ids: each names a layer together with all below it.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let chain = match chains.last() {
            None => diff_id.clone(),
            Some(below) => format!("sha256:{:x}", Sha256::digest(format!("{below} {diff_id}"))),
        };
        chains.push(chain);
    }
    chains
}

impl State {
    /// Reads the state and removes what does not belong to it: work that was cut short. What cannot be read is set aside
    /// or left where it is, and as long as there is such a thing no layer is removed.
    pub(super) fn open(paths: &Paths, quarantine: &Quarantine) -> Result<Self, ImageError> {
        for directory in [paths.configs(), paths.layers(), paths.links(), paths.temporary()] {
            fs::create_dir_all(&directory).map_err(ImageError::store(&directory))?;
        }
        let kept = read_state(paths, quarantine)?;
        let is_kept = kept.is_some();
        let file = match kept {
            Some(file) => file,
            None => found_state(paths)?,
        };
        let mut state = Self { names: file.names, ..Self::default() };
        for (id, record) in file.images {
            if let Err(error) = state.read_image(paths, quarantine, &id, record.clone()) {
                quarantine.note(format!(
                    "The image {id} is left out and its layers are kept; load it again or remove it: {}",
                    chain(&error)
                ));
                state.unreadable.insert(id, record);
            }
        }
        let Self { images, unreadable, names, .. } = &mut state;
        names.retain(|_, id| images.contains_key(id) || unreadable.contains_key(id));
        if !is_kept {
            state.save(paths)?;
        }
        tidy(&paths.0).map_err(ImageError::store(&paths.0))?;
        state.collect(paths)?;
        Ok(state)
    }

    fn read_image(
        &mut self,
        paths: &Paths,
        quarantine: &Quarantine,
        id: &ImageId,
        record: ImageRecord,
    ) -> Result<(), ImageError> {
        let path = paths.config(id);
        let bytes = fs::read(&path).map_err(ImageError::store(&path))?;
        let config = ConfigFile::parse(&bytes)?;
        let chains = chain_ids(&config.rootfs.diff_ids);
        let mut layers = Vec::new();
        for (chain, diff_id) in chains.iter().zip(&config.rootfs.diff_ids) {
            let file = match self.layers.get(chain) {
                Some(layer) => layer.file.clone(),
                None => repair::layer(paths, quarantine, chain, diff_id)?,
            };
            link(paths, chain, file.link)?;
            layers.push(file);
        }
        for (chain, file) in chains.iter().zip(layers) {
            self.layers.entry(chain.clone()).or_insert(LayerState { file, users: 0 }).users += 1;
        }
        self.images.insert(id.clone(), StoredImage { record, config, chains });
        Ok(())
    }

    /// Removes what belongs to no image. Which layers an image has that cannot be read is not known, so that with one of
    /// those everything stays but work that was cut short.
    fn collect(&self, paths: &Paths) -> Result<(), ImageError> {
        let entries = |directory: &Path| -> Result<Vec<PathBuf>, ImageError> {
            let read = fs::read_dir(directory).map_err(ImageError::store(directory))?;
            Ok(read.filter_map(Result::ok).map(|entry| entry.path()).collect())
        };
        let layers: BTreeSet<PathBuf> = self.layers.keys().map(|chain| paths.layer(chain)).collect();
        let links: BTreeSet<PathBuf> =
            self.layers.values().map(|layer| paths.link(layer.file.link)).collect();
        let configs: BTreeSet<PathBuf> = self.images.keys().map(|id| paths.config(id)).collect();
        let debris = [
            (paths.temporary(), None),
            (paths.layers(), Some(&layers)),
            (paths.links(), Some(&links)),
            (paths.configs(), Some(&configs)),
        ];
        for (directory, wanted) in debris {
            if wanted.is_some() && !self.unreadable.is_empty() {
                continue;
            }
            for path in entries(&directory)? {
                if !wanted.is_some_and(|wanted| wanted.contains(&path)) {
                    tracing::info!(path = %path.display(), "Removing what an interrupted load left");
                    remove(&path).map_err(ImageError::store(&path))?;
                }
            }
        }
        Ok(())
    }

    /// Makes the current images and names the ones that the next start finds.
    pub(super) fn save(&self, paths: &Paths) -> Result<(), ImageError> {
        let file = StateFile {
            version: FORMAT,
            images: self
                .images
                .iter()
                .map(|(id, image)| (id.clone(), image.record.clone()))
                .chain(self.unreadable.clone())
                .collect(),
            names: self.names.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&file)
            .map_err(|source| ImageError::Damaged { path: paths.state(), source })?;
        write_bytes(&paths.state(), &bytes, Durability::Durable).map_err(ImageError::store(paths.state()))
    }

    /// The image as others see it.
    pub(super) fn image(&self, id: &ImageId) -> Option<Image> {
        let stored = self.images.get(id)?;
        let mut repo_tags = Vec::new();
        let mut repo_digests = Vec::new();
        for name in self.names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name) {
            if let Ok(reference) = Reference::parse(name) {
                let list = if reference.digest().is_some() { &mut repo_digests } else { &mut repo_tags };
                list.push(reference.familiar());
            }
        }
        let layer_sizes: Vec<u64> = stored
            .chains
            .iter()
            .map(|chain| self.layers.get(chain).map_or(0, |layer| layer.file.size))
            .collect();
        let config = stored.config.clone();
        Some(Image {
            id: id.clone(),
            repo_tags,
            repo_digests,
            created: config.created,
            size: layer_sizes.iter().sum(),
            architecture: config.architecture,
            variant: config.variant,
            os: config.os,
            author: config.author,
            comment: config.comment,
            config: config.config,
            diff_ids: config.rootfs.diff_ids,
            layer_sizes,
            history: config.history,
            last_tagged: stored.record.last_tagged,
            recovered: stored.record.recovered,
            parent: stored.record.step.as_ref().and_then(|step| step.parent.clone()),
            added: stored.record.added,
        })
    }

    /// Takes one user from each layer; those without any are forgotten and returned.
    pub(super) fn release(&mut self, chains: &[String]) -> Vec<(String, LayerFile)> {
        let mut unused = Vec::new();
        for chain in chains.iter().rev() {
            let Some(layer) = self.layers.get_mut(chain) else { continue };
            layer.users -= 1;
            // An image that cannot be read may need it.
            if layer.users == 0
                && self.unreadable.is_empty()
                && let Some(layer) = self.layers.remove(chain)
            {
                unused.push((chain.clone(), layer.file));
            }
        }
        unused
    }
}

/// What the state file says; `None` if there is none, or if it cannot be understood and was set aside.
fn read_state(paths: &Paths, quarantine: &Quarantine) -> Result<Option<StateFile>, ImageError> {
    let path = paths.state();
    match engine_store::read_versioned::<StateFile>(&path, FORMAT) {
        Ok(file) => Ok(file),
        Err(error @ (ReadError::Io { .. } | ReadError::Newer { .. })) => Err(error.into()),
        Err(error) => {
            quarantine.set_aside(&path, &chain(&error)).map_err(ImageError::store(&path))?;
            Ok(None)
        }
    }
}

/// A state made of what is there: every image whose configuration and layers are, without a name, as names are written
/// nowhere else. In a new store that is nothing.
fn found_state(paths: &Paths) -> Result<StateFile, ImageError> {
    let mut file = StateFile::default();
    let configs = paths.configs();
    for entry in fs::read_dir(&configs).map_err(ImageError::store(&configs))? {
        let path = entry.map_err(ImageError::store(&configs))?.path();
        let hex = path.file_stem().unwrap_or_default().to_string_lossy();
        // A load that was cut short leaves configurations without layers.
        let config = fs::read(&path).ok().and_then(|bytes| ConfigFile::parse(&bytes).ok());
        let is_whole = config.is_none_or(|config| {
            chain_ids(&config.rootfs.diff_ids).iter().all(|chain| paths.layer(chain).join("diff").is_dir())
        });
        if let Some(id) = ImageId::parse(&format!("sha256:{hex}")).filter(|_| is_whole) {
            file.images.insert(id, ImageRecord { recovered: true, ..ImageRecord::default() });
        }
    }
    Ok(file)
}

/// A file or a whole directory.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_image_specification() {
        let diff_ids: Vec<String> =
            ["a", "b", "c"].iter().map(|digit| format!("sha256:{}", digit.repeat(64))).collect();
        let chains = chain_ids(&diff_ids);
        assert_eq!(chains[0], diff_ids[0]);
        let second = Sha256::digest(format!("{} {}", diff_ids[0], diff_ids[1]));
        assert_eq!(chains[1], format!("sha256:{second:x}"));
        let third = Sha256::digest(format!("{} {}", chains[1], diff_ids[2]));
        assert_eq!(chains[2], format!("sha256:{third:x}"));
    }
}
