//! Trees of files as tar archives, and archives as trees; never outside of the container's root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine_kernel::confine::{Root, opened, set_attributes};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use tokio::sync::mpsc;

use super::place::{base_name, locate};

/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;

/// The tree at a path.
pub(super) fn pack(root: &Root, path: &Path, archive: &mut tar::Builder<impl Write>) -> io::Result<()> {
    let (parent, name) = locate(root, path).map_err(|error| io::Error::other(error.to_string()))?;
    let shown = match base_name(path).as_str() {
        "/" | "" => PathBuf::from("."),
        name => PathBuf::from(name),
    };
    pack_one(parent.as_fd(), &name, &shown, archive, &Limits { depth: 0, device: None })
}

/// An archive on its way to somewhere.
pub(super) type Archive<'a> = tar::Builder<&'a mut dyn Write>;

/// Writes a whole archive.
pub(super) fn write_archive(
    output: &mut dyn Write,
    pack: impl FnOnce(&mut Archive<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(output);
    pack(&mut archive)?;
    archive.into_inner()?.flush()
}

/// How far packing goes.
pub(super) struct Limits {
    pub(super) depth: usize,
    /// The only file system whose directories are entered.
    pub(super) device: Option<u64>,
}

fn header(stat: &Stat, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// Everything in one directory.
pub(super) fn pack_level(
    parent: std::os::fd::BorrowedFd<'_>,
    name: &Path,
    shown: &Path,
    archive: &mut tar::Builder<impl Write>,
    limits: &Limits,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(PathBuf::from(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())));
        }
    }
    names.sort();
    let below = Limits { depth: limits.depth + 1, device: limits.device };
    for inner in names {
        pack_one(directory.as_fd(), &inner, &shown.join(&inner), archive, &below)?;
    }
    Ok(())
}

fn pack_one(
    parent: std::os::fd::BorrowedFd<'_>,
    name: &Path,
    shown: &Path,
    archive: &mut tar::Builder<impl Write>,
    limits: &Limits,
) -> io::Result<()> {
    if limits.depth > DEEPEST {
        return Err(io::Error::other("the directories are too deep"));
    }
    // What is described and what is read is one and the same, whatever comes by its name meanwhile.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&found)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let mut folder = shown.as_os_str().to_owned();
            folder.push("/");
            archive.append_data(&mut header(&stat, tar::EntryType::Directory), folder, io::empty())?;
            if limits.device.is_none_or(|device| device == stat.st_dev) {
                pack_level(found.as_fd(), Path::new("."), shown, archive, limits)?;
            }
            Ok(())
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
            let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
            archive.append_link(&mut header(&stat, tar::EntryType::Symlink), shown, target)
        }
        FileType::RegularFile => {
            let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
            let size = file.metadata()?.len();
            let mut header = header(&stat, tar::EntryType::Regular);
            header.set_size(size);
            // It may shrink meanwhile, and the header has promised its size.
            archive.append_data(&mut header, shown, file.chain(io::repeat(0)).take(size))
        }
        // Devices, pipes and sockets mean nothing elsewhere.
        _ => Ok(()),
    }
}

