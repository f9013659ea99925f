//! Makes images here: a parent's layers with one more on top, brought in as the layers of an archive are.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use engine_model::wire::{HistoryEntry, ImageConfig};
use engine_model::{Changes, ImageId, NewImage, platform};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::compression::decompress;
use super::configuration::{ConfigFile, Incoming};
use super::error::ImageError;
use super::intake::{Intake, prepare};
use super::layer::{Unpacked, unpack};
use super::layout::LayerFile;
use super::reference::Reference;
use super::split::SplitWriter;
use super::state::{StepRecord, chain_ids};
use super::{Inner, not_found, upper};

/// What the layer on top is made of.
pub enum Layer<'a> {
    /// There is none.
    Nothing,
    /// What was changed on top of the parent. Where nothing was, there is no layer either.
    Changes(&'a Changes),
    /// A tar archive, plain or compressed.
    Archive(&'a mut (dyn Read + Send)),
}

impl std::fmt::Debug for Layer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Changes(_) => "Changes",
            Self::Archive(_) => "Archive",
        })
    }
}

/// The digest of a layer without entries: two blocks of nothing.
pub(super) fn empty_layer() -> String {
    format!("sha256:{:x}", Sha256::digest([0; 1024]))
}

pub(super) fn make(store: &Arc<Inner>, new: &NewImage, layer: Layer<'_>) -> Result<ImageId, ImageError> {
    let names = new.names.iter().map(|name| tag(name)).collect::<Result<Vec<_>, _>>()?;
    let mut intake = Intake::begin(store, "make-")?;
    let parent = match &new.parent {
        None => ConfigFile::default(),
        Some(id) => {
            let state = store.lock();
            let stored = state.images.get(id).ok_or_else(|| not_found(id.as_str()))?;
            stored.config.clone()
        }
    };
    let mut diff_ids = parent.rootfs.diff_ids.clone();
    // From here on nobody takes the parent's layers away.
    for chain in chain_ids(&diff_ids) {
        if !intake.has(&chain) {
            let gone = new.parent.as_ref().map_or("", ImageId::as_str);
            return Err(not_found(gone));
        }
    }
    let place = intake.directory().join("layer");
    let unpacked = match layer {
        Layer::Nothing => None,
        Layer::Changes(changes) => Some(from_changes(changes, &place)?),
        Layer::Archive(archive) => Some(from_archive(archive, intake.directory(), &place)?),
    };
    let unpacked = unpacked.filter(|unpacked| unpacked.diff_id != empty_layer());
    let is_empty = unpacked.is_none();
    if let Some(unpacked) = unpacked {
        diff_ids.push(unpacked.diff_id.clone());
        let chain = chain_ids(&diff_ids).pop().unwrap_or_default();
        if !intake.has(&chain) {
            let Unpacked { diff_id, size, tar_size, .. } = unpacked;
            intake.add(chain, place, LayerFile { diff_id, size, tar_size, link: 0 });
        }
    }
    let now = Timestamp::now();
    let mut history = parent.history.clone();
    history.push(HistoryEntry {
        created: Some(now),
        created_by: new.created_by.clone(),
        author: new.author.clone(),
        comment: new.comment.clone(),
        empty_layer: is_empty,
    });
    let config = describe(new, &parent, &diff_ids, &history, now);
    let config = serde_json::to_vec(&config)
        .map_err(|source| ImageError::Damaged { path: intake.directory().to_owned(), source })?;
    let image = Incoming::read(config, names)?;
    let id = image.id.clone();
    let step = new.step.as_ref().map(|step| StepRecord::new(new.parent.clone(), step));
    intake.publish_with(&[image], |state| {
        if let Some(stored) = state.images.get_mut(&id) {
            stored.record.step = step;
        }
    })?;
    Ok(id)
}

/// A name that an image can have.
fn tag(text: &str) -> Result<Reference, ImageError> {
    let name = Reference::parse(text)?;
    if name.digest().is_some() {
        return Err(ImageError::TagWithDigest);
    }
    Ok(name.with_default_tag())
}

