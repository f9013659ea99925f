//! Several files of one folder that belong together: they are replaced, and read, so that all are old or all are new.
//!
//! ```text
//! .new-XXXXXX/   the files are written here            a crash: it never happened
//!      │ rename
//! .commit/       it has happened                       a crash: whoever takes the lock next finishes it
//!      │ each file is renamed into its place
//!    (gone)
//! ```
//!
//! Whoever replaces files holds the lock that guards the folder. Whoever reads them holds none: a file in `.commit/` counts
//! for the one in its place, and all are read again until nothing has changed meanwhile.
//!
//! Programs that are not ours know nothing of that, such as the docker client in the folder that `machine env` names. They
//! read one file after the other: one that opens `cert.pem` before and `key.pem` after the moment in which both are
//! renamed is told that they do not belong together, and has to be run again. The two are renamed one right after
//! the other, to keep that moment short; a crash in it lasts until somebody takes the lock, which
//! [`super::Store::settle`] is for.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{StoreError, atomic, bounded, files, leftovers};

const COMMIT: &str = ".commit";

/// How often files are read that somebody replaces again and again.
const READS_AT_MOST: u32 = 1000;

/// One file: its name in the folder, what is in it, its mode.
pub(super) type NewFile<'a> = (&'a str, &'a str, u32);

/// Writes all of them, or none.
pub(super) fn replace(folder: &Path, files: &[NewFile<'_>]) -> Result<(), StoreError> {
    finish(folder)?;
    let failed = |source| StoreError::Write { path: folder.to_owned(), source };
    let staged = files::temporary(leftovers::FOLDER_PREFIX, 0o700).tempdir_in(folder).map_err(failed)?;
    // Until the folder is gone.
    let _claim = files::Claim::on_folder(staged.path()).map_err(failed)?;
    for (name, text, mode) in files {
        atomic::write(&staged.path().join(name), text.as_bytes(), *mode)?;
    }
    let staged = staged.keep();
    if let Err(source) = files::rename(&staged, &folder.join(COMMIT)) {
        let _ = fs::remove_dir_all(&staged);
        return Err(failed(source));
    }
    atomic::sync_folder(folder)?;
    finish(folder)
}

/// Finishes what a killed process had begun, if so.
pub(super) fn finish(folder: &Path) -> Result<(), StoreError> {
    let commit = folder.join(COMMIT);
    let failed = |source| StoreError::Write { path: folder.to_owned(), source };
    let entries = match fs::read_dir(&commit) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StoreError::Read { path: commit, source }),
    };
    let mut names =
        entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    // A certificate and its key are neighbours by name (`cert.pem`, `key.pem`).
    names.sort();
    for name in names {
        files::rename(&commit.join(&name), &folder.join(&name)).map_err(failed)?;
    }
    atomic::sync_folder(folder)?;
    fs::remove_dir(&commit).map_err(failed)?;
    atomic::sync_folder(folder)
}

/// Whether files that were committed have not all come to their places.
pub(super) fn is_unfinished(folder: &Path) -> bool {
    folder.join(COMMIT).exists()
}

/// What is in these files, of one moment; `None` for one that is not there.
pub(super) fn read<const N: usize>(paths: [&Path; N]) -> Result<[Option<String>; N], StoreError> {
    let look = || -> Result<[Option<String>; N], StoreError> {
        let mut texts = [const { None }; N];
        for (text, path) in texts.iter_mut().zip(paths) {
            *text = committed(path)?;
        }
        Ok(texts)
    };
    let mut before = look()?;
    for _ in 0..READS_AT_MOST {
        // Keys do not come back: what is the same in both looks was there, all of it, at the moment between the two.
        let now = look()?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    let path = paths.first().map_or_else(PathBuf::new, |path| path.to_path_buf());
    Err(StoreError::Read { path, source: io::Error::other("it is replaced again and again") })
}

/// A file as it was committed, in its place or on its way there.
fn committed(path: &Path) -> Result<Option<String>, StoreError> {
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name())
        && let Some(text) = bounded::read(&folder.join(COMMIT).join(name))?
    {
        return Ok(Some(text));
    }
    bounded::read(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_committed_is_finished_and_what_was_not_never_happened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).ok();
        replace(path, &[("a", "1", 0o644), ("b", "1", 0o600)]).unwrap();
        assert_eq!((read("a"), read("b")), (Some("1".into()), Some("1".into())));

        fs::create_dir(path.join(".new-dead")).unwrap();
        fs::write(path.join(".new-dead/a"), "2").unwrap();
        finish(path).unwrap();
        assert_eq!(read("a"), Some("1".into()));

        // Killed after the first of two files was moved.
        fs::create_dir(path.join(COMMIT)).unwrap();
        fs::write(path.join("a"), "3").unwrap();
        fs::write(path.join(COMMIT).join("b"), "3").unwrap();
        finish(path).unwrap();
        assert_eq!((read("a"), read("b")), (Some("3".into()), Some("3".into())));
        assert!(!path.join(COMMIT).exists());
    }
}
