//! Folders that go with what works in them, and never on a thread that others wait for: they may be large.

use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;
use tokio::runtime::Handle;

/// A folder of a build.
#[derive(Debug)]
pub(crate) struct Folder(Option<TempDir>);

impl Folder {
    /// Makes one in `parent`.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        Ok(Self(Some(tempfile::Builder::new().prefix("build-").tempdir_in(parent)?)))
    }

    pub(crate) fn path(&self) -> &Path {
        // It is there as long as this is.
        self.0.as_ref().map_or_else(|| Path::new(""), TempDir::path)
    }

    /// Removes it right now. Blocks.
    pub(crate) fn clear(&self) {
        if let Err(error) = fs::remove_dir_all(self.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path().display(), "Could not remove the files of a build");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Some(folder) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) if folder.path().exists() => drop(runtime.spawn_blocking(move || drop(folder))),
            _ => drop(folder),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// There is one thread for everything asynchronous: what is removed on it could not be waited for.
    #[tokio::test]
    async fn a_folder_is_removed_beside_what_goes_on() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path()).unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        while path.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let folder = Folder::new(parent.path()).unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        folder.clear();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