/// Packs and unpacks side by side, so that a layer made here is in every way like one that was loaded.
pub(super) fn from_changes(changes: &Changes, place: &Path) -> Result<Unpacked, ImageError> {
    let diff = prepare(place)?;
    let failed = |source| ImageError::ReadChanges { path: changes.upper.clone(), source };
    let (stream, output) = io::pipe().map_err(failed)?;
    let (packed, unpacked) = std::thread::scope(|scope| {
        let packer = std::thread::Builder::new().name("layer".to_owned()).spawn_scoped(scope, move || {
            upper::pack(changes, io::BufWriter::with_capacity(64 * 1024, output))
        });
        let unpacked = unpack(stream, &diff, &place.join("split.gz"));
        let cut_short = || Err(io::Error::other("the work was cut short"));
        (packer.and_then(|packer| packer.join().unwrap_or_else(|_| cut_short())), unpacked)
    });
    // What broke the packing says more than what was missing then.
    match (packed, unpacked) {
        (Err(error), Err(unpacking)) if error.kind() == io::ErrorKind::BrokenPipe => Err(unpacking),
        (Err(error), _) => Err(failed(error)),
        (Ok(_), unpacked) => {
            let unpacked = unpacked?;
            if unpacked.is_lossy {
                return Err(ImageError::NotReproducible { diff_id: unpacked.diff_id });
            }
            Ok(unpacked)
        }
    }
}

fn from_archive(
    archive: &mut (dyn Read + Send),
    scratch: &Path,
    place: &Path,
) -> Result<Unpacked, ImageError> {
    let failed = |source| ImageError::ReadArchive { source };
    // It may have to be read twice.
    let spool = scratch.join("archive");
    let mut file = fs::File::create_new(&spool).map_err(ImageError::store(&spool))?;
    io::copy(archive, &mut file).map_err(failed)?;
    let open = || fs::File::open(&spool).map_err(ImageError::store(&spool));
    let diff = prepare(place)?;
    let split = place.join("split.gz");
    let unpacked = unpack(open()?, &diff, &split)?;
    if unpacked.is_lossy {
        let stream = decompress(open()?).map_err(failed)?;
        fs::remove_file(&split).map_err(ImageError::store(&split))?;
        let writer = SplitWriter::create(&split).map_err(ImageError::store(&split))?;
        writer.keep(stream, unpacked.size).map_err(ImageError::store(&split))?;
    }
    fs::remove_file(&spool).map_err(ImageError::store(&spool))?;
    Ok(unpacked)
}

/// The configuration as docker writes it.
pub(super) fn describe(
    new: &NewImage,
    parent: &ConfigFile,
    diff_ids: &[String],
    history: &[HistoryEntry],
    created: Timestamp,
) -> Value {
    let own =
        |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    let mut described = json!({
        "architecture": own(&new.architecture, &own(&parent.architecture, platform::architecture())),
        "config": describe_config(&new.config),
        "created": created,
        "history": history.iter().map(describe_step).collect::<Vec<_>>(),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    // The author of a parent is that of its children as well.
    for (key, text) in [
        ("author", own(&new.author, &parent.author)),
        ("comment", new.comment.clone()),
        ("variant", own(&new.variant, &parent.variant)),
    ] {
        if !text.is_empty() {
            described[key] = json!(text);
        }
    }
    described
}

fn describe_step(step: &HistoryEntry) -> Value {
    let mut described = Map::new();
    described.insert("created".to_owned(), json!(step.created));
    for (key, text) in
        [("created_by", &step.created_by), ("author", &step.author), ("comment", &step.comment)]
    {
        if !text.is_empty() {
            described.insert(key.to_owned(), json!(text));
        }
    }
    if step.empty_layer {
        described.insert("empty_layer".to_owned(), json!(true));
    }
    Value::Object(described)
}

/// Without what says nothing.
fn describe_config(config: &ImageConfig) -> Value {
    let all = serde_json::to_value(config).unwrap_or_default();
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let mut kept = Map::new();
    for (key, value) in all.as_object().into_iter().flatten() {
        if !(says_nothing(value) || key == "Env" && config.env.is_empty()) {
            kept.insert(key.clone(), value.clone());
        }
    }
    Value::Object(kept)
}
