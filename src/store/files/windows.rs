//! Access lists, locks of a byte, and file numbers.
//!
//! A file has no mode here. What keeps it to the user is the access list of the store's folder, which all that is made in
//! it inherits: one for the user alone where we made the folder, else that of the folder it lies in, as a rule the
//! user's profile.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::windows::{fs::OpenOptionsExt as _, io::AsRawHandle as _},
    path::Path,
    thread,
    time::Duration,
};

use tempfile::NamedTempFile;
use winapi_util::{Handle, file::information};
use windows_sys::Win32::{
    Foundation::{
        ERROR_ACCESS_DENIED, ERROR_IO_PENDING, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION, HANDLE,
    },
    Storage::FileSystem::{
        FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, LOCK_FILE_FLAGS, LOCKFILE_EXCLUSIVE_LOCK,
        LOCKFILE_FAIL_IMMEDIATELY, LockFileEx,
    },
    System::IO::{OVERLAPPED, OVERLAPPED_0, OVERLAPPED_0_0},
};

/// A byte that no file has. A lock is binding here: where others could not read what is locked, nobody would learn who
/// holds it.
const FAR_AWAY: OVERLAPPED_0_0 = OVERLAPPED_0_0 { Offset: 0, OffsetHigh: 1 << 30 };

/// A reader of a file, or a program that looks for viruses, keeps it from being renamed for a moment.
const RENAME_AGAIN: Duration = Duration::from_millis(20);
const RENAME_AT_MOST: u32 = 100;

/// For files and folders that have no name yet.
pub(in crate::store) fn temporary(prefix: &str, _: u32) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    builder
}

#[allow(clippy::unnecessary_wraps, reason = "elsewhere there are modes")]
pub(in crate::store) fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// How a file is opened that is locked and says by whom.
pub(in crate::store) fn lock_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
}

/// Waits until nobody else has locked it, and locks it as long as it is open.
pub(in crate::store) fn lock(file: &File) -> io::Result<()> {
    lock_far_away(file, LOCKFILE_EXCLUSIVE_LOCK)
}

pub(in crate::store) fn try_lock(file: &File) -> Result<(), TryLockError> {
    const HELD: [u32; 2] = [ERROR_LOCK_VIOLATION, ERROR_IO_PENDING];
    lock_far_away(file, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY).map_err(|error| {
        if is_one_of(&error, &HELD) { TryLockError::WouldBlock } else { TryLockError::Error(error) }
    })
}

#[expect(unsafe_code, reason = "the standard library locks whole files only")]
fn lock_far_away(file: &File, how: LOCK_FILE_FLAGS) -> io::Result<()> {
    let mut place = OVERLAPPED { Anonymous: OVERLAPPED_0 { Anonymous: FAR_AWAY }, ..OVERLAPPED::default() };
    // SAFETY: the file is open, and was opened for calls that are over when they return.
    let done = unsafe { LockFileEx(file.as_raw_handle() as HANDLE, how, 0, 1, 0, &raw mut place) };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A folder cannot be locked here, and what is open in it would keep it from being renamed: its age alone tells that it is
/// not a dead process's.
pub(in crate::store) struct Claim;

impl Claim {
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it is a lock")]
    pub(in crate::store) fn on_folder(_: &Path) -> io::Result<Self> {
        Ok(Self)
    }
}

/// Opens a file or folder, and no link to one.
pub(in crate::store) fn open_itself(path: &Path) -> io::Result<File> {
    let flags = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_symlink() {
        return Err(io::Error::other("it is a link"));
    }
    Ok(file)
}

/// Whether nobody who is alive is writing it, as far as can be told.
pub(in crate::store) fn is_unclaimed(opened: &File) -> bool {
    opened.metadata().is_ok_and(|metadata| metadata.is_dir()) || try_lock(opened).is_ok()
}

/// Whether an open file is the one that a path leads to.
pub(in crate::store) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, now) = (information(file)?, information(Handle::from_path_any(path)?)?);
    Ok(now.file_index() == ours.file_index() && now.volume_serial_number() == ours.volume_serial_number())
}

/// Gives a file or folder another name, in place of what had it.
pub(in crate::store) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    const IN_USE: [u32; 2] = [ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION];
    let mut tries = 0;
    loop {
        match fs::rename(from, to) {
            Err(error) if is_one_of(&error, &IN_USE) && tries < RENAME_AT_MOST => {
                tries += 1;
                thread::sleep(RENAME_AGAIN);
            }
            done => return done,
        }
    }
}

/// Gives a file its name, in place of what had it: the standard library's renaming does so while others read that.
pub(in crate::store) fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    let (_locked, temporary) = file.keep().map_err(|error| error.error)?;
    rename(&temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn is_one_of(error: &io::Error, codes: &[u32]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.contains(&code.cast_unsigned()))
}

/// The file system writes names to its own journal, in order; there is no call that waits for it.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere there is one")]
pub(in crate::store) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
