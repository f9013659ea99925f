//! What was changed on top of other layers, as the tar stream of one more: overlayfs's upper directory, whose marks become
//! whiteouts.
//!
//! Entries come in the order of their names, so that the same changes are the same bytes. Sockets are left out, as they mean
//! nothing to others, and so is what was only made to mount something on.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use engine_model::Changes;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
/// Marks of overlayfs by which a file's content or place is elsewhere.
const ELSEWHERE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];
/// Attributes that say something about this host and not about the file.
const OF_THE_HOST: [&str; 3] = ["security.selinux", "security.ima", "security.evm"];

/// Something in the upper directory.
struct Node {
    name: OsString,
    stat: Stat,
    is_opaque: bool,
    children: Vec<Node>,
}

impl Node {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn is_whiteout(&self) -> bool {
        is_whiteout(&self.stat)
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Writes the whole stream. True if there was anything to write.
pub(super) fn pack(changes: &Changes, output: impl Write) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&changes.upper, flags, Mode::empty())?;
    let mut nodes = read(&root, 0)?;
    let lower = changes.lower.iter().map(|path| rustix::fs::open(path, flags, Mode::empty()));
    let stubs = Stubs {
        lower: lower.collect::<Result<_, _>>()?,
        mounted: changes.mount_points.iter().map(|path| path.strip_prefix("/").unwrap_or(path)).collect(),
    };
    nodes.retain_mut(|node| !stubs.is_left_over(node, Path::new("")));
    let mut archive = Archive { tar: tar::Builder::new(output), links: HashMap::new() };
    for node in &nodes {
        archive.add(root.as_fd(), node, Path::new(""))?;
    }
    archive.tar.into_inner()?.flush()?;
    Ok(!nodes.is_empty())
}

/// Writes everything in a folder. Marks of overlayfs are marks here as well, if they can be seen.
pub fn pack_folder(folder: &Path, output: &mut dyn Write) -> io::Result<()> {
    let changes = Changes { upper: folder.to_owned(), lower: Vec::new(), mount_points: Vec::new() };
    pack(&changes, output).map(drop)
}

/// What was found, unless nothing has that name any more.
fn unless_gone<T>(found: Result<T, impl Into<io::Error>>) -> io::Result<Option<T>> {
    match found.map_err(Into::into) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn read(directory: &OwnedFd, depth: usize) -> io::Result<Vec<Node>> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("The directories are more than {DEEPEST} deep")));
    }
    let mut nodes = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Of a container that goes on meanwhile; what it has removed is not there.
        let Some(stat) = unless_gone(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))? else { continue };
        let mut node = Node {
            name: OsString::from_vec(name.to_bytes().to_vec()),
            stat,
            is_opaque: false,
            children: Vec::new(),
        };
        match node.kind() {
            FileType::Socket => continue,
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = openat(directory, name, flags, Mode::empty());
                if matches!(opened, Err(rustix::io::Errno::NOTDIR)) {
                    // What marks that a layer below has had it may be in its place by now.
                    let stat = unless_gone(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))?;
                    let Some(stat) = stat else { continue };
                    if is_whiteout(&stat) {
                        nodes.push(Node { stat, ..node });
                        continue;
                    }
                }
                let Some(inner) = unless_gone(opened)? else { continue };
                let opaque = attribute(&path_of(&inner).join("."), OVERLAY_OPAQUE);
                let Some(opaque) = unless_gone(opaque)? else { continue };
                node.is_opaque = opaque.is_some_and(|value| value == b"y");
                let Some(children) = unless_gone(read(&inner, depth + 1))? else { continue };
                node.children = children;
            }
            _ => {}
        }
        nodes.push(node);
    }
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(nodes)
}

/// Tells what was made to mount something on.
struct Stubs<'a> {
    /// Top layer first.
    lower: Vec<OwnedFd>,
    mounted: Vec<&'a Path>,
}

impl Stubs<'_> {
    /// Whether nobody but a mount needed it: an empty file or directory where something was mounted, and a directory that holds
    /// nothing else and is as it was before.
    fn is_left_over(&self, node: &mut Node, folder: &Path) -> bool {
        let path = folder.join(&node.name);
        if !self.mounted.iter().any(|point| point.starts_with(&path)) {
            return false;
        }
        match node.kind() {
            FileType::RegularFile => node.stat.st_size == 0 && self.below(&path).is_none(),
            FileType::Directory => {
                let before = node.children.len();
                node.children.retain_mut(|child| !self.is_left_over(child, &path));
                let served = node.children.len() < before || self.mounted.contains(&path.as_path());
                let same = |lower: Stat| {
                    (lower.st_mode, lower.st_uid, lower.st_gid)
                        == (node.stat.st_mode, node.stat.st_uid, node.stat.st_gid)
                };
                served && node.children.is_empty() && !node.is_opaque && self.below(&path).is_none_or(same)
            }
            _ => false,
        }
    }

    /// What the layers below have by this name.
    fn below(&self, path: &Path) -> Option<Stat> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut found =
            self.lower.iter().filter_map(|layer| openat2(layer, path, flags, Mode::empty(), confined).ok());
        let stat = rustix::fs::fstat(found.next()?).ok()?;
        (!is_whiteout(&stat)).then_some(stat)
    }
}

/// A tar stream that is being written.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    /// Files with several names, by device and number, to the name that came first.
    links: HashMap<(u64, u64), PathBuf>,
}

/// Longer names and targets of links go into a header of their own.
const LONGEST_NAME: usize = 100;

