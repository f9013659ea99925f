//! The image store: content addressed configurations and unpacked layers, shared between images.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine_model::{Image, ImageId, ImageUser, KeptStep, LoadEvent, Loaded, NewImage, Removed};
use engine_store::Quarantine;
use jiff::Timestamp;
use tokio::sync::Semaphore;

mod archive;
mod compression;
mod configuration;
mod distribution;
mod download;
mod error;
mod fields;
#[cfg(test)]
mod fuzz;
mod gzip;
mod history;
mod intake;
mod layer;
mod layout;
mod load;
mod making;
mod pull;
mod push;
mod reference;
mod remove;
mod repair;
mod save;
mod sparse;
mod split;
mod spool;
mod squash;
mod state;
mod steps;
mod tar_reader;
#[cfg(test)]
mod tests;
mod upper;
pub use compression::decompress;
use download::Downloads;
pub use error::ImageError;
use layout::Paths;
pub use making::Layer;
pub use pull::{Pulled, Tell};
pub use push::Pushed;
pub use reference::Reference;
use state::State;
pub use upper::pack_folder;

/// All images of this engine. Cheap to clone; every call blocks.
#[derive(Clone, Debug)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

/// A program that was just being begun, by an engine that was killed meanwhile for instance, holds a copy of the lock until
/// it is that program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What a pull that failed has left is of use to the next one, if that comes soon.
pub const OLD_DOWNLOAD: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct Inner {
    paths: Paths,
    state: Mutex<State>,
    quarantine: Quarantine,
    downloads: Downloads,
    /// How many layers of pulls are unpacked at once.
    unpacking: Semaphore,
    /// Locked as long as the store is open.
    _lock: File,
}

