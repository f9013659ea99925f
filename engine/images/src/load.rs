//! Brings images in: spool the archive, unpack the layers that are new, then show everything at once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;

use engine_model::{LoadEvent, Loaded};
use engine_store::{Durability, sync_directory, write_bytes};
use jiff::Timestamp;

use super::Inner;
use super::archive::{Planned, plan};
use super::compression::decompress;
use super::error::ImageError;
use super::layer::unpack;
use super::layout::{self, LayerFile};
use super::split::SplitWriter;
use super::spool::{Counted, Spool};
use super::state::{ImageRecord, LayerState, State, StoredImage, chain_ids};

/// Layers of a load: those that were there are held, those that were not are unpacked beside.
pub(super) struct Work<'a> {
    store: &'a Inner,
    held: Vec<String>,
    /// Chain id to the directory with `diff`, `split.gz` and `layer.json`.
    pub(super) fresh: HashMap<String, (PathBuf, LayerFile)>,
}

/// Lets go of what was held and removes layers that an image removal left to this load.
impl Drop for Work<'_> {
    fn drop(&mut self) {
        let unused = self.store.lock().release(&self.held);
        super::remove::discard(self.store, &unused);
    }
}

pub(super) fn load(
    store: &Inner,
    reader: impl Read,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Vec<Loaded>, ImageError> {
    let temporary = store.paths.temporary();
    let directory = tempfile::Builder::new()
        .prefix("load-")
        .tempdir_in(&temporary)
        .map_err(ImageError::store(&temporary))?;
    let parts = directory.path().join("parts");
    fs::create_dir(&parts).map_err(ImageError::store(&parts))?;
    let spool = Spool::read(reader, &parts, progress)?;
    let planned = plan(&spool)?;
    let mut work = Work::new(store);
    for image in &planned {
        let chains = chain_ids(&image.parsed.rootfs.diff_ids);
        for ((chain, part), diff_id) in chains.iter().zip(&image.layers).zip(&image.parsed.rootfs.diff_ids) {
            if !work.has(chain) {
                let layer_directory = directory.path().join(format!("layer-{}", work.fresh.len()));
                let layer = fresh_layer(&spool, part, diff_id, &layer_directory, progress)?;
                work.fresh.insert(chain.clone(), (layer_directory, layer));
            }
        }
    }
    // Layers have to be on disk before the state names them.
    let all = File::open(directory.path()).map_err(ImageError::store(directory.path()))?;
    rustix::fs::syncfs(&all).map_err(|source| ImageError::store(directory.path())(source.into()))?;
    publish(&mut work, &planned)
}

impl<'a> Work<'a> {
    pub(super) fn new(store: &'a Inner) -> Self {
        Self { store, held: Vec::new(), fresh: HashMap::new() }
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
}

fn fresh_layer(
    spool: &Spool,
    part: &str,
    diff_id: &str,
    directory: &std::path::Path,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<LayerFile, ImageError> {
    let file = spool.open(part)?;
    let total = file.metadata().map_err(|source| ImageError::ReadArchive { source })?.len();
    let id: String = diff_id.trim_start_matches("sha256:").chars().take(12).collect();
    let mut tell = |current| progress(LoadEvent::Layer { id: id.clone(), current, total });
    let source = Counted { source: file, done: 0, told: 0, tell: &mut tell };
    let diff = directory.join("diff");
    fs::create_dir(directory).map_err(ImageError::store(directory))?;
    fs::DirBuilder::new().mode(0o755).create(&diff).map_err(ImageError::store(&diff))?;
    fs::set_permissions(&diff, fs::Permissions::from_mode(0o755)).map_err(ImageError::store(&diff))?;
    let unpacked = unpack(source, &diff, &directory.join("split.gz"))?;
    if unpacked.diff_id != diff_id {
        return Err(ImageError::invalid(format!(
            "the layer `{part}` has the digest `{}`, the configuration says `{diff_id}`",
            unpacked.diff_id
        )));
    }
    if unpacked.is_lossy {
        let split = directory.join("split.gz");
        let failed = |source| ImageError::ReadArchive { source };
        let stream = decompress(spool.open(part)?).map_err(failed)?;
        fs::remove_file(&split).map_err(ImageError::store(&split))?;
        let writer = SplitWriter::create(&split).map_err(ImageError::store(&split))?;
        writer.keep(stream, unpacked.size).map_err(ImageError::store(&split))?;
    }
    // The number of the short name is given when the layer moves into the store.
    Ok(LayerFile { diff_id: unpacked.diff_id, size: unpacked.size, tar_size: unpacked.tar_size, link: 0 })
}

fn publish(work: &mut Work<'_>, planned: &[Planned]) -> Result<Vec<Loaded>, ImageError> {
    publish_with(work, planned, |_| {})
}

/// Moves layers and configurations to their places, then writes the state, which makes them images. What else is to be in it
/// comes with them, or not at all.
pub(super) fn publish_with(
    work: &mut Work<'_>,
    planned: &[Planned],
    besides: impl FnOnce(&mut State),
) -> Result<Vec<Loaded>, ImageError> {
    let paths = &work.store.paths;
    let mut current = work.store.lock();
    let mut changed: State = current.clone();
    for (chain, (directory, layer)) in work.fresh.drain() {
        // Another load may have been faster.
        if changed.layers.contains_key(&chain) {
            continue;
        }
        let number = layout::free_link(paths)?;
        let file = LayerFile { link: number, ..layer };
        let place = paths.layer(&chain);
        if place.exists() {
            if changed.unreadable.is_empty() {
                super::remove::discard_directory(work.store, &place);
            } else {
                // Containers may be using it.
                let why = "an image that needs it could not be read";
                work.store.quarantine.set_aside(&place, why).map_err(ImageError::store(&place))?;
            }
        }
        let description = directory.join("layer.json");
        let bytes = serde_json::to_vec(&file)
            .map_err(|source| ImageError::Damaged { path: description.clone(), source })?;
        write_bytes(&description, &bytes, Durability::Durable).map_err(ImageError::store(&description))?;
        fs::rename(&directory, &place).map_err(ImageError::store(&place))?;
        layout::link(paths, &chain, number)?;
        changed.layers.insert(chain, LayerState { file, users: 0 });
    }
    let layers = paths.layers();
    sync_directory(&layers).map_err(ImageError::store(&layers))?;
    let mut loaded: Vec<Loaded> = Vec::new();
    for image in planned {
        if let Some(stored) = changed.images.get_mut(&image.id) {
            stored.record.hidden = false;
            stored.record.added = Some(Timestamp::now());
        } else {
            let path = paths.config(&image.id);
            write_bytes(&path, &image.config, Durability::Durable).map_err(ImageError::store(&path))?;
            let chains = chain_ids(&image.parsed.rootfs.diff_ids);
            for chain in &chains {
                if let Some(layer) = changed.layers.get_mut(chain) {
                    layer.users += 1;
                }
            }
            let (config, record) = (
                image.parsed.clone(),
                ImageRecord { added: Some(Timestamp::now()), ..ImageRecord::default() },
            );
            changed.images.insert(image.id.clone(), StoredImage { record, config, chains });
        }
        for tag in &image.tags {
            changed.names.insert(tag.to_string(), image.id.clone());
            if let Some(stored) = changed.images.get_mut(&image.id) {
                stored.record.last_tagged = Some(Timestamp::now());
                stored.record.recovered = false;
            }
        }
        let tags = image.tags.iter().map(super::Reference::familiar).collect();
        loaded.push(Loaded { id: image.id.clone(), tags });
    }
    for image in &loaded {
        changed.unreadable.remove(&image.id);
    }
    besides(&mut changed);
    changed.save(paths)?;
    *current = changed;
    Ok(loaded)
}
