//! What processes that were killed in the middle of a write have left, one of which may be a key.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use super::files;

/// A file that has not got its name yet.
pub(super) const FILE_PREFIX: &str = ".tmp-";
/// A folder that has not got its name yet.
pub(super) const FOLDER_PREFIX: &str = ".new-";

/// Whoever writes locks what it writes; between the making and the locking lies less than this.
const YOUNG: Duration = Duration::from_secs(60);

/// Removes what dead processes have left in a folder. What a living one writes is locked or young, and stays.
///
/// It is nobody's errand: what cannot be removed now is tried again the next time.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(FILE_PREFIX) || name.starts_with(FOLDER_PREFIX)) {
            continue;
        }
        let path = entry.path();
        match is_dead(&path) {
            Ok(true) => {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                tracing::debug!(path = %path.display(), ?removed, "sweeping");
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(path = %path.display(), %error, "not swept"),
        }
    }
}

fn is_dead(path: &Path) -> io::Result<bool> {
    let opened = files::open_itself(path)?;
    let age = SystemTime::now().duration_since(opened.metadata()?.modified()?).unwrap_or_default();
    Ok(age > YOUNG && files::is_unclaimed(&opened))
}