impl ImageStore {
    /// Opens the store in `root`, making it if there is none, and removes what an interrupted load left.
    pub fn open(root: &Path, quarantine: &Quarantine) -> Result<Self, ImageError> {
        fs::create_dir_all(root).map_err(ImageError::store(root))?;
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(ImageError::store(&lock_path))?;
        let end = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(ImageError::Locked { path: root.to_owned() });
                }
                Err(fs::TryLockError::Error(source)) => {
                    return Err(ImageError::Store { path: lock_path, source });
                }
            }
        }
        let paths = Paths(root.to_owned());
        let state = Mutex::new(State::open(&paths, quarantine)?);
        let quarantine = quarantine.clone();
        let downloads = paths.downloads();
        fs::create_dir_all(&downloads).map_err(ImageError::store(&downloads))?;
        let downloads = Downloads::new(downloads);
        downloads.clear(OLD_DOWNLOAD);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let unpacking = Semaphore::new(cores);
        Ok(Self { inner: Arc::new(Inner { paths, state, quarantine, downloads, unpacking, _lock: lock }) })
    }

    /// Brings in all images of an archive, as `docker save` or an OCI layout writes them, plain or compressed.
    ///
    /// They appear all at once at the end; a load that fails or is killed leaves nothing.
    pub fn load(
        &self,
        reader: impl Read,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>, ImageError> {
        load::load(&self.inner, reader, progress)
    }

    /// How many layers are fetched at once, of all pulls together. Of pulls that have begun, it may be more for a while.
    pub fn limit_downloads(&self, at_once: usize) {
        self.inner.downloads.limit(at_once);
    }

    /// Removes what pulls that failed have left, if nothing happened to it for `age`. The bytes that are free then are
    /// returned.
    pub fn clear_downloads(&self, age: Duration) -> u64 {
        self.inner.downloads.clear(age)
    }

    /// Makes an image here. Its layer and its names appear all at once at the end; an attempt that fails or is killed leaves
    /// nothing.
    pub fn make(&self, new: &NewImage, layer: Layer<'_>) -> Result<ImageId, ImageError> {
        making::make(&self.inner, new, layer)
    }

    /// Makes an image of a base's layers, or of none, and one more of all that an image has besides. That stays as it is.
    pub fn squash(&self, id: &ImageId, base: Option<&ImageId>) -> Result<ImageId, ImageError> {
        squash::squash(&self.inner, id, base)
    }

    /// What one of `sources` was on its way after the step by which `new` is to be made, as its history tells, or is.
    pub fn find_in_history(
        &self,
        sources: &[ImageId],
        new: &NewImage,
    ) -> Result<Option<ImageId>, ImageError> {
        history::find(&self.inner, sources, new)
    }

    /// The image that a build has made by doing the same to the same parent, or to nothing.
    pub fn find_step(&self, parent: Option<&ImageId>, key: &str) -> Option<Image> {
        let state = self.inner.lock();
        steps::find(&state, parent, key).and_then(|id| state.image(&id))
    }

    /// Notes that a build has used these images, and that `result` is what it was for: it is shown, with a name or without.
    pub fn finish_build(&self, used: &BTreeSet<ImageId>, result: Option<&ImageId>) -> Result<(), ImageError> {
        steps::finish(&self.inner, used, result)
    }

    /// Steps that are kept for the next build and that [`Self::list`] leaves out.
    pub fn steps(&self) -> Vec<KeptStep> {
        steps::list(&self.inner.lock())
    }

    /// Forgets those of `unneeded` that are still nothing but steps; they are returned.
    pub fn forget_steps(&self, unneeded: &BTreeSet<ImageId>) -> Result<Vec<ImageId>, ImageError> {
        steps::forget(&self.inner, unneeded)
    }

    /// All images, newest first, without the steps of builds that nobody has given a name.
    pub fn list(&self) -> Vec<Image> {
        self.list_with_steps(false)
    }

    /// The same, perhaps with the steps of builds.
    pub fn list_with_steps(&self, with_steps: bool) -> Vec<Image> {
        let state = self.inner.lock();
        let visible = state.images.iter().filter(|(id, stored)| {
            !stored.record.hidden && (with_steps || !steps::is_intermediate(&state, id, stored))
        });
        let mut images: Vec<Image> = visible.filter_map(|(id, _)| state.image(id)).collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        images
    }

    /// An image by name, id or the beginning of an id.
    pub fn find(&self, reference: &str) -> Result<Image, ImageError> {
        let state = self.inner.lock();
        if unreadable(&state, reference).is_some() {
            return Err(ImageError::Unreadable { reference: reference.to_owned() });
        }
        let id = resolve(&state, reference)?;
        state.image(&id).ok_or_else(|| not_found(reference))
    }

    /// The id of an image by name, id or the beginning of an id, even if the image cannot be read.
    pub fn id(&self, reference: &str) -> Result<ImageId, ImageError> {
        let state = self.inner.lock();
        unreadable(&state, reference).map_or_else(|| resolve(&state, reference), Ok)
    }

    /// Gives `source` another name; an image that had it loses it.
    pub fn tag(&self, source: &str, repository_and_tag: &str) -> Result<(), ImageError> {
        let name = Reference::parse(repository_and_tag)?;
        if name.digest().is_some() {
            return Err(ImageError::TagWithDigest);
        }
        let name = name.with_default_tag();
        let mut state = self.inner.lock();
        let id = resolve(&state, source)?;
        let mut changed = state.clone();
        changed.names.insert(name.to_string(), id.clone());
        if let Some(stored) = changed.images.get_mut(&id) {
            stored.record.last_tagged = Some(Timestamp::now());
            stored.record.recovered = false;
        }
        changed.save(&self.inner.paths)?;
        *state = changed;
        Ok(())
    }

    /// Removes a name, or an image with all its names, in docker's way: `users` names the containers that need the image. It
    /// is asked while nothing changes here: whoever is its user and finds the image here afterwards, keeps it.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
    ) -> Result<Vec<Removed>, ImageError> {
        remove::remove(&self.inner, reference, force, users)
    }

    /// Forgets images that were removed by force, now that no container in `needed` has them.
    pub fn collect_hidden(&self, needed: &BTreeSet<ImageId>) -> Result<(), ImageError> {
        remove::collect_hidden(&self.inner, needed)
    }

    /// The directories for overlayfs, top layer first; short paths, as mount options have little room.
    pub fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, ImageError> {
        let state = self.inner.lock();
        let stored = state.images.get(id).ok_or_else(|| not_found(id.as_str()))?;
        let layers = stored.chains.iter().rev().filter_map(|chain| state.layers.get(chain));
        Ok(layers.map(|layer| self.inner.paths.link(layer.file.link)).collect())
    }

    /// Bytes of all layers, each counted once.
    pub fn layers_size(&self) -> u64 {
        self.inner.lock().layers.values().map(|layer| layer.file.size).sum()
    }

    /// Of the bytes of an image, those that another image has as well.
    pub fn shared_size(&self, id: &ImageId) -> u64 {
        let state = self.inner.lock();
        let Some(stored) = state.images.get(id) else { return 0 };
        let layers = stored.chains.iter().filter_map(|chain| state.layers.get(chain));
        layers.filter(|layer| layer.users > 1).map(|layer| layer.file.size).sum()
    }

    /// Those that have a tag in this repository, if it is named without one; each once.
    pub fn tagged(&self, repository: &str) -> BTreeSet<ImageId> {
        save::tagged(&self.inner.lock(), repository).into_iter().map(|(id, _)| id).collect()
    }

    /// Writes images as `docker save` does. Names in `references` keep their names, ids do not.
    pub fn save(&self, references: &[String], output: &mut dyn std::io::Write) -> Result<(), ImageError> {
        save::save(&self.inner, references, output)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The image that a name, an id or the beginning of an id means.
fn resolve(state: &State, text: &str) -> Result<ImageId, ImageError> {
    let visible = |id: &&ImageId| state.images.get(*id).is_some_and(|stored| !stored.record.hidden);
    if let Some(id) = ImageId::parse(text).or_else(|| ImageId::parse(&format!("sha256:{text}"))) {
        return Some(&id).filter(visible).cloned().ok_or_else(|| not_found(text));
    }
    let parsed = Reference::parse(text);
    if let Ok(name) = &parsed {
        let mut name = name.clone().with_default_tag();
        if let Some(id) = state.names.get(&name.to_string()).filter(visible) {
            return Ok(id.clone());
        }
        // The digest is what counts in `name:tag@digest`.
        if name.digest().is_some() {
            name = name.without_tag();
            return state
                .names
                .get(&name.to_string())
                .filter(visible)
                .cloned()
                .ok_or_else(|| not_found(text));
        }
    }
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    if !prefix.is_empty() && reference::is_hexadecimal(prefix) {
        let mut found = state.images.keys().filter(visible).filter(|id| id.hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(id), None) => return Ok(id.clone()),
            (Some(_), Some(_)) => return Err(ImageError::Ambiguous { prefix: text.to_owned() }),
            _ => {}
        }
    }
    match parsed {
        Ok(_) => Err(not_found(text)),
        Err(error) => Err(error),
    }
}

/// The image that cannot be read and that a name or a whole id means.
fn unreadable(state: &State, text: &str) -> Option<ImageId> {
    let by_name = || {
        let name = Reference::parse(text).ok()?.with_default_tag();
        state.names.get(&name.to_string()).cloned()
    };
    ImageId::parse(text)
        .or_else(|| ImageId::parse(&format!("sha256:{text}")))
        .or_else(by_name)
        .filter(|id| state.unreadable.contains_key(id))
}

/// In docker's words, which add `latest` to a bare name.
fn not_found(text: &str) -> ImageError {
    let reference = match Reference::parse(text) {
        Ok(name) => name.with_default_tag().familiar(),
        Err(_) => text.to_owned(),
    };
    ImageError::NotFound { reference }
}
