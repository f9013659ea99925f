//! Layers and images on their way into the store: what was there is held, what is new is unpacked beside it and shown at once.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_model::Loaded;
use engine_store::{Durability, sync_directory, write_bytes};
use jiff::Timestamp;
use tempfile::TempDir;

use super::Inner;
use super::compression::decompress;
use super::configuration::Incoming;
use super::error::ImageError;
use super::layer::unpack;
use super::layout::{self, LayerFile};
use super::reference::Reference;
use super::split::SplitWriter;
use super::state::{ImageRecord, LayerState, State, StoredImage, chain_ids};

/// Work in progress, in a directory of its own.
pub(super) struct Intake {
    store: Arc<Inner>,
    /// Goes when nobody works in it any more.
    directory: Arc<TempDir>,
    held: Vec<String>,
    /// Chain id to the directory with `diff`, `split.gz` and `layer.json`.
    fresh: HashMap<String, (PathBuf, LayerFile)>,
}

/// Lets go of what was held and removes layers that an image removal left to this work.
impl Drop for Intake {
    fn drop(&mut self) {
        let unused = self.store.lock().release(&self.held);
        super::remove::discard(&self.store, &unused);
    }
}

impl Intake {
    /// `what` is the beginning of the directory's name.
    pub(super) fn begin(store: &Arc<Inner>, what: &str) -> Result<Self, ImageError> {
        let temporary = store.paths.temporary();
        let directory = tempfile::Builder::new()
            .prefix(what)
            .tempdir_in(&temporary)
            .map_err(ImageError::store(&temporary))?;
        Ok(Self {
            store: Arc::clone(store),
            directory: Arc::new(directory),
            held: Vec::new(),
            fresh: HashMap::new(),
        })
    }

    /// Where work in progress lies; it goes with the intake.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The same, for work that may outlive the intake.
    pub(super) fn keep_directory(&self) -> Arc<TempDir> {
        Arc::clone(&self.directory)
    }

    /// Whether nothing has to be unpacked for this chain id; from then on it stays.
    pub(super) fn has(&mut self, chain: &str) -> bool {
        if self.fresh.contains_key(chain) {
            return true;
        }
        let mut state = self.store.lock();
        let Some(layer) = state.layers.get_mut(chain) else { return false };
        layer.users += 1;
        self.held.push(chain.to_owned());
        true
    }

    /// A directory for one more layer, for [`unpack_layer`].
    pub(super) fn place(&self, chain: &str) -> PathBuf {
        self.directory().join(format!("layer-{}", chain.trim_start_matches("sha256:")))
    }

    /// Takes in a layer that was unpacked in `place`, within the directory of the intake.
    pub(super) fn add(&mut self, chain: String, place: PathBuf, layer: LayerFile) {
        self.fresh.insert(chain, (place, layer));
    }

    /// Moves layers and configurations to their places, then writes the state, which makes them images.
    pub(super) fn publish(self, images: &[Incoming]) -> Result<Vec<Loaded>, ImageError> {
        self.publish_with(images, |_| {})
    }

    /// The same. What else is to be in the state comes with them, or not at all.
    pub(super) fn publish_with(
        mut self,
        images: &[Incoming],
        besides: impl FnOnce(&mut State),
    ) -> Result<Vec<Loaded>, ImageError> {
        // Layers have to be on disk before the state names them.
        let all = File::open(self.directory()).map_err(ImageError::store(self.directory()))?;
        rustix::fs::syncfs(&all).map_err(|source| ImageError::store(self.directory())(source.into()))?;
        let store = Arc::clone(&self.store);
        let paths = &store.paths;
        let mut current = store.lock();
        let mut changed: State = current.clone();
        for (chain, (directory, layer)) in self.fresh.drain() {
            // Another intake may have been faster.
            if !changed.layers.contains_key(&chain) {
                let file = publish_layer(&store, &changed, &chain, &directory, layer)?;
                changed.layers.insert(chain, LayerState { file, users: 0 });
            }
        }
        let layers = paths.layers();
        sync_directory(&layers).map_err(ImageError::store(&layers))?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for image in images {
            add_image(&store, &mut changed, image)?;
            let tags = image.names.iter().map(Reference::familiar).collect();
            loaded.push(Loaded { id: image.id.clone(), tags });
        }
        for image in &loaded {
            changed.unreadable.remove(&image.id);
        }
        besides(&mut changed);
        changed.save(paths)?;
        *current = changed;
        // Letting go of what was held takes the lock.
        drop(current);
        Ok(loaded)
    }
}

