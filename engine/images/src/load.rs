//! Brings in the images of an archive: spool it, unpack the layers that are new, then show everything at once.

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;

use engine_model::{LoadEvent, Loaded};

use super::Inner;
use super::archive::{Planned, plan};
use super::configuration::Incoming;
use super::error::ImageError;
use super::intake::{Intake, unpack_layer};
use super::layout::LayerFile;
use super::spool::{Counted, Spool};
use super::state::chain_ids;

pub(super) fn load(
    store: &Arc<Inner>,
    reader: impl Read,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Vec<Loaded>, ImageError> {
    let mut intake = Intake::begin(store, "load-")?;
    let parts = intake.directory().join("parts");
    fs::create_dir(&parts).map_err(ImageError::store(&parts))?;
    let spool = Spool::read(reader, &parts, progress)?;
    let planned = plan(&spool)?;
    for Planned { image, layers } in &planned {
        let diff_ids = &image.parsed.rootfs.diff_ids;
        for ((chain, part), diff_id) in chain_ids(diff_ids).into_iter().zip(layers).zip(diff_ids) {
            if !intake.has(&chain) {
                let place = intake.place(&chain);
                let layer = fresh_layer(&spool, part, diff_id, &place, progress)?;
                intake.add(chain, place, layer);
            }
        }
    }
    let images: Vec<Incoming> = planned.into_iter().map(|planned| planned.image).collect();
    intake.publish(&images)
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
    unpack_layer(source, || spool.open(part).map_err(io::Error::other), part, diff_id, directory)
}
