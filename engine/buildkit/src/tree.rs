//! A directory that a client sends, packet by packet, into one that nothing of it leads out of.
//!
//! ```text
//! client: STAT a, STAT a/b, … STAT nothing        DATA …, DATA nothing        FIN
//! here:              REQ 1, …                                          FIN
//! ```
//!
//! Files are numbered as they come. Nothing that the client says is believed: paths do not climb, what is above a path is a
//! directory that was sent before, no name comes twice, and content belongs to a file that was asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::attributes;
use engine_kernel::confine::{Root, opened, set_attributes};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::messages::session::{Packet, Stat, packet};

/// As many as an archive of a context may have.
const MOST_ENTRIES: u32 = 2_000_000;
/// Bytes of all their names.
const MOST_NAMES: usize = 256 << 20;
/// As many as an archive of a context may have.
const MOST_BYTES: u64 = 64 << 30;
/// The client sends four files at a time.
const MOST_OPEN: usize = 64;
const LONGEST_PATH: usize = 4096;
/// As many files are asked for at a time.
pub(crate) const MOST_ASKED: usize = 512;

/// How much a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    entries: u32,
    names: usize,
    bytes: u64,
}

impl Bounds {
    pub(crate) const ALL: Self = Self { entries: MOST_ENTRIES, names: MOST_NAMES, bytes: MOST_BYTES };
    /// A few files, what is above them, and what they lead to as links.
    pub(crate) const TEXT: Self = Self { entries: 4096, names: 4 << 20, bytes: 64 << 20 };
}

/// The bits of Go's `fs.FileMode`.
pub(crate) mod go {
    pub(crate) const DIRECTORY: u32 = 1 << 31;
    pub(crate) const LINK: u32 = 1 << 27;
    pub(crate) const DEVICE: u32 = 1 << 26;
    pub(crate) const PIPE: u32 = 1 << 25;
    pub(crate) const SOCKET: u32 = 1 << 24;
    pub(crate) const SET_USER: u32 = 1 << 23;
    pub(crate) const SET_GROUP: u32 = 1 << 22;
    /// Of devices.
    pub(crate) const CHARACTERS: u32 = 1 << 21;
    pub(crate) const STICKY: u32 = 1 << 20;
    pub(crate) const IRREGULAR: u32 = 1 << 19;
    pub(crate) const KINDS: u32 = DIRECTORY | LINK | DEVICE | PIPE | SOCKET | CHARACTERS | IRREGULAR;
}

/// What is wrong with what a client sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("the client could not send its files: {0}")]
    Client(String),
    #[error("the client sent what makes no sense: {0}")]
    Nonsense(String),
    #[error("`{path}` of the client's files is a device: leave it out by `.dockerignore`")]
    Device { path: String },
    #[error("Could not write `{path}` of the client's files: {source}")]
    Write { path: String, source: io::Error },
}

fn nonsense(what: impl Into<String>) -> TreeError {
    TreeError::Nonsense(what.into())
}

/// What the client is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nothing,
    /// Send the content of this file.
    Request(u32),
    /// All is here.
    Finished,
}

/// A file whose content is on its way.
#[derive(Debug)]
struct Wanted {
    path: Arc<Path>,
    attributes: Attributes,
    is_asked: bool,
    /// From the first piece on.
    file: Option<File>,
}

#[derive(Clone, Debug)]
struct Attributes {
    mode: Mode,
    times: Timestamps,
    extended: Vec<(String, Vec<u8>)>,
}

/// A directory that is being filled.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Root,
    bounds: Bounds,
    next: u32,
    names: usize,
    /// Bytes of content so far.
    pub(crate) bytes: u64,
    directories: BTreeMap<PathBuf, Attributes>,
    /// What links may lead to.
    files: BTreeSet<Arc<Path>>,
    wanted: BTreeMap<u32, Wanted>,
    /// How many of them are asked for, and those that are not yet.
    asked: usize,
    waiting: VecDeque<u32>,
    open: usize,
    is_listed: bool,
    is_finished: bool,
}

