//! Unpacks archives into a directory that nothing of them leads out of.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engine_kernel::attributes;
use engine_kernel::confine::{Root, clean, opened, set_attributes};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, makedev};

/// As many as an image's layer may have.
const MOST_ENTRIES: usize = 2_000_000;
/// No honest context is larger, and a stream without an end comes to one.
const MOST_BYTES: u64 = 64 << 30;
/// Of an archive.
const BLOCK: u64 = 512;
/// Bytes of a file that are worth a hole.
const LONG_NOTHING: usize = 16 * 1024;

/// What an unpacking keeps of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Files, directories and links: what a context is made of. Everything belongs to root.
    Files,
    /// Devices, pipes, owners and all attributes as well.
    Everything,
}

/// Unpacks a tar archive, not compressed, in a directory that is there.
pub(crate) fn unpack(root: &Root, into: &Path, archive: impl Read, keep: Keep) -> io::Result<()> {
    let made_up = Rc::new(Cell::new(false));
    let mut archive = tar::Archive::new(Padded { archive, position: 0, made_up: Rc::clone(&made_up) });
    let mut directories = Vec::new();
    let (mut entries, mut bytes) = (0_usize, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if matches!(kind, tar::EntryType::XGlobalHeader) {
            continue;
        }
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > MOST_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MOST_ENTRIES} entries")));
        }
        if bytes > MOST_BYTES {
            return Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes")));
        }
        let inner = clean(Path::new(OsStr::from_bytes(&entry.path_bytes())));
        let target = into.join(inner.strip_prefix("/").unwrap_or(&inner));
        if inner == Path::new("/") {
            continue;
        }
        let made = make(root, into, &target, &mut entry, keep)?;
        if made_up.get() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF"));
        }
        if let Some(file) = made {
            let attributes = Attributes::of(&mut entry, keep)?;
            attributes.set(&file)?;
            if kind.is_dir() {
                directories.push((target, attributes.times));
            }
        }
    }
    // What was unpacked into them has changed their times.
    for (target, times) in directories.into_iter().rev() {
        if let Ok((parent, name)) = root.parent(&target) {
            rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

/// Goes on with nothing from the end of an archive to the end of its block. Writers in Go leave that out of the last entry if they
/// are not closed, as the stock client does it with a Dockerfile from outside of the context; readers in Go do not miss it.
struct Padded<R> {
    archive: R,
    position: u64,
    /// Whether there was such an end.
    made_up: Rc<Cell<bool>>,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = self.archive.read(buffer)?;
        let missing = self.position.next_multiple_of(BLOCK) - self.position;
        if length == 0 && missing > 0 && !buffer.is_empty() {
            length = buffer.len().min(usize::try_from(missing).unwrap_or(0));
            buffer[..length].fill(0);
            self.made_up.set(true);
        }
        self.position += length as u64;
        Ok(length)
    }
}

/// Makes what an entry is about. `None` where it has nothing of its own, or is not kept.
fn make<R: Read>(
    root: &Root,
    into: &Path,
    target: &Path,
    entry: &mut tar::Entry<'_, R>,
    keep: Keep,
) -> io::Result<Option<OwnedFd>> {
    let kind = entry.header().entry_type();
    if let Some(folder) = target.parent() {
        root.create_directories(folder)?;
    }
    let (parent, name) = root.parent(target)?;
    let is_directory = remove_what_is_there(&parent, name, kind.is_dir())?;
    let link = |entry: &tar::Entry<'_, R>| -> io::Result<PathBuf> {
        let link = entry.link_name_bytes().ok_or_else(|| io::Error::other("a link leads nowhere"))?;
        Ok(PathBuf::from(OsStr::from_bytes(&link)))
    };
    Ok(Some(match kind {
        tar::EntryType::Directory => {
            if !is_directory {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            }
            opened(&parent, name, FileType::Directory)?
        }
        tar::EntryType::Symlink => {
            rustix::fs::symlinkat(link(entry)?, &parent, name)?;
            opened(&parent, name, FileType::Symlink)?
        }
        tar::EntryType::Link => {
            let source = clean(&link(entry)?);
            let source = into.join(source.strip_prefix("/").unwrap_or(&source));
            let (from, from_name) = root.parent(&source)?;
            rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty())?;
            return Ok(None);
        }
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
            copy(entry, &mut file)?;
            file.into()
        }
        tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo if keep == Keep::Everything => {
            let header = entry.header();
            let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
            let device = makedev(number(header.device_major()), number(header.device_minor()));
            let kind = match kind {
                tar::EntryType::Char => FileType::CharacterDevice,
                tar::EntryType::Block => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            // To overlayfs, this device marks a file that is gone.
            if kind == FileType::CharacterDevice && device == 0 {
                return Ok(None);
            }
            let device = if kind == FileType::Fifo { 0 } else { device };
            rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), device)?;
            opened(&parent, name, kind)?
        }
        _ => return Ok(None),
    }))
}

