//! Archives unpacked as trees of files, never outside of the container's root; and where archives go.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use engine_kernel::attributes::{self, numbers};
use engine_kernel::confine::{Root, opened, set_attributes};
use engine_kernel::ids::IdMap;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use tokio::sync::mpsc;

use super::pack::ATTRIBUTE;

/// Archives come as they are or compressed with gzip.
fn plain<'a>(mut archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    archive.by_ref().take(2).read_to_end(&mut start)?;
    let compressed = start == [0x1f, 0x8b];
    let whole = io::Cursor::new(start).chain(archive);
    Ok(if compressed { Box::new(flate2::read::MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

/// Unpacks an archive in a directory, of which nothing leads out. `ids` are of a container with users of its own.
pub(super) fn unpack(
    root: &Root,
    path: &Path,
    archive: impl Read,
    keep_kinds: bool,
    ids: Option<&IdMap>,
) -> io::Result<()> {
    let _acting = ids.map(IdMap::act).transpose()?;
    let mut archive = tar::Archive::new(plain(archive)?);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inner = engine_kernel::confine::clean(&entry.path()?);
        let target = path.join(inner.strip_prefix("/").unwrap_or(&inner));
        let header = entry.header().clone();
        let kind = header.entry_type();
        let more = Extensions::of(&mut entry)?;
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
                directories.push((target.clone(), more.times(&header)));
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
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file =
                    File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
                copy_with_holes(&mut entry, &mut file)?;
                file.into()
            }
            tar::EntryType::Fifo | tar::EntryType::Char | tar::EntryType::Block => {
                special(parent.as_fd(), name, &header)?
            }
            _ => continue,
        };
        let number =
            |value: io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let owner = owner((number(header.uid()), number(header.gid())), ids)?;
        let mode = match kind {
            tar::EntryType::Symlink => None,
            _ => Some(Mode::from_raw_mode(header.mode()? & 0o7777)),
        };
        set_attributes(&file, owner, mode, &more.times(&header))?;
        if kind != tar::EntryType::Symlink {
            // After the owner, whose change takes capabilities away.
            for (name, value) in &more.attributes {
                match ids {
                    Some(ids) => attributes::write(&file, name, &numbers::outside(name, value, ids))?,
                    None => attributes::write(&file, name, value)?,
                }
            }
        }
    }
    // What was unpacked into them has changed their times.
    for (target, times) in directories.into_iter().rev() {
        let (parent, name) = root.parent(&target)?;
        rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Who a user and a group of the archive are.
fn owner((user, group): (u32, u32), ids: Option<&IdMap>) -> io::Result<(Uid, Gid)> {
    let found = match ids {
        None => Some((user, group)),
        Some(ids) => ids.user_outside(user).zip(ids.group_outside(group)),
    };
    let (user, group) = found.ok_or_else(|| {
        io::Error::other(format!(
            "user {user} or group {group} is beyond the range that `userns-remap` gives"
        ))
    })?;
    Ok((Uid::from_raw(user), Gid::from_raw(group)))
}

/// What an entry says beside its header.
#[derive(Debug, Default)]
struct Extensions {
    attributes: Vec<(String, Vec<u8>)>,
    /// Seconds and nanoseconds.
    modified: Option<(i64, i64)>,
}

impl Extensions {
    fn of(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Self> {
        let mut found = Self::default();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if let Some(name) = key.strip_prefix(ATTRIBUTE).filter(|name| attributes::is_carried(name)) {
                found.attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
            } else if key == "mtime" {
                found.modified = extension.value().ok().and_then(time);
            }
        }
        Ok(found)
    }

    fn times(&self, header: &tar::Header) -> Timestamps {
        let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
        let (tv_sec, tv_nsec) = self.modified.unwrap_or((seconds, 0));
        let time = Timespec { tv_sec, tv_nsec };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// `1700000000.25`.
fn time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok().filter(|nanoseconds| *nanoseconds >= 0)?))
}

/// Makes a pipe or a device, which nobody opens here.
fn special(parent: BorrowedFd<'_>, name: &OsStr, header: &tar::Header) -> io::Result<OwnedFd> {
    let kind = match header.entry_type() {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = |found: io::Result<Option<u32>>| Ok::<_, io::Error>(found?.unwrap_or(0));
    let device = rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
    rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)?;
    opened(parent, name, kind)
}

/// Blocks of zeros take no room.
fn copy_with_holes(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    const BLOCK: usize = 4096;
    let (mut buffer, mut length) = (vec![0; 16 * BLOCK], 0_u64);
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return to.set_len(length);
        }
        for block in buffer[..filled].chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                to.write_all_at(block, length)?;
            }
            length += block.len() as u64;
        }
    }
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
    use crate::pack;

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
        let _ = unpack(&root, Path::new("/in"), archive.as_slice(), false, None);
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
                let _ = unpack(&root, Path::new("/"), archive.as_slice(), false, None);
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
        let folder = tempfile::tempdir_in(".").unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("tree/sub")).unwrap();
        fs::write(from.join("tree/sub/file"), "content").unwrap();
        fs::hard_link(from.join("tree/sub/file"), from.join("tree/sub/same")).unwrap();
        symlink("sub/file", from.join("tree/link")).unwrap();
        let tree = File::open(from.join("tree")).unwrap();
        rustix::fs::mknodat(&tree, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let device = rustix::fs::makedev(1, 3);
        let mode = Mode::from_raw_mode(0o666);
        let has_devices = rustix::fs::mknodat(&tree, "null", FileType::CharacterDevice, mode, device).is_ok();
        let noted = File::options().write(true).open(from.join("tree/sub/file")).unwrap();
        attributes::write(&noted, "user.colour", b"red").unwrap();
        let times =
            fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(5, 25));
        noted.set_times(times).unwrap();
        File::create(from.join("tree/hole")).unwrap().set_len(50_000_000).unwrap();
        let mut archive = Vec::new();
        let root = Root::open(&from).unwrap();
        pack::write_archive(&mut archive, None, |archive| pack::pack(&root, Path::new("/tree"), archive))
            .unwrap();
        let to = folder.path().join("to");
        fs::create_dir(&to).unwrap();
        unpack(&Root::open(&to).unwrap(), Path::new("/"), archive.as_slice(), false, None).unwrap();
        assert_eq!(fs::read_to_string(to.join("tree/link")).unwrap(), "content");
        let found = |name: &str| fs::symlink_metadata(to.join("tree").join(name)).unwrap();
        assert_eq!(found("sub/file").ino(), found("sub/same").ino());
        assert_eq!((found("sub/file").mtime(), found("sub/file").mtime_nsec()), (5, 25));
        assert!(FileType::from_raw_mode(found("pipe").mode()) == FileType::Fifo);
        if has_devices {
            assert_eq!(found("null").rdev(), device);
        }
        assert_eq!(found("hole").len(), 50_000_000);
        assert!(found("hole").blocks() < 1000, "{}", found("hole").blocks());
        let (before, after) = (File::open(from.join("tree/sub/file")), File::open(to.join("tree/sub/file")));
        assert_eq!(attributes::read(&after.unwrap()).unwrap(), attributes::read(&before.unwrap()).unwrap());
    }

    #[test]
    fn times_have_fractions() {
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        for strange in ["", "x", "1.x", "1.-5"] {
            assert_eq!(time(strange), None, "{strange}");
        }
    }
}
