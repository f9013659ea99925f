//! Modes, flock, and inodes.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use tempfile::NamedTempFile;

/// For files and folders that have no name yet, with their mode from the beginning.
pub(in crate::store) fn temporary(prefix: &str, mode: u32) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(mode));
    builder
}

/// Whatever the umask took away.
pub(in crate::store) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

/// How a file is opened that is locked and says by whom.
pub(in crate::store) fn lock_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

/// Waits until nobody else has locked it, and locks it as long as it is open.
pub(in crate::store) fn lock(file: &File) -> io::Result<()> {
    file.lock()
}

pub(in crate::store) fn try_lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// As long as this is there, nobody takes the folder for a dead process's.
pub(in crate::store) struct Claim(#[expect(dead_code, reason = "it is locked as long as it is open")] File);

impl Claim {
    pub(in crate::store) fn on_folder(path: &Path) -> io::Result<Self> {
        let opened = File::open(path)?;
        let _ = opened.try_lock();
        Ok(Self(opened))
    }
}

/// Opens a file or folder, and no link to one.
pub(in crate::store) fn open_itself(path: &Path) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(no_follow).open(path)
}

/// Whether nobody who is alive is writing it.
pub(in crate::store) fn is_unclaimed(opened: &File) -> bool {
    opened.try_lock().is_ok()
}

/// Whether an open file is the one that a path leads to.
pub(in crate::store) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, now) = (file.metadata()?, fs::metadata(path)?);
    Ok(now.ino() == ours.ino() && now.dev() == ours.dev())
}

/// Gives a file or folder another name, in place of what had it.
pub(in crate::store) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Gives a file its name, in place of what had it.
pub(in crate::store) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes the names in a folder durable.
pub(in crate::store) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).and_then(|opened| opened.sync_all())
}