impl Tree {
    /// Into a directory that is there and empty.
    pub(crate) fn new(folder: &Path, bounds: Bounds) -> io::Result<Self> {
        Ok(Self {
            root: Root::open(folder)?,
            bounds,
            next: 0,
            names: 0,
            bytes: 0,
            directories: BTreeMap::new(),
            files: BTreeSet::new(),
            wanted: BTreeMap::new(),
            asked: 0,
            waiting: VecDeque::new(),
            open: 0,
            is_listed: false,
            is_finished: false,
        })
    }

    /// Follows one packet. Blocks.
    pub(crate) fn take(&mut self, packet: Packet) -> Result<Reply, TreeError> {
        if self.is_finished {
            return Err(nonsense("it goes on after its end"));
        }
        match (packet.kind, packet.stat) {
            (packet::STAT, Some(stat)) if !self.is_listed => self.entry(stat),
            (packet::STAT, None) if !self.is_listed => {
                self.is_listed = true;
                self.finish_if_all()
            }
            (packet::STAT, _) => Err(nonsense("files come after the end of the list")),
            (packet::DATA, _) => self.content(packet.id, &packet.data),
            (packet::ERROR, _) => Err(TreeError::Client(String::from_utf8_lossy(&packet.data).into_owned())),
            (packet::FINISHED, _) => Err(nonsense("it ends before all was sent")),
            (other, _) => Err(nonsense(format!("there are no packets of the kind {other} here"))),
        }
    }

    fn entry(&mut self, stat: Stat) -> Result<Reply, TreeError> {
        let id = self.next;
        let most = self.bounds;
        if id == most.entries {
            return Err(nonsense(format!("there are more than {} files", most.entries)));
        }
        self.next += 1;
        let extended = stat.attributes.iter().map(|(name, value)| name.len() + value.len());
        self.names += stat.path.len() + stat.link.len() + extended.sum::<usize>();
        if self.names > most.names {
            return Err(nonsense(format!(
                "the names and attributes of all files have more than {} bytes",
                most.names
            )));
        }
        let path = checked(&stat.path)?;
        let shown = String::from_utf8_lossy(&stat.path).into_owned();
        let above = path.parent().unwrap_or_else(|| Path::new("/"));
        if above != Path::new("/") && !self.directories.contains_key(above) {
            return Err(nonsense(format!("`{shown}` is in a directory that was not sent")));
        }
        let failed = |source: io::Error| TreeError::Write { path: shown.clone(), source };
        let attributes = Attributes::of(&stat);
        match stat.mode & go::KINDS {
            go::DIRECTORY => {
                self.make_directory(&path).map_err(failed)?;
                self.directories.insert(path, attributes);
                Ok(Reply::Nothing)
            }
            go::LINK => {
                self.make_link(&path, &stat.link, &attributes).map_err(failed)?;
                Ok(Reply::Nothing)
            }
            0 if !stat.link.is_empty() => {
                let source = checked(&stat.link)?;
                if !self.files.contains(source.as_path()) {
                    return Err(nonsense(format!("`{shown}` is a second name of a file that was not sent")));
                }
                self.make_second_name(&source, &path).map_err(failed)?;
                Ok(Reply::Nothing)
            }
            0 => {
                self.make_file(&path).map_err(failed)?;
                let path: Arc<Path> = path.into();
                self.files.insert(Arc::clone(&path));
                self.wanted.insert(id, Wanted { path, attributes, is_asked: false, file: None });
                if self.asked < MOST_ASKED {
                    return Ok(self.ask(id));
                }
                self.waiting.push_back(id);
                Ok(Reply::Nothing)
            }
            // Other programs' ends of what is under way now: nothing that an image could be made of.
            go::PIPE | go::SOCKET => Ok(Reply::Nothing),
            kind if kind & go::DEVICE != 0 => Err(TreeError::Device { path: shown }),
            kind => Err(nonsense(format!("`{shown}` is of an unknown kind ({kind:#x})"))),
        }
    }