impl<W: Write> Archive<W> {
    fn add(&mut self, parent: BorrowedFd<'_>, node: &Node, folder: &Path) -> io::Result<()> {
        let path = folder.join(&node.name);
        if node.is_whiteout() {
            return self.whiteout(folder, &node.name);
        }
        if node.name.as_bytes().starts_with(b".wh.") {
            return Err(io::Error::other(format!(
                "`{}` has a name that marks files that are gone, and cannot be in a layer",
                path.display()
            )));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(parent, node.name.as_os_str(), flags, Mode::empty());
        let Some(found) = unless_gone(opened)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&found)?;
        if is_whiteout(&stat) {
            return self.whiteout(folder, &node.name);
        }
        if FileType::from_raw_mode(stat.st_mode) != node.kind() {
            return Err(io::Error::other(format!("`{}` was replaced while it was read", path.display())));
        }
        let has_names = node.kind() != FileType::Directory && stat.st_nlink > 1;
        let identity = (stat.st_dev, stat.st_ino);
        if has_names && let Some(first) = self.links.get(&identity).cloned() {
            let header = header(&stat, tar::EntryType::Link);
            return self.put(header, path.as_os_str(), first.as_os_str(), Vec::new(), io::empty());
        }
        // By the directory and the name: what is opened as a place only has no attributes to read.
        let attributes = attributes(&path_of(parent).join(&node.name));
        let Some(attributes) = unless_gone(attributes)? else { return Ok(()) };
        if has_names {
            self.links.insert(identity, path.clone());
        }
        let none = OsStr::new("");
        match node.kind() {
            FileType::Directory => {
                let mut shown = path.as_os_str().to_owned();
                shown.push("/");
                let header = header(&stat, tar::EntryType::Directory);
                self.put(header, &shown, none, attributes, io::empty())?;
                if node.is_opaque {
                    self.whiteout(&path, OsStr::new(".wh..opq"))?;
                }
                node.children.iter().try_for_each(|child| self.add(found.as_fd(), child, &path))
            }
            FileType::Symlink => {
                let target = readlinkat(&found, "", Vec::new())?;
                let target = OsStr::from_bytes(target.to_bytes());
                let header = header(&stat, tar::EntryType::Symlink);
                self.put(header, path.as_os_str(), target, attributes, io::empty())
            }
            FileType::RegularFile => {
                let file = File::open(path_of(&found))?;
                let size = file.metadata()?.len();
                let mut header = header(&stat, tar::EntryType::Regular);
                header.set_size(size);
                // A container that runs may make it shorter meanwhile, and the header has promised its size.
                let content = file.chain(io::repeat(0)).take(size);
                self.put(header, path.as_os_str(), none, attributes, content)
            }
            kind => {
                let entry = match kind {
                    FileType::CharacterDevice => tar::EntryType::Char,
                    FileType::BlockDevice => tar::EntryType::Block,
                    _ => tar::EntryType::Fifo,
                };
                let mut header = header(&stat, entry);
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                self.put(header, path.as_os_str(), none, attributes, io::empty())
            }
        }
    }

    fn whiteout(&mut self, folder: &Path, name: &OsStr) -> io::Result<()> {
        let mut hidden = OsString::from(".wh.");
        hidden.push(name);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_mtime(0);
        self.put(header, folder.join(hidden).as_os_str(), OsStr::new(""), Vec::new(), io::empty())
    }

    /// Writes an entry, with everything that its header has no room for in one of its own before it. Names and targets of
    /// links stay as they are, byte for byte.
    fn put(
        &mut self,
        mut header: tar::Header,
        path: &OsStr,
        link: &OsStr,
        attributes: Vec<(String, Vec<u8>)>,
        content: impl Read,
    ) -> io::Result<()> {
        let mut extended = Vec::new();
        let fields = header.as_gnu_mut().ok_or(io::ErrorKind::InvalidInput)?;
        for (name, value, field) in
            [("path", path, &mut fields.name), ("linkpath", link, &mut fields.linkname)]
        {
            let bytes = value.as_bytes();
            if bytes.len() > LONGEST_NAME {
                extended.push((name.to_owned(), bytes.to_vec()));
            }
            let fits = bytes.len().min(LONGEST_NAME);
            field[..fits].copy_from_slice(&bytes[..fits]);
        }
        extended.extend(attributes);
        if !extended.is_empty() {
            let extended = extended.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(extended)?;
        }
        header.set_cksum();
        self.tar.append(&header, content)
    }
}

/// Extended attributes that go with a file, in the words of tar's extended headers.
fn attributes(place: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in names(place)? {
        if ELSEWHERE.contains(&name.as_str()) {
            let message = format!(
                "overlayfs keeps a part of it elsewhere (`{name}`): it has to be mounted without that"
            );
            return Err(io::Error::other(message));
        }
        let is_marks = name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
        if is_marks || OF_THE_HOST.contains(&name.as_str()) {
            continue;
        }
        if let Some(value) = attribute(place, &name)? {
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    found.sort();
    Ok(found)
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

fn path_of(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// The names of a file's attributes; a symbolic link is not followed.
fn names(place: &Path) -> io::Result<Vec<String>> {
    let list = whole(|list| rustix::fs::llistxattr(place, list), || rustix::fs::llistxattr_query(place))?;
    let list = list.unwrap_or_default();
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn attribute(place: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    whole(|value| rustix::fs::lgetxattr(place, name, value), || rustix::fs::lgetxattr_query(place, name))
}

/// Asks for a size, then for as much; again if there was more by then. `None` if there is nothing.
fn whole(
    get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    size: impl Fn() -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    loop {
        let mut value = match size() {
            Ok(size) => vec![0; size],
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if value.is_empty() {
            return Ok(Some(value));
        }
        match get(&mut value) {
            Ok(read) => {
                value.truncate(read);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
