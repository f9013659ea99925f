//! What log processes could not send: each says so in a file of its own, which is read now and then.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine_model::task::vital;

use super::Containers;

/// How often they are read.
const PERIOD: Duration = Duration::from_secs(15);
/// A log process goes this long after its container at the latest.
const GONE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const PORTION: u64 = 16 * 1024;

fn folder(exec_root: &Path) -> PathBuf {
    exec_root.join("logs")
}

/// The file of a container's log process, in a folder that is there.
pub(crate) fn file(exec_root: &Path, id: &str) -> Option<PathBuf> {
    let folder = folder(exec_root);
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join(id))
}

impl Containers {
    /// Reads them for as long as there is an engine.
    pub(super) fn read_complaints(&self) {
        let (folder, engine) = (folder(&self.0.config.exec_root), Arc::downgrade(&self.0));
        vital(async move {
            // How much of each was read.
            let mut read = HashMap::new();
            loop {
                tokio::time::sleep(PERIOD).await;
                let Some(containers) = engine.upgrade().map(Containers) else { return };
                let folder = folder.clone();
                let sweep = tokio::task::spawn_blocking(move || {
                    let is_alive =
                        |id: &str| containers.find(id).is_ok_and(|found| found.status().is_alive());
                    sweep(&folder, &mut read, is_alive);
                    read
                });
                match sweep.await {
                    Ok(back) => read = back,
                    Err(_) => return,
                }
            }
        });
    }
}

fn sweep(folder: &Path, read: &mut HashMap<String, u64>, is_alive: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let from = read.get(&id).copied().unwrap_or(0);
        let Ok((text, to)) = portion(&entry.path(), from) else { continue };
        for line in text.lines().filter(|line| !line.is_empty()) {
            tracing::warn!(container = id, "{line}");
        }
        read.insert(id.clone(), to);
        let age = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        if to == from && age.is_some_and(|age| age > GONE) && !is_alive(&id) {
            let _ = fs::remove_file(entry.path());
            read.remove(&id);
        }
    }
}

/// What comes after a place in a file, and the place after that. One that is shorter was begun anew.
fn portion(path: &Path, from: u64) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    let count = file.take(PORTION).read_to_end(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), from + count as u64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_word_is_read_once_and_what_is_over_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, b"one\n\xff\n").unwrap();
        let mut read = HashMap::new();
        sweep(folder.path(), &mut read, |_| false);
        assert_eq!(read["abc"], 6);
        assert_eq!(portion(&path, 6).unwrap(), (String::new(), 6));
        let long_ago = std::time::SystemTime::now() - GONE * 2;
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        sweep(folder.path(), &mut read, |_| true);
        assert!(path.exists(), "its container is alive");
        sweep(folder.path(), &mut read, |_| false);
        assert!(!path.exists() && read.is_empty());
    }
}
