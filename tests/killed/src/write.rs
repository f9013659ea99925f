//! Which system calls are writes, and what they are about to change.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt, fs,
    os::unix::{ffi::OsStringExt as _, fs::FileExt as _},
    path::{Component, Path, PathBuf},
};

use crate::{Watch, tracer::Stop};

/// No path is longer.
const LONGEST_PATH: usize = 4096;

/// A change of a folder that others see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub call: &'static str,
    pub path: PathBuf,
    /// The name before, where something is renamed or linked.
    pub from: Option<PathBuf>,
}

impl fmt::Display for Write {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.call)?;
        if let Some(from) = &self.from {
            write!(formatter, "{} as ", end_of(from))?;
        }
        formatter.write_str(&end_of(&self.path))
    }
}

fn has_temporary_name(path: &Path) -> bool {
    path.iter().any(|name| {
        let name = name.to_string_lossy();
        name.starts_with(".tmp-") || name.starts_with(".new-")
    })
}

/// A path in a folder without what differs from one run to the next: numbers, and names by chance.
fn lasting(path: &Path, folder: &Path) -> String {
    let path = path.strip_prefix(folder).unwrap_or_else(|_| path.file_name().map_or(path, Path::new));
    let name = |name: &OsStr| {
        let name = name.to_string_lossy();
        if let Some(prefix) = [".tmp-", ".new-"].into_iter().find(|prefix| name.starts_with(prefix)) {
            return prefix.to_owned();
        }
        let words = name.split(|letter: char| !letter.is_alphanumeric());
        words.map(|word| if is_by_chance(word) { "#" } else { word }).collect::<Vec<_>>().join("-")
    };
    path.iter().map(name).collect::<Vec<_>>().join("/")
}

/// A number, or a part of an identifier, which may be four hexadecimal digits without a number among them.
fn is_by_chance(word: &str) -> bool {
    let is_part = matches!(word.len(), 4 | 8 | 12) && word.chars().all(|c| c.is_ascii_hexdigit());
    is_part || word.contains(|c: char| c.is_ascii_digit())
}

/// The last names of a path.
fn end_of(path: &Path) -> String {
    let mut names: Vec<_> = path.components().rev().take(3).map(Component::as_os_str).collect();
    names.reverse();
    names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/")
}

impl Write {
    pub(crate) fn is_below(&self, folder: &Path) -> bool {
        [Some(&self.path), self.from.as_ref()].into_iter().flatten().any(|path| path.starts_with(folder))
    }

    /// What is done, in words that are the same in every run of a command that changes this folder.
    pub(crate) fn kind(&self, folder: &Path) -> String {
        let from = self.from.as_ref().map(|from| lasting(from, folder)).unwrap_or_default();
        format!("{} {from} {}", self.call, lasting(&self.path, folder))
    }

    /// It concerns only what nobody looks for, because its name is a temporary one.
    pub(crate) fn is_temporary(&self) -> bool {
        let was_named = self.from.as_ref().is_some_and(|from| !has_temporary_name(from));
        has_temporary_name(&self.path) && !was_named
    }
}

/// What a stop means.
pub(crate) enum Seen {
    Nothing,
    /// A write that counts is about to be made, and whether anything was told to the world outside since the last one.
    Begins(Write, bool),
    /// This one has been made, counted from 0.
    Ended(usize),
}

