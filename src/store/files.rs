//! What files are to the system: who may read them, how they are locked, which of them are the same.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::*;
#[cfg(windows)]
pub(super) use windows::*;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, io::Read as _};

    use super::*;

    #[test]
    fn a_lock_keeps_others_from_locking_and_not_from_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (held, mut other) = (lock_file().open(&path).unwrap(), lock_file().open(&path).unwrap());
        try_lock(&held).unwrap();
        fs::write(&path, "who").unwrap();
        assert!(matches!(try_lock(&other), Err(fs::TryLockError::WouldBlock)));
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "who");
        drop(held);
        lock(&other).unwrap();
    }

    #[test]
    fn a_file_that_took_the_place_of_another_is_not_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = lock_file().open(&path).unwrap();
        assert!(is_at(&first, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(is_at(&first, &path).is_err());
        let _second = lock_file().open(&path).unwrap();
        assert!(!is_at(&first, &path).unwrap());
    }

    #[test]
    fn links_are_not_followed_to_what_somebody_may_be_writing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let writer = fs::File::open(&path).unwrap();
        try_lock(&writer).unwrap();
        assert!(!is_unclaimed(&open_itself(&path).unwrap()));
        drop(writer);
        assert!(is_unclaimed(&open_itself(&path).unwrap()));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
            assert!(open_itself(&folder.path().join("link")).is_err());
        }
    }
}
