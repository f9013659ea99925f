//! Which files an instruction means, and a digest that tells whether they are the same as last time.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use engine_kernel::attributes;
use engine_kernel::confine::{Root, clean};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use sha2::{Digest, Sha256};

use super::glob::Pattern;
use super::ignore::{Ignored, shown};

/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;

/// Where files are taken from.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    pub(crate) root: &'a Root,
    /// What is not there, of a context.
    pub(crate) ignored: &'a Ignored,
}

/// Something that an instruction means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// From the root on.
    pub(crate) path: PathBuf,
    pub(crate) is_directory: bool,
}

impl Files<'_> {
    /// What a source means: itself, or all that its pattern fits. Nothing is an answer as well.
    pub(crate) fn select(&self, source: &str) -> io::Result<Vec<Selected>> {
        let cleaned = clean(Path::new(source));
        let text = cleaned.to_string_lossy().into_owned();
        if !text.contains(['*', '?', '[', '\\']) {
            return Ok(self.one(&cleaned)?.into_iter().collect());
        }
        let pattern = Pattern::of_names(&text).map_err(io::Error::other)?;
        let depth = cleaned.components().count() - 1;
        let mut found = Vec::new();
        self.search(&pattern, Path::new("/"), depth, &mut found)?;
        found.sort();
        let mut selected = Vec::new();
        for path in found {
            selected.extend(self.one(&path)?);
        }
        Ok(selected)
    }

    /// A link is followed: what it leads to is meant.
    fn one(&self, path: &Path) -> io::Result<Option<Selected>> {
        let is_out = path != Path::new("/") && self.ignored.fits(&shown(path));
        let found = match self.root.get(path, OFlags::PATH) {
            Ok(found) => rustix::fs::fstat(&found)?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        if is_out && !(is_directory && self.ignored.may_return()) {
            return Ok(None);
        }
        let end = self.root.end_of_links(path)?;
        Ok(Some(Selected { path: if is_directory { end } else { path.to_owned() }, is_directory }))
    }

    fn search(
        &self,
        pattern: &Pattern,
        folder: &Path,
        depth: usize,
        found: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let Ok(directory) = self.root.get(folder, OFlags::RDONLY | OFlags::DIRECTORY) else { return Ok(()) };
        for (name, _) in entries(&directory)? {
            let path = folder.join(&name);
            if depth == 1 {
                if pattern.fits(&path.to_string_lossy()) && !self.ignored.fits(&shown(&path)) {
                    found.push(path);
                }
            } else {
                self.search(pattern, &path, depth - 1, found)?;
            }
        }
        Ok(())
    }

    /// Adds everything that is selected to a digest: names, kinds, modes and contents, and nothing of times and owners.
    pub(crate) fn digest(
        &self,
        selected: &Selected,
        exclude: &Ignored,
        digest: &mut Sha256,
    ) -> io::Result<()> {
        if selected.is_directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = self.root.get(&selected.path, flags)?;
            return self.digest_level(&directory, &selected.path, Path::new(""), exclude, digest, 0);
        }
        let name = selected.path.file_name().unwrap_or_default();
        if exclude.fits(&name.to_string_lossy()) {
            return Ok(());
        }
        let file = self.root.get(&selected.path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&file)?;
        digest_one(&file, &stat, Path::new(name), digest)
    }

    fn digest_level(
        &self,
        directory: &OwnedFd,
        at: &Path,
        inner: &Path,
        exclude: &Ignored,
        digest: &mut Sha256,
        depth: usize,
    ) -> io::Result<()> {
        too_deep(depth)?;
        for (name, stat) in entries(directory)? {
            let (path, inner) = (at.join(&name), inner.join(&name));
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let is_out = self.is_out(&path, &inner, exclude);
            if is_out && !(is_directory && (self.ignored.may_return() || exclude.may_return())) {
                continue;
            }
            let found = open(directory.as_fd(), &name, is_directory)?;
            if !is_out {
                digest_one(&found, &stat, &inner, digest)?;
            }
            if is_directory {
                self.digest_level(&found, &path, &inner, exclude, digest, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Whether something in a selected directory does not belong to it.
    pub(crate) fn is_out(&self, path: &Path, inner: &Path, exclude: &Ignored) -> bool {
        (!self.ignored.is_empty() && self.ignored.fits(&shown(path)))
            || (!exclude.is_empty() && exclude.fits(&shown(inner)))
    }
}

pub(crate) fn too_deep(depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("The directories are more than {DEEPEST} deep")));
    }
    Ok(())
}