/// Reads a program's system calls.
pub(crate) struct Recorder<'a> {
    watch: &'a Watch,
    count: usize,
    /// Threads that are in the middle of a write that counts, and of which.
    writing: BTreeMap<i32, usize>,
    told: bool,
    /// The file whose content was changed by the write before.
    last_file: Option<PathBuf>,
    kinds: BTreeMap<i64, Kind>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(watch: &'a Watch) -> Self {
        let kinds = CALLS.iter().map(|(call, kind)| (*call, *kind)).collect();
        Self { watch, count: 0, writing: BTreeMap::new(), told: false, last_file: None, kinds }
    }

    pub(crate) fn see(&mut self, stop: Stop) -> Seen {
        let (thread, call, arguments) = match stop {
            Stop::Leave { thread } => return self.writing.remove(&thread).map_or(Seen::Nothing, Seen::Ended),
            Stop::Enter { thread, call, arguments } => (thread, call, arguments),
        };
        let Some(kind) = self.kinds.get(&call) else { return Seen::Nothing };
        let caller = Caller { thread, arguments };
        if caller.tells_the_world(*kind) {
            self.told = true;
            return Seen::Nothing;
        }
        let Some(write) = caller.write(*kind).filter(|write| self.watch.counts(write)) else {
            return Seen::Nothing;
        };
        // Many a text is written in pieces: the first one counts.
        let file = ["write", "resize"].contains(&write.call).then(|| write.path.clone());
        if file.is_some() && file == self.last_file {
            return Seen::Nothing;
        }
        self.last_file = file;
        self.writing.insert(thread, self.count);
        self.count += 1;
        Seen::Begins(write, std::mem::take(&mut self.told))
    }
}

/// What a system call does, and which of its arguments say to what: a folder's descriptor and a path after it, a path
/// alone (the folder is the working one), or a descriptor.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Make {
        name: &'static str,
        path: Place,
    },
    Open {
        path: Place,
        flags: usize,
    },
    Remove {
        name: &'static str,
        path: Place,
    },
    Rename {
        from: Place,
        to: Place,
    },
    Link {
        from: Place,
        to: Place,
    },
    Resize {
        descriptor: usize,
        length: usize,
    },
    Content {
        descriptor: usize,
    },
    /// Something is sent, or somebody is called.
    Tell,
    /// A thread or a process begins; the flags, or where they are.
    Begin {
        flags: usize,
        by_address: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Place {
    folder: Option<usize>,
    path: usize,
}

const fn at(folder: usize, path: usize) -> Place {
    Place { folder: Some(folder), path }
}

#[cfg(target_arch = "x86_64")]
const fn path(path: usize) -> Place {
    Place { folder: None, path }
}

const CALLS: &[(i64, Kind)] = &[
    (libc::SYS_mkdirat, Kind::Make { name: "mkdir", path: at(0, 1) }),
    (libc::SYS_symlinkat, Kind::Make { name: "symlink", path: at(1, 2) }),
    (libc::SYS_mknodat, Kind::Make { name: "mknod", path: at(0, 1) }),
    (libc::SYS_openat, Kind::Open { path: at(0, 1), flags: 2 }),
    (libc::SYS_unlinkat, Kind::Remove { name: "remove", path: at(0, 1) }),
    (libc::SYS_renameat, Kind::Rename { from: at(0, 1), to: at(2, 3) }),
    (libc::SYS_renameat2, Kind::Rename { from: at(0, 1), to: at(2, 3) }),
    (libc::SYS_linkat, Kind::Link { from: at(0, 1), to: at(2, 3) }),
    (libc::SYS_ftruncate, Kind::Resize { descriptor: 0, length: 1 }),
    (libc::SYS_write, Kind::Content { descriptor: 0 }),
    (libc::SYS_writev, Kind::Content { descriptor: 0 }),
    (libc::SYS_pwrite64, Kind::Content { descriptor: 0 }),
    (libc::SYS_copy_file_range, Kind::Content { descriptor: 2 }),
    (libc::SYS_connect, Kind::Tell),
    (libc::SYS_sendto, Kind::Tell),
    (libc::SYS_sendmsg, Kind::Tell),
    (libc::SYS_sendmmsg, Kind::Tell),
    (libc::SYS_kill, Kind::Tell),
    (libc::SYS_pidfd_send_signal, Kind::Tell),
    (libc::SYS_clone, Kind::Begin { flags: 0, by_address: false }),
    (libc::SYS_clone3, Kind::Begin { flags: 0, by_address: true }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, Kind::Tell),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, Kind::Tell),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, Kind::Make { name: "mkdir", path: path(0) }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, Kind::Make { name: "symlink", path: path(1) }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Kind::Open { path: path(0), flags: 1 }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Kind::Remove { name: "remove", path: path(0) }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, Kind::Remove { name: "remove", path: path(0) }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Kind::Rename { from: path(0), to: path(1) }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, Kind::Link { from: path(0), to: path(1) }),
];

