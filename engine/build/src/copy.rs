//! Puts files of a context, a stage or an image where `COPY` and `ADD` want them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use engine_kernel::attributes;
use engine_kernel::confine::{Root, opened, set_attributes};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

use super::ignore::Ignored;
use super::select::{Files, Selected, attributes_of, entries, open, too_deep};
use super::unpack;

/// Of a file that names users or groups.
const LARGEST_LIST: u64 = 4 << 20;

/// How files are to look when they are there.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) owner: (u32, u32),
    /// Instead of their own.
    pub(crate) mode: Option<u32>,
}

/// Where files go.
pub(crate) struct Target<'a> {
    pub(crate) root: &'a Root,
    /// Absolute. With a slash at the end it is a directory, whatever is there.
    pub(crate) path: &'a str,
    pub(crate) look: &'a Look,
    pub(crate) exclude: &'a Ignored,
    /// Directories of the source are kept.
    pub(crate) with_parents: bool,
}

impl Target<'_> {
    fn is_directory(&self) -> bool {
        self.path.ends_with('/') || self.exists_as_directory(Path::new(self.path))
    }

    fn exists_as_directory(&self, path: &Path) -> bool {
        self.root.get(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Makes a directory that is not there, and those above it.
    pub(crate) fn make_directories(&self, path: &Path) -> io::Result<()> {
        let path = self.root.end_of_links(path)?;
        let mut missing = Vec::new();
        let mut at = path.as_path();
        while !self.exists_as_directory(at) {
            missing.push(at.to_owned());
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        self.root.create_directories(&path)?;
        for path in missing.iter().rev() {
            let (parent, name) = self.root.parent(path)?;
            let made = opened(&parent, name, FileType::Directory)?;
            let owner = (Uid::from_raw(self.look.owner.0), Gid::from_raw(self.look.owner.1));
            rustix::fs::chownat(&made, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// Copies what is selected.
    pub(crate) fn copy(&self, files: &Files<'_>, selected: &Selected) -> io::Result<()> {
        let target = Path::new(self.path);
        if selected.is_directory {
            let target = if self.with_parents { within(target, &selected.path) } else { target.to_owned() };
            let is_new = !self.exists_as_directory(&target);
            self.make_directories(&target)?;
            let from = files.root.get(&selected.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let to = self.root.get(&target, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let level = Level { files, target: self, at: &selected.path };
            level.copy(&from, &to, Path::new(""), 0)?;
            if is_new {
                let stat = rustix::fs::fstat(&from)?;
                self.attributes(&to, &stat)?;
                copy_attributes(&from, &to)?;
            }
            return Ok(());
        }
        let name = selected.path.file_name().unwrap_or_default();
        if self.exclude.fits(&name.to_string_lossy()) {
            return Ok(());
        }
        let target = match (self.with_parents, self.is_directory()) {
            (true, _) => within(target, &selected.path),
            (false, true) => target.join(name),
            (false, false) => target.to_owned(),
        };
        let folder = target.parent().unwrap_or_else(|| Path::new("/"));
        self.make_directories(folder)?;
        let found = files.root.get(&selected.path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&found)?;
        let parent = self.root.get(&self.root.end_of_links(folder)?, OFlags::PATH | OFlags::DIRECTORY)?;
        let name = target.file_name().ok_or_else(|| io::Error::other("a file has to have a name"))?;
        self.put(&found, &stat, &parent, name)
    }

    /// Makes a file of this content.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let target =
            if self.is_directory() { Path::new(self.path).join(name) } else { PathBuf::from(self.path) };
        let folder = target.parent().unwrap_or_else(|| Path::new("/"));
        self.make_directories(folder)?;
        let parent = self.root.get(&self.root.end_of_links(folder)?, OFlags::PATH | OFlags::DIRECTORY)?;
        let name = target.file_name().ok_or_else(|| io::Error::other("a file has to have a name"))?;
        clear(&parent, name)?;
        let mut file = create(&parent, name)?;
        io::Write::write_all(&mut file, content)?;
        let file = OwnedFd::from(file);
        let (uid, gid) = self.look.owner;
        let now = Timespec { tv_sec: jiff::Timestamp::now().as_second(), tv_nsec: 0 };
        let times = Timestamps { last_access: now, last_modification: now };
        let mode = Mode::from_raw_mode(self.look.mode.unwrap_or(0o644));
        set_attributes(&file, (Uid::from_raw(uid), Gid::from_raw(gid)), Some(mode), &times)
    }

    /// Puts one thing that is no directory in place of what is there.
    fn put(&self, found: &OwnedFd, stat: &Stat, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        clear(parent, name)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let made = match kind {
            FileType::RegularFile => {
                let mut content = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
                let mut file = create(parent, name)?;
                unpack::copy(&mut content, &mut file)?;
                OwnedFd::from(file)
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(found, "", Vec::new())?;
                rustix::fs::symlinkat(&link, parent, name)?;
                opened(parent, name, kind)?
            }
            // Nobody is at its other end.
            FileType::Socket => return Ok(()),
            _ => {
                rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
                opened(parent, name, kind)?
            }
        };
        self.attributes(&made, stat)?;
        // Changing the owner takes capabilities away.
        if kind == FileType::RegularFile { copy_attributes(found, &made) } else { Ok(()) }
    }

    fn attributes(&self, made: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let time =
            Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mode = self.look.mode.unwrap_or(stat.st_mode & 0o7777);
        let owner = (Uid::from_raw(self.look.owner.0), Gid::from_raw(self.look.owner.1));
        let times = Timestamps { last_access: time, last_modification: time };
        set_attributes(made, owner, (!is_link).then(|| Mode::from_raw_mode(mode)), &times)
    }
}

/// A path of a source below a target.
fn within(target: &Path, source: &Path) -> PathBuf {
    target.join(source.strip_prefix("/").unwrap_or(source))
}

fn create(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?))
}

/// Removes what is in the way of a file. A directory is nothing that a file replaces.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
            Err(io::Error::other(format!("cannot copy to directory: `{}`", name.to_string_lossy())))
        }
        Ok(_) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    attributes_of(from)?.iter().try_for_each(|(name, value)| attributes::write(to, name, value))
}

/// One directory and what it holds.
struct Level<'a> {
    files: &'a Files<'a>,
    target: &'a Target<'a>,
    /// The selected directory.
    at: &'a Path,
}

impl Level<'_> {
    /// Copies what a directory holds. Directories that are there already take the attributes of those that come.
    fn copy(&self, from: &OwnedFd, to: &OwnedFd, inner: &Path, depth: usize) -> io::Result<()> {
        too_deep(depth)?;
        for (name, stat) in entries(from)? {
            let inner = inner.join(&name);
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let is_out = self.files.is_out(&self.at.join(&inner), &inner, self.target.exclude);
            let may_return = self.files.ignored.may_return() || self.target.exclude.may_return();
            if is_out && !(is_directory && may_return) {
                continue;
            }
            let found = open(from.as_fd(), &name, is_directory)?;
            if !is_directory {
                self.target.put(&found, &stat, to, &name)?;
                continue;
            }
            // One that is out is only made for what comes back of it.
            if is_out && !self.holds_anything(&found, &inner, depth)? {
                continue;
            }
            match rustix::fs::mkdirat(to, name.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = match rustix::fs::openat(to, name.as_os_str(), flags, Mode::empty()) {
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    return Err(io::Error::other(format!(
                        "cannot copy a directory over `{}`, which is none",
                        inner.display()
                    )));
                }
                made => made?,
            };
            self.copy(&found, &made, &inner, depth + 1)?;
            self.target.attributes(&made, &stat)?;
            copy_attributes(&found, &made)?;
        }
        Ok(())
    }

    fn holds_anything(&self, directory: &OwnedFd, inner: &Path, depth: usize) -> io::Result<bool> {
        too_deep(depth)?;
        for (name, stat) in entries(directory)? {
            let inner = inner.join(&name);
            if !self.files.is_out(&self.at.join(&inner), &inner, self.target.exclude) {
                return Ok(true);
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let found = open(directory.as_fd(), &name, true)?;
                if self.holds_anything(&found, &inner, depth + 1)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Who `--chown` means, by the image's own files. The group is that of the same name or number unless it is given.
pub(crate) fn owner(root: &Root, text: &str) -> Result<(u32, u32), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, group),
        None => (text, text),
    };
    let find = |file: &str, what: &str, name: &str| -> Result<u32, String> {
        if name.is_empty() {
            return Ok(0);
        }
        if let Ok(number) = name.parse::<u32>() {
            return Ok(number);
        }
        let content = root.read(Path::new(file), LARGEST_LIST).unwrap_or_default();
        let content = String::from_utf8_lossy(&content).into_owned();
        let line =
            content.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name);
        let number = line.and_then(|line| line.get(2)?.parse().ok());
        number.ok_or_else(|| {
            format!("unable to convert uid/gid chown string to host mapping: can't find {what} for {text}")
        })
    };
    Ok((find("/etc/passwd", "uid", user)?, find("/etc/group", "gid", group)?))
}