    fn ask(&mut self, id: u32) -> Reply {
        if let Some(wanted) = self.wanted.get_mut(&id) {
            wanted.is_asked = true;
            self.asked += 1;
        }
        Reply::Request(id)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.root.parent(path)?;
        Ok(rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?)
    }

    fn make_link(&self, path: &Path, target: &[u8], attributes: &Attributes) -> io::Result<()> {
        let (parent, name) = self.root.parent(path)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name)?;
        let link = opened(&parent, name, FileType::Symlink)?;
        set_attributes(&link, OWNER, None, &attributes.times)
    }

    fn make_second_name(&self, source: &Path, path: &Path) -> io::Result<()> {
        let (from, from_name) = self.root.parent(source)?;
        let (parent, name) = self.root.parent(path)?;
        Ok(rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty())?)
    }

    fn make_file(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.root.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
        Ok(())
    }

    fn content(&mut self, id: u32, data: &[u8]) -> Result<Reply, TreeError> {
        let Some(wanted) = self.wanted.get_mut(&id).filter(|wanted| wanted.is_asked) else {
            return Err(nonsense(format!("there is content of the file {id}, which was not asked for")));
        };
        let failed =
            |path: &Path, source: io::Error| TreeError::Write { path: path.display().to_string(), source };
        if wanted.file.is_none() {
            if self.open == MOST_OPEN {
                return Err(nonsense(format!("more than {MOST_OPEN} files come at the same time")));
            }
            let file = open(&self.root, &wanted.path).map_err(|error| failed(&wanted.path, error))?;
            wanted.file = Some(file);
            self.open += 1;
        }
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.bytes > self.bounds.bytes {
            return Err(nonsense(format!("there are more than {} bytes", self.bounds.bytes)));
        }
        if !data.is_empty() {
            if let Some(file) = &mut wanted.file {
                file.write_all(data).map_err(|error| failed(&wanted.path, error))?;
            }
            return Ok(Reply::Nothing);
        }
        if let Some(Wanted { path, attributes, file: Some(file), .. }) = self.wanted.remove(&id) {
            self.open -= 1;
            self.asked -= 1;
            attributes.set(&file).map_err(|error| failed(&path, error))?;
        }
        match self.waiting.pop_front() {
            Some(next) => Ok(self.ask(next)),
            None => self.finish_if_all(),
        }
    }

    fn finish_if_all(&mut self) -> Result<Reply, TreeError> {
        if !self.is_listed || !self.wanted.is_empty() {
            return Ok(Reply::Nothing);
        }
        // From the inside out: making something in a directory changes its time.
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let set = || {
                let (parent, name) = self.root.parent(&path)?;
                let directory = opened(&parent, name, FileType::Directory)?;
                attributes.set(&directory)
            };
            set().map_err(|source| TreeError::Write { path: path.display().to_string(), source })?;
        }
        self.is_finished = true;
        Ok(Reply::Finished)
    }
}

/// Whoever owns a file on the client, in a context it is root's.
const OWNER: (Uid, Gid) = (Uid::ROOT, Gid::ROOT);

impl Attributes {
    fn of(stat: &Stat) -> Self {
        let mut mode = stat.mode & 0o777;
        for (bit, own) in [(go::SET_USER, 0o4000), (go::SET_GROUP, 0o2000), (go::STICKY, 0o1000)] {
            if stat.mode & bit != 0 {
                mode |= own;
            }
        }
        let time = Timespec {
            tv_sec: stat.modified.div_euclid(1_000_000_000),
            tv_nsec: stat.modified.rem_euclid(1_000_000_000),
        };
        let times = Timestamps { last_access: time, last_modification: time };
        let extended = stat.attributes.iter().filter(|(name, _)| attributes::travels(name));
        let extended = extended.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { mode: Mode::from_raw_mode(mode), times, extended }
    }

