//! Modes.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

/// What group and others may do.
const OTHERS: u32 = 0o077;

pub(crate) fn exposure(file: &File) -> io::Result<Option<String>> {
    let mode = file.metadata()?.mode() & 0o7777;
    Ok((mode & OTHERS != 0).then(|| format!("{mode:04o}")))
}

pub(crate) fn remedy(path: &Path) -> String {
    format!("chmod 600 {}", path.display())
}

pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
