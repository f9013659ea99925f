//! Lays an archive of images down as plain numbered files, so that its parts can be read in any order.
//!
//! Names in the archive are only keys of a map; no path is ever made of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use engine_model::LoadEvent;

use super::compression::decompress;
use super::error::ImageError;
use super::layer::components;
use super::tar_reader::{Kind, TarReader};

const MOST_ENTRIES: usize = 65_536;
/// Links to links; a real archive has one step.
const MOST_LINKS: usize = 8;
/// A file of the archive may be this many times as large as what the archive holds of it, and as many bytes larger.
const MOST_EXPANSION: u64 = 16;
const MOST_HOLES: u64 = 1 << 30;
const PROGRESS_STEP: u64 = 4 << 20;

enum Spooled {
    File(PathBuf),
    Link(String),
}

/// The parts of an archive by name.
pub(super) struct Spool {
    parts: BTreeMap<String, Spooled>,
}

impl Spool {
    /// Reads the whole archive into files in `directory`.
    pub(super) fn read(
        source: impl Read,
        directory: &Path,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Self, ImageError> {
        let failed = |source| ImageError::ReadArchive { source };
        let mut archive = TarReader::new(decompress(source).map_err(failed)?, |_: &[u8]| Ok(()));
        let mut parts = BTreeMap::new();
        let (mut bytes, mut told) = (0, 0);
        let mut buffer = vec![0; 128 * 1024];
        while let Some(entry) = archive.next_entry().map_err(failed)? {
            if parts.len() >= MOST_ENTRIES {
                return Err(ImageError::invalid(format!("it has more than {MOST_ENTRIES} entries")));
            }
            let name = normal_name(&entry.path)?;
            let spooled = match entry.kind {
                Kind::File => {
                    let path = directory.join(parts.len().to_string());
                    let mut file = File::create(&path).map_err(ImageError::store(&path))?;
                    if let Some(map) = &entry.holes {
                        // Whoever reads it reads every hole: a few bytes must not become a day's work.
                        if map.size > entry.size.saturating_mul(MOST_EXPANSION).saturating_add(MOST_HOLES) {
                            return Err(ImageError::invalid(format!(
                                "`{name}` is to have {} bytes, nearly all of them holes",
                                map.size
                            )));
                        }
                        entry.write(&mut archive, &mut file).map_err(failed)?;
                    }
                    while archive.remaining() > 0 {
                        let read = archive.read(&mut buffer).map_err(failed)?;
                        file.write_all(&buffer[..read]).map_err(ImageError::store(&path))?;
                        bytes += read as u64;
                        if bytes - told >= PROGRESS_STEP {
                            told = bytes;
                            progress(LoadEvent::Read { bytes });
                        }
                    }
                    Spooled::File(path)
                }
                Kind::HardLink => Spooled::Link(normal_name(&entry.link)?),
                Kind::SymbolicLink => {
                    let mut target = entry.path.clone();
                    target.truncate(target.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1));
                    if entry.link.starts_with(b"/") {
                        return Err(ImageError::invalid(format!("the link `{name}` leads out of it")));
                    }
                    target.extend_from_slice(&entry.link);
                    Spooled::Link(normal_name(&target)?)
                }
                Kind::Directory => continue,
                Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo => {
                    return Err(ImageError::invalid(format!("`{name}` is neither a file nor a link")));
                }
            };
            parts.insert(name, spooled);
        }
        Ok(Self { parts })
    }

    #[cfg(test)]
    pub(super) fn of(parts: &[(&str, &Path)]) -> Self {
        let part = |(name, path): &(&str, &Path)| ((*name).to_owned(), Spooled::File(path.to_path_buf()));
        Self { parts: parts.iter().map(part).collect() }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Opens one part.
    pub(super) fn open(&self, name: &str) -> Result<File, ImageError> {
        let Some(path) = self.find(name) else {
            return Err(ImageError::invalid(format!("it lacks `{name}`")));
        };
        File::open(path).map_err(ImageError::store(path))
    }

    /// Reads one part that has to be small.
    pub(super) fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let failed = |source| ImageError::ReadArchive { source };
        self.open(name)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::invalid(format!("`{name}` is longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn find(&self, name: &str) -> Option<&Path> {
        let mut name = normal_name(name.as_bytes()).ok()?;
        for _ in 0..MOST_LINKS {
            match self.parts.get(&name)? {
                Spooled::File(path) => return Some(path),
                Spooled::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

fn normal_name(path: &[u8]) -> Result<String, ImageError> {
    let shown = String::from_utf8_lossy(path);
    let parts = components(path).ok_or_else(|| ImageError::invalid(format!("`{shown}` leads out of it")))?;
    String::from_utf8(parts.join(&b'/'))
        .map_err(|_| ImageError::invalid(format!("the name `{shown}` is not valid UTF-8")))
}

/// Counts bytes on their way and tells about them now and then.
pub(super) struct Counted<'a, R> {
    pub(super) source: R,
    pub(super) done: u64,
    pub(super) told: u64,
    pub(super) tell: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.done += read as u64;
        if self.done - self.told >= PROGRESS_STEP || read == 0 {
            self.told = self.done;
            (self.tell)(self.done);
        }
        Ok(read)
    }
}
