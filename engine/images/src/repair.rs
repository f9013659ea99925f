//! The description of a layer, `layer.json`, and how it is made again when it cannot be read.
//!
//! Everything in it is written elsewhere, too: the digest in the image's configuration, the short name in `l`, and the
//! sizes in the layer itself, whose content the digest vouches for.

use std::fs;
use std::io::{self, Write};

use engine_model::chain;
use engine_store::{Durability, Quarantine, ReadError};

use crate::error::ImageError;
use crate::layout::{LayerFile, Paths, free_link, link_target};
use crate::split::{Stored, replay};

/// What is written about a layer. If it cannot be read it is set aside and made again.
pub(crate) fn layer(
    paths: &Paths,
    quarantine: &Quarantine,
    chain_id: &str,
    diff_id: &str,
) -> Result<LayerFile, ImageError> {
    let path = paths.layer(chain_id).join("layer.json");
    let why = match engine_store::read::<LayerFile>(&path) {
        Ok(Some(file)) => return Ok(file),
        Err(error @ ReadError::Io { .. }) => return Err(error.into()),
        Ok(None) => "it is not there".to_owned(),
        Err(error) => {
            let why = chain(&error);
            // A directory that is not there is not made here.
            quarantine.set_aside(&path, &why).map_err(ImageError::store(&path))?;
            why
        }
    };
    let file = anew(paths, chain_id, diff_id)?;
    engine_store::write(&path, &file, Durability::Durable).map_err(ImageError::store(&path))?;
    tracing::warn!(layer = diff_id, why, "The description of a layer could not be read and was made again");
    Ok(file)
}

fn anew(paths: &Paths, chain_id: &str, diff_id: &str) -> Result<LayerFile, ImageError> {
    let directory = paths.layer(chain_id);
    let stored = Stored { directory: directory.join("diff"), split: directory.join("split.gz") };
    let mut length = Counter(0);
    let written = replay(&stored, &mut length).map_err(ImageError::store(&directory))?;
    if written.digest != diff_id {
        return Err(ImageError::NotReproducible { diff_id: diff_id.to_owned() });
    }
    let link = match own_link(paths, chain_id) {
        Some(number) => number,
        None => free_link(paths)?,
    };
    Ok(LayerFile { diff_id: diff_id.to_owned(), size: written.content, tar_size: length.0, link })
}

/// The number of the short name that leads to a layer.
fn own_link(paths: &Paths, chain_id: &str) -> Option<u64> {
    let wanted = link_target(chain_id);
    fs::read_dir(paths.links()).ok()?.flatten().find_map(|entry| {
        let leads_there = fs::read_link(entry.path()).is_ok_and(|target| target == wanted);
        leads_there.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// Counts bytes and forgets them.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