/// Moves a fresh layer to its place in the store.
fn publish_layer(
    store: &Inner,
    state: &State,
    chain: &str,
    directory: &Path,
    layer: LayerFile,
) -> Result<LayerFile, ImageError> {
    let paths = &store.paths;
    let number = layout::free_link(paths)?;
    let file = LayerFile { link: number, ..layer };
    let place = paths.layer(chain);
    if place.exists() {
        if state.unreadable.is_empty() {
            super::remove::discard_directory(store, &place);
        } else {
            // Containers may be using it.
            let why = "an image that needs it could not be read";
            store.quarantine.set_aside(&place, why).map_err(ImageError::store(&place))?;
        }
    }
    let description = directory.join("layer.json");
    let bytes = serde_json::to_vec(&file)
        .map_err(|source| ImageError::Damaged { path: description.clone(), source })?;
    write_bytes(&description, &bytes, Durability::Durable).map_err(ImageError::store(&description))?;
    fs::rename(directory, &place).map_err(ImageError::store(&place))?;
    layout::link(paths, chain, number)?;
    Ok(file)
}

/// Makes an image of layers that are there.
fn add_image(store: &Inner, changed: &mut State, image: &Incoming) -> Result<(), ImageError> {
    let now = Timestamp::now();
    if let Some(stored) = changed.images.get_mut(&image.id) {
        stored.record.hidden = false;
        stored.record.added = Some(now);
    } else {
        let path = store.paths.config(&image.id);
        write_bytes(&path, &image.config, Durability::Durable).map_err(ImageError::store(&path))?;
        let chains = chain_ids(&image.parsed.rootfs.diff_ids);
        for chain in &chains {
            if let Some(layer) = changed.layers.get_mut(chain) {
                layer.users += 1;
            }
        }
        let record = ImageRecord { added: Some(now), ..ImageRecord::default() };
        let stored = StoredImage { record, config: image.parsed.clone(), chains };
        changed.images.insert(image.id.clone(), stored);
    }
    for name in &image.names {
        changed.names.insert(name.to_string(), image.id.clone());
        if let Some(stored) = changed.images.get_mut(&image.id) {
            stored.record.last_tagged = Some(now);
            stored.record.recovered = false;
        }
    }
    Ok(())
}

/// Makes the directory of a layer, and `diff` in it.
pub(super) fn prepare(directory: &Path) -> Result<PathBuf, ImageError> {
    let diff = directory.join("diff");
    fs::create_dir(directory).map_err(ImageError::store(directory))?;
    DirBuilder::new().mode(0o755).create(&diff).map_err(ImageError::store(&diff))?;
    fs::set_permissions(&diff, Permissions::from_mode(0o755)).map_err(ImageError::store(&diff))?;
    Ok(diff)
}

/// Unpacks a layer, plain or compressed, into a new directory: `diff`, and `split.gz` from which its stream can be written
/// again. `again` opens the same stream a second time, for one that files alone do not tell. `what` names it in messages.
pub(super) fn unpack_layer<R: Read>(
    stream: impl Read,
    again: impl FnOnce() -> io::Result<R>,
    what: &str,
    diff_id: &str,
    directory: &Path,
) -> Result<LayerFile, ImageError> {
    let failed = |source| ImageError::ReadArchive { source };
    let diff = prepare(directory)?;
    let split = directory.join("split.gz");
    let unpacked = unpack(stream, &diff, &split)?;
    if unpacked.diff_id != diff_id {
        return Err(ImageError::invalid(format!(
            "the layer `{what}` has the digest `{}`, the configuration says `{diff_id}`",
            unpacked.diff_id
        )));
    }
    if unpacked.is_lossy {
        let stream = decompress(again().map_err(failed)?).map_err(failed)?;
        fs::remove_file(&split).map_err(ImageError::store(&split))?;
        let writer = SplitWriter::create(&split).map_err(ImageError::store(&split))?;
        writer.keep(stream, unpacked.size).map_err(ImageError::store(&split))?;
    }
    // The number of the short name is given when the layer moves into the store.
    Ok(LayerFile { diff_id: unpacked.diff_id, size: unpacked.size, tar_size: unpacked.tar_size, link: 0 })
}
