//! Replaces several files of one folder so that, after a crash at any point, all are old or all are new.
//!
//! ```text
//! .new-XXXXXX/   the files are written here            a crash: it never happened
//!      │ rename
//! .commit/       it has happened                       a crash: whoever takes the lock next finishes it
//!      │ each file is renamed into its place
//!    (gone)
//! ```
//!
//! Whoever calls this holds the lock that guards the folder.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::{StoreError, atomic, leftovers};

const COMMIT: &str = ".commit";

/// One file: its name in the folder, what is in it, its mode.
pub(super) type NewFile<'a> = (&'a str, &'a str, u32);

/// Writes all of them, or none.
pub(super) fn replace(folder: &Path, files: &[NewFile<'_>]) -> Result<(), StoreError> {
    finish(folder)?;
    let failed = |source| StoreError::Write { path: folder.to_owned(), source };
    let staged = tempfile::Builder::new()
        .prefix(leftovers::FOLDER_PREFIX)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(folder)
        .map_err(failed)?;
    // Held until the folder is gone: as long as it is, nobody takes it for a dead process's.
    let opened = File::open(staged.path()).map_err(failed)?;
    let _ = opened.try_lock();
    for (name, text, mode) in files {
        atomic::write(&staged.path().join(name), text.as_bytes(), *mode)?;
    }
    let staged = staged.keep();
    if let Err(source) = fs::rename(&staged, folder.join(COMMIT)) {
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
    for entry in entries {
        let entry = entry.map_err(failed)?;
        fs::rename(entry.path(), folder.join(entry.file_name())).map_err(failed)?;
    }
    atomic::sync_folder(folder)?;
    fs::remove_dir(&commit).map_err(failed)?;
    atomic::sync_folder(folder)
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
