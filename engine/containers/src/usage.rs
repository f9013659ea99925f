//! How much of the disk a tree of files takes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of all files below a directory.
pub(super) fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) if metadata.nlink() > 0 => metadata.len(),
            _ => 0,
        })
        .sum()
}
