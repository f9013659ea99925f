//! Unpacks one layer into a directory for overlayfs, never writing outside of it.
//!
//! Every path is resolved beneath the directory by the kernel (`openat2`, `RESOLVE_IN_ROOT`), so that neither `..`, nor
//! an absolute path, nor a symbolic link made by an earlier entry leads out. The last component is never followed.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, openat2, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::compression::decompress;
use super::error::ImageError;
use super::split::SplitWriter;
use super::tar_reader::{Entry, Kind, TarReader};

/// More than the largest images have, few enough to bound the memory for them.
const MOST_ENTRIES: usize = 2_000_000;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";

/// A layer that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// The digest of the uncompressed tar stream.
    pub(super) diff_id: String,
    /// Bytes in files.
    pub(super) size: u64,
    /// Length of the uncompressed tar stream.
    pub(super) tar_size: u64,
    /// What the stream held is not all in the files: some were named twice, or have holes. It has to be kept as it is.
    pub(super) is_lossy: bool,
}

/// Unpacks a layer, plain or compressed, into the existing empty directory `into`; what is needed to write the same tar
/// stream again goes to `split`, unless the files alone do not tell it.
pub(super) fn unpack(source: impl Read, into: &Path, split: &Path) -> Result<Unpacked, ImageError> {
    let read = |source| ImageError::ReadArchive { source };
    let mut split = SplitWriter::create(split).map_err(ImageError::store(split))?;
    let mut hasher = Hasher { source: decompress(source).map_err(read)?, digest: Sha256::new(), length: 0 };
    let mut layer = Layer::open(into).map_err(ImageError::store(into))?;
    {
        let writer = std::cell::RefCell::new(&mut split);
        let mut archive = TarReader::new(&mut hasher, |bytes: &[u8]| writer.borrow_mut().raw(bytes));
        let mut entries = 0;
        while let Some(entry) = archive.next_entry().map_err(read)? {
            entries += 1;
            if entries > MOST_ENTRIES {
                return Err(ImageError::invalid(format!("a layer has more than {MOST_ENTRIES} entries")));
            }
            let written = layer.add(&entry, &mut archive)?;
            if let Some(path) = written {
                writer.borrow_mut().content(&path, entry.size).map_err(read)?;
            }
        }
    }
    layer.finish().map_err(ImageError::store(into))?;
    split.finish().map_err(read)?;
    let (size, is_lossy) = (layer.size, layer.is_lossy);
    let Hasher { digest, length, .. } = hasher;
    Ok(Unpacked { diff_id: format!("sha256:{:x}", digest.finalize()), size, tar_size: length, is_lossy })
}

/// Passes bytes through and digests them.
struct Hasher<R> {
    source: R,
    digest: Sha256,
    length: u64,
}

impl<R: Read> Read for Hasher<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.length += read as u64;
        Ok(read)
    }
}

/// The parts of an entry's path, checked not to climb out. Empty for the root itself.
pub(super) fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ if part.contains(&0) => return None,
            _ => parts.push(part),
        }
    }
    Some(parts)
}

/// A directory that is being filled.
struct Layer {
    root: OwnedFd,
    /// The parent directory of the last entry; most entries follow one of the same directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories, set at the end because filling a directory changes them.
    directories: Vec<(Vec<u8>, Timestamps)>,
    size: u64,
    is_lossy: bool,
}

