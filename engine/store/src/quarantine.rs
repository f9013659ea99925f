//! Where things go that cannot be read. Nothing is ever deleted there: whoever runs the host decides.
//!
//! ```text
//! DATA-ROOT/quarantine/2026-11-28T20-00-00Z-1-images-state.json
//!                      when                 number, path in the data root with `-` for `/`
//! ```
//!
//! What has to stay where it is, because containers use it, is only noted; the note is taken anew at every start.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{Timestamp, Unit};

/// The quarantine of one data root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Quarantine {
    root: PathBuf,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Quarantine {
    /// The quarantine of a data root. Its folder is made when it is first needed.
    pub fn of(data_root: &Path) -> Self {
        Self { root: data_root.to_owned(), notes: Arc::default() }
    }

    fn folder(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Moves something that cannot be read out of the way and says so in the log. Answers with where it is now.
    ///
    /// If it cannot be moved it stays, and whoever called must not write in its place.
    pub fn set_aside(&self, path: &Path, why: &str) -> io::Result<PathBuf> {
        self.take(path, why, |path, place| fs::rename(path, place))
    }

    /// The same for something that stays where it is until another takes its place, or until its directory goes.
    pub fn keep(&self, path: &Path, why: &str) -> io::Result<PathBuf> {
        self.take(path, why, |path, place| fs::hard_link(path, place))
    }

    fn take(
        &self,
        path: &Path,
        why: &str,
        take: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let folder = self.folder();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        let mut name = OsString::new();
        for part in relative.components() {
            name.push("-");
            name.push(part.as_os_str());
        }
        let now = Timestamp::now();
        let time = now.round(Unit::Second).unwrap_or(now).to_string().replace(':', "-");
        // Renaming would replace a file of that name without a word.
        let place = (1..=9999)
            .map(|number: u32| {
                let mut full = OsString::from(format!("{time}-{number}"));
                full.push(&name);
                folder.join(full)
            })
            .find(|place| place.symlink_metadata().is_err())
            .ok_or(io::ErrorKind::AlreadyExists)?;
        take(path, &place)?;
        // It is there already; only a power cut could undo it.
        if let Err(error) = crate::sync_directory(&folder) {
            tracing::warn!(%error, "Could not bring the quarantine to the disk");
        }
        tracing::error!(path = %path.display(), kept = %place.display(), why, "Set aside what cannot be read");
        Ok(place)
    }

    /// Notes something that cannot be read and stays where it is, in a sentence for whoever runs the host.
    pub fn note(&self, what: String) {
        tracing::error!("{what}");
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// What is set aside and what is noted, a sentence each.
    pub fn report(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let mut report: Vec<String> = entries
            .map(|entry| format!("`{}` could not be read and was set aside", entry.path().display()))
            .collect();
        report.sort();
        report.extend(self.notes.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_everything_is_said() {
        let root = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::of(root.path());
        assert!(quarantine.report().is_empty());
        let folder = root.path().join("images");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("state.json");
        let mut places = Vec::new();
        for content in ["first", "second"] {
            fs::write(&path, content).unwrap();
            let place = quarantine.set_aside(&path, "it is torn").unwrap();
            assert_eq!(fs::read_to_string(&place).unwrap(), content);
            assert!(!path.exists());
            places.push(place);
        }
        assert_eq!(fs::read_to_string(&places[0]).unwrap(), "first", "the second does not replace the first");
        fs::write(&path, "third").unwrap();
        let place = quarantine.keep(&path, "another takes its place").unwrap();
        crate::write_bytes(&path, b"new", crate::Durability::Atomic).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "third");
        places.push(place);
        fs::remove_file(&path).unwrap();
        quarantine.note("The layer stays".to_owned());
        let report = quarantine.report();
        assert_eq!(report.len(), 4, "{report:?}");
        assert!(places.iter().all(|place| report.iter().any(|line| line.contains(place.to_str().unwrap()))));
        // Another start finds the same files; notes are taken anew.
        assert_eq!(Quarantine::of(root.path()).report().len(), 3);
        assert!(quarantine.set_aside(&path, "it is not there").is_err());
    }
}