/// Archives come as they are or compressed with gzip.
fn plain<'a>(mut archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    archive.by_ref().take(2).read_to_end(&mut start)?;
    let compressed = start == [0x1f, 0x8b];
    let whole = io::Cursor::new(start).chain(archive);
    Ok(if compressed { Box::new(flate2::read::MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

/// Unpacks an archive in a directory, of which nothing leads out.
pub(super) fn unpack(root: &Root, path: &Path, archive: impl Read, keep_kinds: bool) -> io::Result<()> {
    let mut archive = tar::Archive::new(plain(archive)?);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inner = engine_kernel::confine::clean(&entry.path()?);
        let target = path.join(inner.strip_prefix("/").unwrap_or(&inner));
        let header = entry.header().clone();
        let kind = header.entry_type();
        if inner == Path::new("/") {
            continue;
        }
        if let Some(folder) = target.parent() {
            root.create_directories(folder)?;
        }
        let (parent, name) = root.parent(&target)?;
        let present = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let is_directory =
            present.as_ref().is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if present.is_some() && keep_kinds && is_directory != kind.is_dir() {
            let what = if is_directory { "directory" } else { "non-directory" };
            return Err(io::Error::other(format!("cannot overwrite {what} {}", target.display())));
        }
        if present.is_some() && !(is_directory && kind.is_dir()) {
            let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            rustix::fs::unlinkat(&parent, name, flags)?;
        }
        let file = match kind {
            tar::EntryType::Directory => {
                if !is_directory {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                }
                directories.push((target.clone(), header.clone()));
                opened(&parent, name, FileType::Directory)?
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                rustix::fs::symlinkat(link.as_ref(), &parent, name)?;
                opened(&parent, name, FileType::Symlink)?
            }
            tar::EntryType::Link => {
                let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                let source =
                    path.join(engine_kernel::confine::clean(&link).strip_prefix("/").unwrap_or(&link));
                let (from, from_name) = root.parent(&source)?;
                rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty())?;
                continue;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file =
                    File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(&mut entry, &mut file)?;
                file.into()
            }
            _ => continue,
        };
        let number =
            |value: io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let owner = (Uid::from_raw(number(header.uid())), Gid::from_raw(number(header.gid())));
        let mode = match kind {
            tar::EntryType::Symlink => None,
            _ => Some(Mode::from_raw_mode(header.mode()? & 0o7777)),
        };
        set_attributes(&file, owner, mode, &times(&header))?;
    }
    // What was unpacked into them has changed their times.
    for (target, header) in directories.into_iter().rev() {
        let (parent, name) = root.parent(&target)?;
        rustix::fs::utimensat(&parent, name, &times(&header), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn times(header: &tar::Header) -> Timestamps {
    let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Writes to where an answer's body is read from.
pub(super) struct Channel {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Channel {
    pub(super) fn new(sender: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { sender, buffer: Vec::new() }
    }

    /// The header of the answer is out; a broken end of the body is how the client learns.
    pub(super) fn break_off(&self, error: io::Error) {
        let _ = self.sender.blocking_send(Err(error));
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 64 * 1024 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer).into();
        self.sender.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn an_archive_cannot_leave_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root_path = folder.path().join("root");
        fs::create_dir_all(root_path.join("in")).unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root_path.join("in/link")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"bad"[..]).unwrap();
        };
        add("../../outside/climbed");
        add("link/followed");
        let archive = builder.into_inner().unwrap();
        let root = Root::open(&root_path).unwrap();
        // The link leads to a directory that does not exist inside, or to a file made inside; never outside.
        let _ = unpack(&root, Path::new("/in"), archive.as_slice(), false);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(root_path.join("in/outside/climbed").exists());
    }

    #[test]
    fn a_link_put_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root_path = folder.path().join("root");
        fs::create_dir(&root_path).unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "host").unwrap();
        let before = || {
            let found = fs::metadata(&victim).unwrap();
            (found.mode(), found.uid(), found.mtime())
        };
        let untouched = before();
        let mut builder = tar::Builder::new(Vec::new());
        for number in 0..100 {
            let mut header = tar::Header::new_gnu();
            let is_file = number % 2 == 0;
            header.set_entry_type(if is_file { tar::EntryType::Regular } else { tar::EntryType::Directory });
            header.set_size(0);
            header.set_mode(0o4777);
            header.set_uid(70);
            header.set_gid(70);
            header.set_mtime(1);
            builder.append_data(&mut header, format!("target{number}"), io::empty()).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let root = Root::open(&root_path).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let link = folder.path().join("link");
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in fs::read_dir(&root_path).unwrap().flatten() {
                        // Whatever was just made is a link to the host's file at once.
                        let _ = symlink(&victim, &link);
                        let _ = fs::remove_dir(entry.path());
                        let _ = fs::rename(&link, entry.path());
                    }
                }
            });
            for _ in 0..30 {
                let _ = unpack(&root, Path::new("/"), archive.as_slice(), false);
                for entry in fs::read_dir(&root_path).unwrap().flatten() {
                    let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
                }
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(before(), untouched);
    }

    #[test]
    fn what_was_packed_unpacks_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("tree/sub")).unwrap();
        fs::write(from.join("tree/sub/file"), "content").unwrap();
        symlink("sub/file", from.join("tree/link")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        pack(&Root::open(&from).unwrap(), Path::new("/tree"), &mut builder).unwrap();
        let archive = builder.into_inner().unwrap();
        let to = folder.path().join("to");
        fs::create_dir(&to).unwrap();
        unpack(&Root::open(&to).unwrap(), Path::new("/"), archive.as_slice(), false).unwrap();
        assert_eq!(fs::read_to_string(to.join("tree/link")).unwrap(), "content");
    }
}
