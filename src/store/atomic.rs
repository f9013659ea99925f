//! Writes a file so that it is there whole or not at all, and survives a power cut.

use std::{
    io::{self, Write as _},
    path::Path,
};

use tempfile::NamedTempFile;

use super::{StoreError, files, leftovers};

/// Replaces the file at `path` by `bytes` with the given mode: temporary file beside it, fsync, rename, fsync of
/// the folder. The mode holds from the first byte on.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let file = written(path, bytes, mode)?;
    files::persist(file, path).map_err(failed(path))?;
    sync_folder(folder(path))
}

/// The same for a file that is not there yet. `false`: somebody else was faster, and theirs stays.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, StoreError> {
    match written(path, bytes, mode)?.persist_noclobber(path) {
        Ok(_) => sync_folder(folder(path)).map(|()| true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(path)(error.error)),
    }
}

/// A file beside `path`, whole and durable, which has only to get its name.
fn written(path: &Path, bytes: &[u8], mode: u32) -> Result<NamedTempFile, StoreError> {
    let mut file =
        files::temporary(leftovers::FILE_PREFIX, mode).tempfile_in(folder(path)).map_err(failed(path))?;
    // Held until the file has its name: as long as it is, nobody takes it for a dead process's.
    let _ = files::try_lock(file.as_file());
    file.write_all(bytes).map_err(failed(path))?;
    files::set_mode(file.as_file(), mode).map_err(failed(path))?;
    file.as_file().sync_all().map_err(failed(path))?;
    Ok(file)
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> StoreError {
    |source| StoreError::Write { path: path.to_owned(), source }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    files::sync_folder(folder).map_err(failed(folder))
}
