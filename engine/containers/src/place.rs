//! A path in a container, as a client names it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use engine_kernel::confine::Root;
use rustix::fs::OFlags;

use super::ContainerError;

/// What it means that there is nothing at a path, or that one cannot get there.
pub(super) fn missing(path: &Path, error: &io::Error) -> ContainerError {
    match error.kind() {
        io::ErrorKind::NotFound => ContainerError::NoSuchFile(path.to_owned()),
        io::ErrorKind::NotADirectory => ContainerError::Invalid("not a directory".to_owned()),
        _ => ContainerError::Refused(format!("{}: {error}", path.display())),
    }
}

/// The directory that holds a path, and its name there; a path that ends with a slash or dot is the directory itself.
pub(super) fn locate(root: &Root, path: &Path) -> Result<(OwnedFd, PathBuf), ContainerError> {
    let found = |error: io::Error| missing(path, &error);
    let whole = path.as_os_str().as_bytes();
    let itself = whole.ends_with(b"/") || whole.ends_with(b"/.") || path.file_name().is_none();
    if itself {
        let directory = root.get(path, OFlags::PATH | OFlags::DIRECTORY).map_err(found)?;
        return Ok((directory, PathBuf::from(".")));
    }
    let (parent, name) = root.parent(path).map_err(found)?;
    Ok((parent, PathBuf::from(name)))
}

/// The last part of a path.
pub(super) fn base_name(path: &Path) -> String {
    path.components().next_back().map_or_else(String::new, |last| match last {
        Component::Normal(name) => name.to_string_lossy().into_owned(),
        _ => "/".to_owned(),
    })
}