impl Layer {
    fn open(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())?;
        Ok(Self { root, parent: None, directories: Vec::new(), size: 0, is_lossy: false })
    }

    /// Makes one entry. The path of a file whose content was read is returned.
    fn add(&mut self, entry: &Entry, content: &mut impl Read) -> Result<Option<Vec<u8>>, ImageError> {
        let shown = || String::from_utf8_lossy(&entry.path).into_owned();
        let Some(parts) = components(&entry.path) else {
            return Err(ImageError::invalid(format!("the entry `{}` leads out of the layer", shown())));
        };
        let failed = |source| ImageError::Unpack { entry: shown(), source };
        let Some((name, parents)) = parts.split_last() else {
            if entry.kind == Kind::Directory {
                self.root_metadata(entry).map_err(failed)?;
            }
            return Ok(None);
        };
        let parent_path = parents.join(&b'/');
        let full_path = parts.join(&b'/');
        if name.starts_with(WHITEOUT) {
            self.whiteout(&parent_path, name).map_err(failed)?;
            return Ok(None);
        }
        let link = match entry.kind {
            Kind::HardLink => match components(&entry.link) {
                Some(link) if !link.is_empty() => Some(link.join(&b'/')),
                _ => {
                    let link = String::from_utf8_lossy(&entry.link).into_owned();
                    return Err(ImageError::invalid(format!(
                        "the link `{}` to `{link}` leads out of the layer",
                        shown()
                    )));
                }
            },
            _ => None,
        };
        self.make(entry, &parent_path, name, link.as_deref(), content).map_err(failed)?;
        if entry.kind == Kind::Directory {
            self.directories.push((full_path, times(entry)));
            return Ok(None);
        }
        self.size += entry.size;
        self.is_lossy |= entry.holes.is_some();
        Ok((entry.kind == Kind::File).then_some(full_path))
    }

    /// The entry itself, with owner, attributes, mode and times.
    fn make(
        &mut self,
        entry: &Entry,
        parent_path: &[u8],
        name: &[u8],
        link: Option<&[u8]>,
        content: &mut impl Read,
    ) -> io::Result<()> {
        let name = CString::new(name)?;
        let name = name.as_c_str();
        let hides_lower = self.make_room(entry.kind, parent_path, name)?;
        if let Some(link) = link {
            let split = link.iter().rposition(|byte| *byte == b'/');
            let (target_parent, target) = split.map_or((&b""[..], link), |at| (&link[..at], &link[at + 1..]));
            let target_parent = self.resolve(target_parent)?;
            let parent = self.parent(parent_path)?;
            linkat(&target_parent, CString::new(target)?.as_c_str(), parent, name, AtFlags::empty())?;
            return Ok(());
        }
        let parent = self.parent(parent_path)?.as_fd();
        match entry.kind {
            Kind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
                entry.write(content, &mut file)?;
            }
            Kind::Directory => match mkdirat(parent, name, Mode::RWXU) {
                Ok(()) => {
                    if hides_lower {
                        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        let directory = openat(parent, name, flags, Mode::empty())?;
                        fsetxattr(&directory, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?;
                    }
                }
                // An earlier entry made it; only its metadata is new.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            },
            Kind::SymbolicLink => symlinkat(CString::new(entry.link.clone())?.as_c_str(), parent, name)?,
            Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::CharacterDevice => (FileType::CharacterDevice, entry.device),
                    Kind::BlockDevice => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                if kind == FileType::CharacterDevice && device == (0, 0) {
                    return Err(io::Error::other("The device 0:0 is a whiteout and cannot be in a layer"));
                }
                mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, makedev(device.0, device.1))?;
            }
            Kind::HardLink => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let (user, group) = owner(entry)?;
        chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        // The parent by its descriptor: its path may have a symbolic link.
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        set_attributes(entry, |attribute, value| {
            lsetxattr(&path[..], attribute, value, XattrFlags::empty())
        })?;
        if entry.kind != Kind::SymbolicLink {
            chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        if entry.kind != Kind::Directory {
            utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Removes what is in the way of an entry, except a directory for a directory. True if a whiteout was in the way.
    fn make_room(&mut self, kind: Kind, parent_path: &[u8], name: &std::ffi::CStr) -> io::Result<bool> {
        let parent = self.parent(parent_path)?;
        let found = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let found_kind = FileType::from_raw_mode(found.st_mode);
        match (found_kind, kind) {
            (FileType::Directory, Kind::Directory) => return Ok(false),
            (FileType::Directory, _) => {
                let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
                path.extend_from_slice(name.to_bytes());
                std::fs::remove_dir_all(Path::new(
                    <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path),
                ))?;
                self.parent = None;
            }
            _ => unlinkat(parent, name, AtFlags::empty())?,
        }
        let is_whiteout = found_kind == FileType::CharacterDevice && found.st_rdev == 0;
        self.is_lossy |= !is_whiteout;
        Ok(is_whiteout)
    }

    /// `.wh.NAME` hides NAME of lower layers; `.wh..wh..opq` hides all that is in the same directory of lower layers.
    fn whiteout(&mut self, parent_path: &[u8], name: &[u8]) -> io::Result<()> {
        if name == OPAQUE {
            let parent = self.resolve_or_make(parent_path)?;
            return Ok(fsetxattr(&parent, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?);
        }
        let hidden = &name[WHITEOUT.len()..];
        // `.wh..wh.` names are notes that aufs left behind.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "A whiteout without a name"));
        }
        let hidden = CString::new(hidden)?;
        let parent = self.parent(parent_path)?;
        match mknodat(parent, hidden.as_c_str(), FileType::CharacterDevice, Mode::empty(), 0) {
            // An entry of this very layer is not hidden, but what lies below a directory is.
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(directory) = openat(parent, hidden.as_c_str(), flags, Mode::empty()) {
                    fsetxattr(&directory, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn root_metadata(&mut self, entry: &Entry) -> io::Result<()> {
        let (user, group) = owner(entry)?;
        rustix::fs::fchown(&self.root, Some(user), Some(group))?;
        set_attributes(entry, |attribute, value| {
            fsetxattr(&self.root, attribute, value, XattrFlags::empty())
        })?;
        rustix::fs::fchmod(&self.root, Mode::from_raw_mode(entry.mode))?;
        self.directories.push((Vec::new(), times(entry)));
        Ok(())
    }

    /// The directory of an entry, made if no entry named it.
    fn parent(&mut self, path: &[u8]) -> io::Result<&OwnedFd> {
        if self.parent.as_ref().is_none_or(|(cached, _)| cached != path) {
            let directory = self.resolve_or_make(path)?;
            self.parent = Some((path.to_vec(), directory));
        }
        match &self.parent {
            Some((_, directory)) => Ok(directory),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn resolve_or_make(&self, path: &[u8]) -> io::Result<OwnedFd> {
        match self.resolve(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut done = Vec::new();
        let mut directory = self.resolve(b"")?;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            done.extend_from_slice(part);
            directory = match self.resolve(&done) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A dangling symbolic link is in the way: mkdirat does not follow it and says that it exists.
                    mkdirat(&directory, CString::new(part)?.as_c_str(), Mode::from_raw_mode(0o755))?;
                    self.resolve(&done)?
                }
                result => result?,
            };
            done.push(b'/');
        }
        Ok(directory)
    }

    /// A directory beneath the root; symbolic links on the way are followed as if the root were `/`.
    fn resolve(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.root, path, flags, Mode::empty(), confined)?)
    }

    /// Sets the times of directories, children before parents.
    fn finish(&mut self) -> io::Result<()> {
        let mut directories = std::mem::take(&mut self.directories);
        directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (path, times) in directories {
            match self.resolve(&path) {
                Ok(directory) => futimens(&directory, &times)?,
                // A later entry of the layer replaced it.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn owner(entry: &Entry) -> io::Result<(Uid, Gid)> {
    // The highest number means "leave as it is" to the kernel.
    let number = |value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|value| *value != u32::MAX)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{value} is not an owner")))
    };
    Ok((Uid::from_raw(number(entry.uid)?), Gid::from_raw(number(entry.gid)?)))
}

fn times(entry: &Entry) -> Timestamps {
    let (seconds, nanoseconds) = entry.modified;
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets extended attributes, except overlayfs's own, by which an archive could show other layers' files.
fn set_attributes(
    entry: &Entry,
    set: impl Fn(&std::ffi::CStr, &[u8]) -> rustix::io::Result<()>,
) -> io::Result<()> {
    for (attribute, value) in &entry.attributes {
        if attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.") {
            continue;
        }
        let name = CString::new(attribute.clone())?;
        match set(name.as_c_str(), value) {
            // Not every filesystem has every kind of attribute, and symbolic links have few.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