/// What a directory holds, by name.
pub(crate) fn entries(directory: &OwnedFd) -> io::Result<Vec<(OsString, Stat)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            found.push((OsString::from_vec(name.to_bytes().to_vec()), stat));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Opens a directory to be read, anything else as a place only.
pub(crate) fn open(
    parent: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    is_directory: bool,
) -> io::Result<OwnedFd> {
    let flags = if is_directory { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::PATH };
    Ok(rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Attributes that go where a file goes: what a program may do more than others, and what users have noted.
pub(crate) fn attributes_of(file: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = attributes::read(file)?;
    found.retain(|(name, _)| attributes::travels(name));
    found.sort();
    Ok(found)
}

fn digest_one(file: &OwnedFd, stat: &Stat, name: &Path, digest: &mut Sha256) -> io::Result<()> {
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    add(name.as_os_str().as_bytes());
    let kind = FileType::from_raw_mode(stat.st_mode);
    // A link has no mode of its own.
    let mode = if kind == FileType::Symlink { stat.st_mode & !0o7777 } else { stat.st_mode };
    add(&mode.to_le_bytes());
    match kind {
        FileType::Symlink => add(rustix::fs::readlinkat(file, "", Vec::new())?.to_bytes()),
        FileType::RegularFile => {
            for (name, value) in attributes_of(file)? {
                add(name.as_bytes());
                add(&value);
            }
            digest.update(u64::try_from(stat.st_size).unwrap_or(0).to_le_bytes());
            let mut content = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match content.read(&mut buffer)? {
                    0 => break,
                    read => digest.update(&buffer[..read]),
                }
            }
        }
        FileType::Directory => {
            for (name, value) in attributes_of(file)? {
                add(name.as_bytes());
                add(&value);
            }
        }
        FileType::CharacterDevice | FileType::BlockDevice => add(&stat.st_rdev.to_le_bytes()),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn digest(folder: &Path, source: &str, ignored: &str) -> (Vec<String>, String) {
        let root = Root::open(folder).unwrap();
        let ignored = Ignored::parse(ignored).unwrap();
        let files = Files { root: &root, ignored: &ignored };
        let selected = files.select(source).unwrap();
        let mut digest = Sha256::new();
        for one in &selected {
            files.digest(one, &Ignored::default(), &mut digest).unwrap();
        }
        let names = selected.iter().map(|one| one.path.display().to_string()).collect();
        (names, format!("{:x}", digest.finalize()))
    }

    #[test]
    fn sources_are_found_and_digests_tell_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("a/b")).unwrap();
        for (name, text) in [("a/one.c", "1"), ("a/two.c", "2"), ("a/b/three.c", "3"), ("x.md", "x")] {
            fs::write(path.join(name), text).unwrap();
        }
        symlink("../../../a/one.c", path.join("link")).unwrap();
        assert_eq!(digest(path, "a/*.c", "").0, ["/a/one.c", "/a/two.c"]);
        assert_eq!(digest(path, "*/*/*.c", "").0, ["/a/b/three.c"]);
        assert_eq!(digest(path, "../../x.md", "").0, ["/x.md"]);
        assert_eq!(digest(path, "x.md", "*.md").0, Vec::<String>::new());
        assert_eq!(digest(path, "link", "").0, ["/link"]);
        let before = digest(path, ".", "a/b");
        fs::write(path.join("a/b/three.c"), "other").unwrap();
        assert_eq!(digest(path, ".", "a/b"), before, "what is ignored changes nothing");
        assert_ne!(digest(path, ".", ""), before);
        fs::set_permissions(path.join("x.md"), fs::Permissions::from_mode(0o600)).unwrap();
        let after = digest(path, ".", "a/b");
        assert_ne!(after, before);
        fs::write(path.join("a/one.c"), "1").unwrap();
        assert_eq!(digest(path, ".", "a/b"), after, "times are no change");
        // A program that may use any port; only who may do so himself can say so.
        let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(path.join("a/one.c"), "security.capability", &value, flags).is_ok() {
            assert_ne!(digest(path, ".", "a/b"), after, "capabilities are copied");
        }
    }
}