/// True if a directory is there and may stay.
fn remove_what_is_there(parent: &OwnedFd, name: &OsStr, for_directory: bool) -> io::Result<bool> {
    let Ok(found) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(false) };
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        return Ok(false);
    }
    if !for_directory {
        let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
        std::fs::remove_dir_all(path)?;
    }
    Ok(for_directory)
}

/// Copies content; long nothing becomes a hole.
pub(crate) fn copy(from: &mut impl Read, to: &mut File) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read >= LONG_NOTHING && buffer[..read].iter().all(|byte| *byte == 0) {
            to.seek_relative(i64::try_from(read).map_err(io::Error::other)?)?;
        } else {
            to.write_all(&buffer[..read])?;
        }
        size += read as u64;
    }
    to.set_len(size)?;
    Ok(size)
}

/// What an entry says of its file.
struct Attributes {
    owner: (Uid, Gid),
    mode: Option<Mode>,
    times: Timestamps,
    extended: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>, keep: Keep) -> io::Result<Self> {
        let mut extended = Vec::new();
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
                else {
                    continue;
                };
                // By overlayfs's own an archive could show other layers' files.
                let is_wanted = match keep {
                    Keep::Files => attributes::travels(name),
                    Keep::Everything => {
                        !name.starts_with("trusted.overlay.") && !name.starts_with("user.overlay.")
                    }
                };
                if is_wanted {
                    extended.push((name.to_owned(), extension.value_bytes().to_vec()));
                }
            }
        }
        let header = entry.header();
        let number =
            |value: io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let owner = match keep {
            Keep::Files => (0, 0),
            Keep::Everything => (number(header.uid()), number(header.gid())),
        };
        let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let is_link = header.entry_type() == tar::EntryType::Symlink;
        Ok(Self {
            owner: (Uid::from_raw(owner.0), Gid::from_raw(owner.1)),
            mode: if is_link { None } else { Some(Mode::from_raw_mode(header.mode()? & 0o7777)) },
            times: Timestamps { last_access: time, last_modification: time },
            extended,
        })
    }

    fn set(&self, file: &OwnedFd) -> io::Result<()> {
        if self.mode.is_some() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            for (name, value) in &self.extended {
                match rustix::fs::setxattr(&path, name.as_str(), value, XattrFlags::empty()) {
                    // Not every file system has every kind of attribute.
                    Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        set_attributes(file, self.owner, self.mode, &self.times)?;
        // Changing the owner takes capabilities away.
        if let Some((name, value)) = self.extended.iter().find(|(name, _)| name == "security.capability") {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let _ = rustix::fs::setxattr(&path, name.as_str(), value, XattrFlags::empty());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_context_stays_in_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind: tar::EntryType, link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o4755);
            header.set_uid(7);
            let fields = header.as_gnu_mut().unwrap();
            fields.name[..name.len()].copy_from_slice(name.as_bytes());
            fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        };
        add("../../out/climbed", tar::EntryType::Regular, "");
        add("link/followed", tar::EntryType::Regular, "");
        add("up", tar::EntryType::Symlink, "/../..");
        add("up/out/again", tar::EntryType::Regular, "");
        add("null", tar::EntryType::Char, "");
        let archive = builder.into_inner().unwrap();
        let root = Root::open(&inside).unwrap();
        let _ = unpack(&root, Path::new("/"), archive.as_slice(), Keep::Files);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let climbed = inside.join("out/climbed").metadata().unwrap();
        assert_eq!((climbed.uid(), climbed.mode() & 0o7777), (0, 0o4755));
        assert!(!inside.join("null").exists());
    }

    #[test]
    fn an_archive_may_end_where_its_last_file_does() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [("first", "one"), ("last", "three")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let end = 3 * 512 + "three".len();
        for (length, fits) in
            [(end, true), (end + 1, true), (end - 1, false), (2 * 512 + 100, false), (512 + 2, false)]
        {
            let folder = tempfile::tempdir().unwrap();
            let root = Root::open(folder.path()).unwrap();
            let result = unpack(&root, Path::new("/"), &archive[..length], Keep::Files);
            assert_eq!(result.is_ok(), fits, "{length}: {result:?}");
            if fits {
                assert_eq!(std::fs::read(folder.path().join("last")).unwrap(), b"three");
            }
        }
    }
}
