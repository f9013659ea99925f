//! Removing directories as a whole, and what is left where that was broken off.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::write::PREFIX;

/// How the names of directories begin that hold what is being removed.
const GONE: &str = ".gone-";

/// Removes a directory with everything in it. A crash leaves it whole or makes it disappear, and so does a part of it that
/// cannot be removed: what is left of the work then is among [`leftovers`]. That there is none is fine.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a directory of its own"));
    };
    if let Err(error) = fs::symlink_metadata(path) {
        return if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
    }
    let gone = tempfile::Builder::new().prefix(GONE).tempdir_in(parent)?;
    match fs::rename(path, gone.path().join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let rest = gone.path().to_owned();
            if let Err(error) = gone.close() {
                tracing::warn!(rest = %rest.display(), %error, "Could not remove all of it; the next start tries again");
            }
            Ok(())
        }
    }
}

/// What [`remove_directory`] has left in a directory. Nobody may be at work there, but may be as soon as this is known.
pub fn leftovers(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(GONE.as_bytes()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes what writers that were killed have left in a directory; nobody may be writing there.
pub fn tidy(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_broken_off_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".new-abc"), "half").unwrap();
        fs::create_dir_all(folder.path().join(".gone-abc/volume/_data")).unwrap();
        fs::write(folder.path().join("kept"), "whole").unwrap();
        assert_eq!(leftovers(folder.path()).unwrap(), [folder.path().join(".gone-abc")]);
        tidy(folder.path()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".gone-abc", "kept"]);
    }

    #[test]
    fn a_directory_goes_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v".repeat(255));
        fs::create_dir_all(path.join("_data/deep")).unwrap();
        remove_directory(&path).unwrap();
        remove_directory(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
