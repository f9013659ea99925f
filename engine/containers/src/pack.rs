//! Trees of files as tar archives: with owners, modes, times, links, devices and attributes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine_kernel::attributes::{self, numbers};
use engine_kernel::confine::Root;
use engine_kernel::ids::IdMap;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use tar::EntryType;

use super::ContainerError;
use super::place::{base_name, locate};

/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;
/// How many files with several names are remembered; further ones are packed once more for each.
const MOST_LINKED: usize = 1 << 20;
/// What begins the names of attributes in an archive.
pub(super) const ATTRIBUTE: &str = "SCHILY.xattr.";

/// An archive on its way to somewhere.
pub(super) struct Archive<'a> {
    builder: tar::Builder<&'a mut dyn Write>,
    /// Where files lie in it that have several names, by device and number.
    linked: HashMap<(u64, u64), PathBuf>,
    /// The only file system whose directories are entered.
    device: Option<u64>,
    /// Names begin with a slash, as dockerd has them in the archive of `/`: its client puts a directory's name before that.
    is_absolute: bool,
    /// Whose numbers are told, if the files are of a container with users of its own.
    ids: Option<IdMap>,
}

/// Writes a whole archive, with the numbers of users that hold inside.
pub(super) fn write_archive(
    output: &mut dyn Write,
    ids: Option<&IdMap>,
    pack: impl FnOnce(&mut Archive<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let builder = tar::Builder::new(output);
    let mut archive =
        Archive { builder, linked: HashMap::new(), device: None, is_absolute: false, ids: ids.cloned() };
    pack(&mut archive)?;
    archive.builder.into_inner()?.flush()
}

/// Packs the tree at a path.
pub(super) fn pack(root: &Root, path: &Path, archive: &mut Archive<'_>) -> io::Result<()> {
    let (parent, name) = locate(root, path).map_err(|error| match error {
        ContainerError::NoSuchFile(_) => io::Error::new(io::ErrorKind::NotFound, error.to_string()),
        error => io::Error::other(error.to_string()),
    })?;
    let shown = match base_name(path).as_str() {
        "/" | "" => {
            archive.is_absolute = true;
            PathBuf::from(".")
        }
        name => PathBuf::from(name),
    };
    archive.one(&find(parent.as_fd(), &name)?, &shown, 0)
}

/// Holds a file that is to be packed: what is described and what is read is one and the same, whatever comes by its name
/// meanwhile.
fn find(parent: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Packs all that is in the root directory, without what is mounted below it.
pub(super) fn pack_root(root: &Root, archive: &mut Archive<'_>) -> io::Result<()> {
    let root = root.get(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
    archive.device = Some(rustix::fs::fstat(&root)?.st_dev);
    archive.level(root.as_fd(), Path::new("."), Path::new(""), 0)
}

fn header(stat: &Stat, kind: EntryType, ids: Option<&IdMap>) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(ids.map_or(stat.st_uid, |ids| ids.user_inside(stat.st_uid)).into());
    header.set_gid(ids.map_or(stat.st_gid, |ids| ids.group_inside(stat.st_gid)).into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// Whether a directory holds what the kernel tells and is told, as below `/proc`: nobody's data, and much of it fails to be read.
/// dockerd, which mounts no such file systems where it copies, has them empty.
fn is_kernels(directory: BorrowedFd<'_>) -> io::Result<bool> {
    /// As in statfs(2).
    const KERNELS: [i64; 13] = [
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x1cd1,      // devpts
        0x1980_0202, // mqueue
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xcafe_4a11, // bpf
        0x6165_676c, // pstore
        0x6265_6570, // configfs
        0x6573_5543, // fusectl
    ];
    Ok(KERNELS.contains(&rustix::fs::fstatfs(directory)?.f_type))
}

impl Archive<'_> {
    /// Everything in one directory.
    fn level(&mut self, parent: BorrowedFd<'_>, name: &Path, shown: &Path, depth: usize) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            // One that has been removed meanwhile is empty.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        if is_kernels(directory.as_fd())? {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(PathBuf::from(OsStr::from_bytes(entry.file_name().to_bytes())));
            }
        }
        names.sort();
        for inner in names {
            match find(directory.as_fd(), &inner) {
                // The container goes on meanwhile, and may remove what it has.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => self.one(&found?, &shown.join(&inner), depth + 1)?,
            }
        }
        Ok(())
    }

    fn one(&mut self, found: &OwnedFd, shown: &Path, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other("the directories are too deep"));
        }
        let stat = rustix::fs::fstat(found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&identity) {
                let first = first.clone();
                let mut header = header(&stat, EntryType::Link, self.ids.as_ref());
                self.place([("path", shown, ""), ("linkpath", &first, "")])?;
                return self.builder.append_link(&mut header, shown, first);
            }
            if self.linked.len() < MOST_LINKED && kind != FileType::Socket {
                self.linked.insert(identity, shown.to_owned());
            }
        }
        match kind {
            FileType::Directory => {
                let mut folder = shown.as_os_str().to_owned();
                folder.push("/");
                self.describe(found, &stat, ("path", shown, "/"))?;
                self.builder.append_data(
                    &mut header(&stat, EntryType::Directory, self.ids.as_ref()),
                    folder,
                    io::empty(),
                )?;
                if self.device.is_none_or(|device| device == stat.st_dev) {
                    self.level(found.as_fd(), Path::new("."), shown, depth)?;
                }
                Ok(())
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(found, "", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                self.place([("path", shown, "")])?;
                self.builder.append_link(
                    &mut header(&stat, EntryType::Symlink, self.ids.as_ref()),
                    shown,
                    target,
                )
            }
            FileType::RegularFile => {
                let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
                let size = file.metadata()?.len();
                let mut header = header(&stat, EntryType::Regular, self.ids.as_ref());
                header.set_size(size);
                self.describe(found, &stat, ("path", shown, ""))?;
                // It may shrink meanwhile, and the header has promised its size.
                self.builder.append_data(&mut header, shown, file.chain(io::repeat(0)).take(size))
            }
            FileType::Fifo => self.special(found, &stat, EntryType::Fifo, shown),
            FileType::CharacterDevice => self.special(found, &stat, EntryType::Char, shown),
            FileType::BlockDevice => self.special(found, &stat, EntryType::Block, shown),
            // A socket means nothing without whoever listens there.
            _ => Ok(()),
        }
    }

    fn special(&mut self, found: &OwnedFd, stat: &Stat, kind: EntryType, shown: &Path) -> io::Result<()> {
        let mut header = header(stat, kind, self.ids.as_ref());
        header.set_device_major(rustix::fs::major(stat.st_rdev))?;
        header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        self.describe(found, stat, ("path", shown, ""))?;
        self.builder.append_data(&mut header, shown, io::empty())
    }

    /// A name that begins with a slash, which plain headers must not have; with what it ends in.
    fn absolute(&self, (field, shown, end): (&str, &Path, &str)) -> Option<(String, Vec<u8>)> {
        let inside = shown.strip_prefix(".").unwrap_or(shown).as_os_str().as_bytes();
        let end = if inside.is_empty() { "" } else { end };
        self.is_absolute.then(|| (field.to_owned(), [b"/", inside, end.as_bytes()].concat()))
    }

    /// Says what else the next header's names are, of what has nothing more to say.
    fn place<const COUNT: usize>(&mut self, names: [(&str, &Path, &str); COUNT]) -> io::Result<()> {
        let names: Vec<_> = names.into_iter().filter_map(|name| self.absolute(name)).collect();
        self.extend(&names)
    }

    fn extend(&mut self, more: &[(String, Vec<u8>)]) -> io::Result<()> {
        if more.is_empty() {
            return Ok(());
        }
        self.builder.append_pax_extensions(more.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
    }

    /// Says what the next header has no room for.
    fn describe(&mut self, found: &OwnedFd, stat: &Stat, name: (&str, &Path, &str)) -> io::Result<()> {
        let mut more: Vec<(String, Vec<u8>)> = attributes::read(found)?
            .into_iter()
            .map(|(name, value)| match &self.ids {
                Some(ids) => (format!("{ATTRIBUTE}{name}"), numbers::inside(&name, &value, ids)),
                None => (format!("{ATTRIBUTE}{name}"), value),
            })
            .collect();
        if stat.st_mtime_nsec != 0 {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            more.push(("mtime".to_owned(), time.into_bytes()));
        }
        more.extend(self.absolute(name));
        self.extend(&more)
    }
}
