//! A part of a directory, or of an image's layers, as a mount that has no place yet.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use serde::{Deserialize, Serialize};

use crate::confine::Root;
use crate::overlay;
use crate::userns::Owners;

/// What something is a part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whole {
    Directory(PathBuf),
    /// Top layer first.
    Layers(Vec<PathBuf>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub whole: Whole,
    /// Below that; empty for all of it. Links are followed as far as they stay in there.
    pub path: PathBuf,
    /// Of layers whose files belong to others than on the disk.
    #[serde(default)]
    pub owners: Option<Owners>,
}

/// A tree that is mounted nowhere, and whether it is a directory.
#[derive(Debug)]
pub struct Tree {
    pub tree: OwnedFd,
    pub is_directory: bool,
}

impl Part {
    /// Takes a copy of the mount. Layers are put together in `scratch`, which has to be a new directory in the mount namespace
    /// of this process or thread alone; its working directory may change.
    pub fn open(&self, scratch: &Path) -> io::Result<Tree> {
        let whole = match &self.whole {
            Whole::Directory(path) => path.clone(),
            Whole::Layers(layers) => {
                fs::create_dir_all(scratch)?;
                let view = scratch.join("view");
                fs::create_dir(&view)?;
                overlay::view(layers, self.owners.as_ref(), &view, scratch)?;
                view
            }
        };
        let said = |error: io::Error| {
            let reason = match Errno::from_io_error(&error) {
                Some(Errno::XDEV) => "path concatenation escapes the base directory".to_owned(),
                Some(Errno::NOENT) => "no such file or directory".to_owned(),
                Some(Errno::NOTDIR) => "not a directory".to_owned(),
                _ => error.to_string(),
            };
            let path = whole.join(&self.path);
            io::Error::new(error.kind(), format!("cannot access path {}: {reason}", path.display()))
        };
        let found = Root::open(&whole).and_then(|root| root.beneath(&self.path)).map_err(said)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
        let is_directory = kind == FileType::Directory;
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        flags.set(OpenTreeFlags::AT_RECURSIVE, is_directory);
        Ok(Tree { tree: rustix::mount::open_tree(&found, "", flags)?, is_directory })
    }
}

/// Whether a path can be one below something: it is relative, and does not climb out by its letters.
pub fn is_below(path: &Path) -> bool {
    use std::path::Component;
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// Opens what will be mounted on, made if it is not there: a directory or a file.
pub fn place(root: &Root, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    if is_directory {
        root.create_directories(path)?;
        return root.get(path, OFlags::PATH | OFlags::DIRECTORY);
    }
    match root.get(path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            root.create_directories(path.parent().unwrap_or_else(|| Path::new("/")))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            drop(root.create(path, flags, rustix::fs::Mode::from_raw_mode(0o644))?);
            root.get(path, OFlags::PATH)
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_part_stays_in_its_whole() {
        for good in ["a", "a/b", "a/../b", "./a"] {
            assert!(is_below(Path::new(good)), "{good}");
        }
        for bad in ["/a", "..", "a/../../b"] {
            assert!(!is_below(Path::new(bad)), "{bad}");
        }
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        fs::create_dir_all(whole.join("in/deep")).unwrap();
        fs::write(folder.path().join("secret"), "x").unwrap();
        symlink("in", whole.join("inner")).unwrap();
        symlink("../secret", whole.join("out")).unwrap();
        symlink("/etc", whole.join("far")).unwrap();
        let open = |path: &str| {
            let part = Part { whole: Whole::Directory(whole.clone()), path: path.into(), owners: None };
            part.open(&folder.path().join("scratch")).map(|tree| tree.is_directory)
        };
        for (path, said) in [
            ("out", "path concatenation escapes the base directory"),
            ("far", "path concatenation escapes the base directory"),
            ("none", "no such file or directory"),
        ] {
            let error = open(path).unwrap_err().to_string();
            assert!(error.starts_with("cannot access path ") && error.ends_with(said), "{error}");
        }
        // It takes the right to mount.
        if let Ok(is_directory) = open("inner/deep") {
            assert!(is_directory);
        }
    }
}
