//! Names that are none on Windows, and what there is of modes.
//!
//! A new file has the access list of the directory that it lies in, while it is written and afterwards: what a host says of
//! its owner and its group means nothing here. One that nobody may write there becomes read-only.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;

use cap_std::fs::{DirBuilder, OpenOptions, OpenOptionsExt as _};
use windows_sys::Win32::Storage::FileSystem::{FILE_READ_ATTRIBUTES, FILE_WRITE_ATTRIBUTES, SYNCHRONIZE};

use crate::ssh::copy::{Kind, Meta};

/// The modes that new files and directories have on most hosts: there is none to be kept.
const DIRECTORY: u32 = 0o755;
const FILE: u32 = 0o644;
const READ_ONLY: u32 = 0o444;
/// Who may write.
const WRITABLE: u32 = 0o222;

pub(super) fn mode(metadata: &Metadata) -> u32 {
    match (metadata.is_dir(), metadata.permissions().readonly()) {
        (true, _) => DIRECTORY,
        (false, true) => READ_ONLY,
        (false, false) => FILE,
    }
}

/// Refuses what would be another name here, a device, or a stream within a file.
pub(super) fn check_name(name: &OsStr) -> io::Result<()> {
    if name.to_str().is_some_and(crate::ssh::copy::is_name_on_windows) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidFilename, "Windows has no files of this name"))
}

/// Nothing that lies on a disk makes anybody wait.
pub(super) fn not_waiting(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    options
}

pub(super) fn private_directory() -> DirBuilder {
    DirBuilder::new()
}

pub(super) fn private_file(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    options
}

/// The same, below a directory that is held open.
pub(super) fn private_file_below(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

pub(super) fn changing_properties(options: &mut OpenOptions) -> &mut OpenOptions {
    options.access_mode(FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES | SYNCHRONIZE)
}

pub(super) fn set_mode(file: &File, meta: Meta) -> io::Result<()> {
    if meta.kind != Kind::File || meta.mode & WRITABLE != 0 {
        return Ok(());
    }
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)
}