/// A thread that is about to make a system call.
struct Caller {
    thread: i32,
    arguments: [u64; 6],
}

impl Caller {
    fn tells_the_world(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tell => true,
            Kind::Content { descriptor } => {
                self.opened(descriptor).is_some_and(|path| path.to_string_lossy().starts_with("socket:"))
            }
            Kind::Begin { flags, by_address } => {
                let flags =
                    if by_address { self.word(self.arguments[flags]) } else { Some(self.arguments[flags]) };
                flags.is_some_and(|flags| flags & u64::try_from(libc::CLONE_THREAD).unwrap_or_default() == 0)
            }
            _ => false,
        }
    }

    /// What the call changes; `None` if it will change nothing.
    fn write(&self, kind: Kind) -> Option<Write> {
        let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
        let is_free = |path: &PathBuf| !is_there(path) && path.parent().is_some_and(Path::is_dir);
        let (call, path, from) = match kind {
            Kind::Make { name, path } => (name, self.path(path).filter(is_free)?, None),
            Kind::Open { path, flags } => {
                let creates = self.arguments[flags] & u64::try_from(libc::O_CREAT).unwrap_or_default() != 0;
                let path = creates.then(|| self.path(path))?;
                ("create", path.filter(is_free)?, None)
            }
            Kind::Remove { name, path } => (name, self.path(path).filter(|path| is_there(path))?, None),
            Kind::Rename { from, to } => {
                ("rename", self.path(to)?, Some(self.path(from).filter(|path| is_there(path))?))
            }
            Kind::Link { from, to } => ("link", self.path(to).filter(is_free)?, self.path(from)),
            Kind::Resize { descriptor, length } => {
                let path = self.named_file(descriptor)?;
                let changes = fs::metadata(&path).is_ok_and(|file| file.len() != self.arguments[length]);
                changes.then_some(("resize", path, None))?
            }
            Kind::Content { descriptor } => ("write", self.named_file(descriptor)?, None),
            Kind::Tell | Kind::Begin { .. } => return None,
        };
        Some(Write { call, path, from })
    }

    /// A file that has got its name: what is in others nobody sees.
    fn named_file(&self, descriptor: usize) -> Option<PathBuf> {
        let path = self.opened(descriptor).filter(|path| path.is_absolute() && path.is_file())?;
        (!has_temporary_name(&path)).then_some(path)
    }

    /// What a descriptor stands for, as the kernel writes it.
    fn opened(&self, descriptor: usize) -> Option<PathBuf> {
        let number = self.arguments[descriptor];
        fs::read_link(format!("/proc/{}/fd/{number}", self.thread)).ok()
    }

    fn path(&self, place: Place) -> Option<PathBuf> {
        let path = self.text(self.arguments[place.path])?;
        if path.is_absolute() {
            return Some(path);
        }
        let working = fs::read_link(format!("/proc/{}/cwd", self.thread));
        let folder = match place.folder {
            // The descriptor is an `int`: its upper half may be anything.
            #[expect(clippy::cast_possible_truncation, reason = "as the kernel reads it")]
            Some(folder) if self.arguments[folder] as i32 != libc::AT_FDCWD => self.opened(folder)?,
            _ => working.ok()?,
        };
        Some(folder.join(path))
    }

    fn memory(&self) -> Option<fs::File> {
        fs::File::open(format!("/proc/{}/mem", self.thread)).ok()
    }

    fn text(&self, address: u64) -> Option<PathBuf> {
        let mut bytes = vec![0; LONGEST_PATH];
        // What follows may not be there to be read.
        let length = self.memory()?.read_at(&mut bytes, address).ok()?;
        let end = bytes[..length].iter().position(|byte| *byte == 0)?;
        bytes.truncate(end);
        Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory()?.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }
}
