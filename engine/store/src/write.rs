//! Replacing files as a whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

/// How the names of files begin that are being written.
pub(crate) const PREFIX: &str = ".new-";

/// What a power cut may do to a file that was written before.
///
/// A crash of the engine harms neither kind: either the old content is there or the new one, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: content and name are on the disk when the call returns. For what is known nowhere else.
    Durable,
    /// The content before may be there again, or one that cannot be read. For what can be found out anew, and for
    /// what [`sync`] makes durable later.
    Atomic,
}

/// Writes `content` as JSON in place of what is at `path`.
pub fn write(path: &Path, content: &impl Serialize, durability: Durability) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(content)?, durability)
}

/// Puts `bytes` in place of what is at `path`, readable for its owner only. The directory has to be there.
pub fn write_bytes(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let directory = parent(path);
    // In the same directory, so that renaming it is one step. One left behind by a crash is hidden and harms nobody.
    let mut file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(directory)?;
    file.write_all(bytes)?;
    if durability == Durability::Durable {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|failure| failure.error)?;
    if durability == Durability::Durable { sync_directory(directory) } else { Ok(()) }
}

/// Brings a file that was written [`Durability::Atomic`] to the disk.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_directory(parent(path))
}

/// Brings the names in a directory to the disk.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for (durability, text) in [(Durability::Durable, "\"one\""), (Durability::Atomic, "\"two\"")] {
            write(&path, &text.trim_matches('"'), durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        sync(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_bytes(&folder.path().join("missing/state.json"), b"", Durability::Atomic).is_err());
    }
}