    fn set(&self, file: &impl AsFd) -> io::Result<()> {
        set_attributes(file, OWNER, Some(self.mode), &self.times)?;
        // Changing the owner would take capabilities away.
        self.extended.iter().try_for_each(|(name, value)| attributes::write(file, name, value))
    }
}

/// Opens a file that was made here for writing.
fn open(root: &Root, path: &Path) -> io::Result<File> {
    let (parent, name) = root.parent(path)?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(&parent, name, flags, Mode::empty())?))
}

/// A path from the root on, of names alone.
fn checked(path: &[u8]) -> Result<PathBuf, TreeError> {
    if path.len() > LONGEST_PATH {
        return Err(nonsense(format!("a path has more than {LONGEST_PATH} bytes")));
    }
    let is_name = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    if !path.split(|byte| *byte == b'/').all(is_name) {
        return Err(nonsense(format!("`{}` is no path in a directory", path.escape_ascii())));
    }
    Ok(Path::new("/").join(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn stat(path: &str, mode: u32) -> Packet {
        let stat = Stat { path: path.into(), mode, modified: 1_500_000_000, ..Stat::default() };
        Packet { kind: packet::STAT, stat: Some(stat), ..Packet::default() }
    }

    fn link(path: &str, mode: u32, target: &str) -> Packet {
        let mut packet = stat(path, mode);
        packet.stat.as_mut().unwrap().link = target.into();
        packet
    }

    fn data(id: u32, data: &[u8]) -> Packet {
        Packet { kind: packet::DATA, id, data: data.to_vec(), ..Packet::default() }
    }

    fn take_all(folder: &Path, packets: Vec<Packet>) -> Result<Vec<Reply>, String> {
        let mut tree = Tree::new(folder, Bounds::ALL).unwrap();
        packets.into_iter().map(|packet| tree.take(packet).map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn a_tree_is_written_as_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let end = Packet::default();
        let replies = take_all(
            folder.path(),
            vec![
                stat("a", go::DIRECTORY | 0o750),
                stat("a/b", 0o640 | go::SET_USER),
                link("a/c", go::LINK | 0o777, "/etc/passwd"),
                link("a/d", 0o640, "a/b"),
                stat("e", 0o600),
                stat("f", go::SOCKET),
                end,
                data(1, b"one"),
                data(4, b""),
                data(1, b"two"),
                data(1, b""),
            ],
        );
        let replies = replies.unwrap();
        assert_eq!((replies[1], replies[4]), (Reply::Request(1), Reply::Request(4)));
        assert_eq!(replies.last(), Some(&Reply::Finished));
        assert_eq!(std::fs::read(folder.path().join("a/d")).unwrap(), b"onetwo");
        assert_eq!(std::fs::read_link(folder.path().join("a/c")).unwrap(), Path::new("/etc/passwd"));
        let directory = folder.path().join("a").metadata().unwrap();
        assert_eq!((directory.permissions().mode() & 0o7777, directory.mtime()), (0o750, 1));
        assert_eq!(folder.path().join("a/b").metadata().unwrap().permissions().mode() & 0o7777, 0o4640);
        assert!(!folder.path().join("f").exists());
    }

    #[test]
    fn names_may_be_no_text_and_attributes_travel() {
        // On a disk, as memory may have no attributes.
        let folder = tempfile::tempdir_in(".").unwrap();
        let name = b"caf\xe9";
        let mut file = stat("", 0o640);
        let described = file.stat.as_mut().unwrap();
        described.path = name.to_vec();
        described.attributes =
            [("user.colour", "red"), ("security.selinux", "x"), ("trusted.overlay.opaque", "y")]
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into();
        let mut second = link("z", 0o640, "");
        second.stat.as_mut().unwrap().link = name.to_vec();
        let packets = vec![file, second, Packet::default(), data(0, b"x"), data(0, b"")];
        assert_eq!(take_all(folder.path(), packets).unwrap().last(), Some(&Reply::Finished));
        let made = File::open(folder.path().join(OsStr::from_bytes(name))).unwrap();
        assert_eq!(std::fs::read(folder.path().join("z")).unwrap(), b"x");
        let found = attributes::read(&made).unwrap();
        assert!(found.is_empty() || found == [("user.colour".to_owned(), b"red".to_vec())], "{found:?}");
    }

    #[test]
    fn only_some_files_are_asked_for_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(folder.path(), Bounds::ALL).unwrap();
        let count = u32::try_from(MOST_ASKED).unwrap();
        for id in 0..count {
            assert_eq!(tree.take(stat(&format!("{id}"), 0o644)).unwrap(), Reply::Request(id));
        }
        assert_eq!(tree.take(stat("more", 0o644)).unwrap(), Reply::Nothing);
        assert_eq!(tree.take(Packet::default()).unwrap(), Reply::Nothing);
        assert_eq!(tree.take(data(3, b"")).unwrap(), Reply::Request(count));
        let mut ids = (0..=count).filter(|id| *id != 3);
        let last = ids.next_back().unwrap();
        assert!(ids.all(|id| tree.take(data(id, b"")).unwrap() == Reply::Nothing));
        assert_eq!(tree.take(data(last, b"")).unwrap(), Reply::Finished);
    }

    /// What was not asked for yet is not taken.
    #[test]
    fn content_comes_when_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(folder.path(), Bounds::ALL).unwrap();
        let count = u32::try_from(MOST_ASKED).unwrap();
        for id in 0..=count {
            tree.take(stat(&format!("{id}"), 0o644)).unwrap();
        }
        assert!(tree.take(data(count, b"x")).is_err());
    }

    #[test]
    fn a_few_files_are_not_many() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { entries: 2, names: 100, bytes: 3 };
        let mut tree = Tree::new(folder.path(), bounds).unwrap();
        tree.take(stat("a", 0o644)).unwrap();
        tree.take(stat("b", 0o644)).unwrap();
        assert!(tree.take(stat("c", 0o644)).is_err());
        tree.take(data(0, b"abc")).unwrap();
        assert!(tree.take(data(1, b"d")).is_err());
    }

    #[test]
    fn lies_are_refused() {
        let directory = || stat("a", go::DIRECTORY | 0o755);
        let lies = [
            vec![stat("../x", 0o644)],
            vec![stat("/x", 0o644)],
            vec![stat("a/../../x", 0o644)],
            vec![stat("", 0o644)],
            vec![stat("x\0y", 0o644)],
            vec![stat("a/x", 0o644)],
            vec![link("up", go::LINK, ".."), stat("up/x", 0o644)],
            vec![link("a", go::LINK, "/etc"), directory()],
            vec![directory(), directory()],
            vec![stat("x", 0o644), stat("x", 0o644)],
            vec![link("x", 0o644, "etc/passwd")],
            vec![link("x", 0o644, "/etc/passwd")],
            vec![stat("null", go::DEVICE | (1 << 21))],
            vec![stat("x", go::IRREGULAR)],
            vec![data(0, b"x")],
            vec![directory(), data(0, b"x")],
            vec![stat("x", 0o644), data(7, b"x")],
            vec![stat("x", 0o644), data(0, b""), data(0, b"more")],
            vec![Packet::default(), stat("x", 0o644)],
            vec![Packet::default(), Packet::default()],
            vec![Packet { kind: packet::FINISHED, ..Packet::default() }],
            vec![Packet { kind: 77, ..Packet::default() }],
            vec![stat(&"x".repeat(5000), 0o644)],
        ];
        for lie in lies {
            let folder = tempfile::tempdir().unwrap();
            let inside = folder.path().join("in");
            std::fs::create_dir(&inside).unwrap();
            let shown = format!("{lie:?}");
            assert!(take_all(&inside, lie).is_err(), "{shown}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{shown}");
        }
    }
}
