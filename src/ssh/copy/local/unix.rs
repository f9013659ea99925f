//! Modes, and files that are nobody else's before they are complete.

use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};

use cap_std::fs::{DirBuilder, DirBuilderExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;

use crate::ssh::copy::Meta;

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
/// A pipe that lies there would else block until somebody reads or writes.
const NOT_WAITING: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Permissions for owner, group and others.
pub(super) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o777
}

/// Whatever is one to the kernel is a name.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere not everything is one")]
pub(super) fn check_name(_: &OsStr) -> io::Result<()> {
    Ok(())
}

pub(super) fn not_waiting(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    options.custom_flags(NOT_WAITING)
}

pub(super) fn private_directory() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(PRIVATE_DIRECTORY);
    builder
}

pub(super) fn private_file(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    options.mode(PRIVATE_FILE).custom_flags(NOT_WAITING)
}

/// The same, below a directory that is held open.
pub(super) fn private_file_below(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(PRIVATE_FILE).custom_flags(NOT_WAITING)
}

pub(super) fn changing_properties(options: &mut OpenOptions) -> &mut OpenOptions {
    options.read(true)
}

pub(super) fn set_mode(file: &File, meta: Meta) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(meta.mode))
}
