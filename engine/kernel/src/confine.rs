//! Paths inside a container's root file system, followed without ever leaving it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// A directory that symbolic links cannot lead out of.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens a path as the container would see it.
    pub fn get(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.create(path, flags, Mode::empty())
    }

    /// The same, with the mode of a file that may be created.
    pub fn create(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let relative = relative(path);
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel asks to try again when something was renamed meanwhile.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.0, &relative, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens a path that leads out of here nowhere, not even by a link from the root on.
    pub fn beneath(&self, path: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        for _ in 0..16 {
            match rustix::fs::openat2(&self.0, relative(path), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = regular(&self.get(path, OFlags::PATH)?)?;
        if file.metadata()?.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of a sensible size"));
        }
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Makes a directory and those above it where they are missing; says whether it made the last one.
    pub fn create_directories(&self, path: &Path) -> io::Result<bool> {
        let relative = relative(path);
        let mut so_far = PathBuf::new();
        let mut parent = self.0.try_clone()?;
        let mut made = false;
        for component in relative.components() {
            let Component::Normal(name) = component else { continue };
            so_far.push(name);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            (parent, made) = match self.get(&so_far, flags) {
                Ok(found) => (found, false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                    (self.get(&so_far, flags)?, true)
                }
                Err(error) => return Err(error),
            };
        }
        Ok(made)
    }

    /// Where a path leads when every link is followed, also those that lead to nothing: there, something can be made.
    pub fn end_of_links(&self, path: &Path) -> io::Result<PathBuf> {
        let parts = |path: &Path| -> Vec<OsString> {
            let parts = path.components().rev().filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                _ => None,
            });
            parts.collect()
        };
        let (mut pending, mut end, mut links) = (parts(path), PathBuf::from("/"), 0);
        while let Some(part) = pending.pop() {
            if part == ".." {
                end.pop();
                continue;
            }
            let next = end.join(&part);
            match self.get(&next, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(found) if is_link(&found)? => {
                    links += 1;
                    if links > MOST_LINKS {
                        let message = format!("{}: too many levels of symbolic links", path.display());
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
                    }
                    let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                    let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                    if target.is_absolute() {
                        end = PathBuf::from("/");
                    }
                    pending.extend(parts(target));
                }
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    return Err(error);
                }
                _ => end = next,
            }
        }
        Ok(end)
    }

    /// The directory that holds the last component of a path, and that component's name.
    pub fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or_else(|| Path::new("/"));
        Ok((self.get(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }
}

fn is_link(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Symlink)
}

/// Opens a regular file of a directory for reading. Anything else is not opened: no device rules hold for us as they do for
/// the container, and some devices act when they are opened; a pipe would wait for its other end.
pub fn open_regular(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    regular(&rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Opens what has been found, if it is a regular file: that very file, whatever its name leads to by now.
fn regular(found: &OwnedFd) -> io::Result<File> {
    if FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(File::from(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}

/// Without a leading slash, as `openat2` resolves it from the root; `.` for the root itself.
fn relative(path: &Path) -> PathBuf {
    let relative: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
    if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative }
}

/// Removes `.`, `..` and doubled slashes by the letters alone; the result is absolute.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

/// Copies a directory's content into another, with owners, modes and times; both must exist. Links are copied as links.
pub fn copy_tree(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    copy_level(&from.as_fd().try_clone_to_owned()?, &to.as_fd().try_clone_to_owned()?, 0)
}

/// Deeper trees are refused: each level holds two open directories.
const DEEPEST: usize = 200;

fn copy_level(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(Errno::LOOP.into());
    }
    let from =
        rustix::fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(&from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner_from = rustix::fs::openat(&from, name, flags, Mode::empty())?;
                let inner_to = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_level(&inner_from, &inner_to, depth + 1)?;
                copy_attributes(&inner_to, &stat)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
                copy_attributes(opened(to, name, kind)?, &stat)?;
            }
            FileType::RegularFile => {
                let mut source = open_regular(&from, name)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut copy = File::from(rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(&mut source, &mut copy)?;
                copy_attributes(&copy, &stat)?;
            }
            _ => {
                rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?;
                copy_attributes(opened(to, name, kind)?, &stat)?;
            }
        }
    }
    Ok(())
}

/// What was just made by this name, itself and not what it may lead to. Somebody may have put another thing in its place.
pub fn opened(parent: impl AsFd, name: impl rustix::path::Arg, kind: FileType) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != kind {
        return Err(Errno::STALE.into());
    }
    Ok(file)
}

fn copy_attributes(file: impl AsFd, stat: &Stat) -> io::Result<()> {
    let time =
        |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let mode = (!is_link).then(|| Mode::from_raw_mode(stat.st_mode & 0o7777));
    set_attributes(file, (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)), mode, &times)
}

/// Gives an opened file its owner, its mode and its times. No name is looked up for it, so that nothing can be put in the way.
pub fn set_attributes(
    file: impl AsFd,
    (owner, group): (Uid, Gid),
    mode: Option<Mode>,
    times: &Timestamps,
) -> io::Result<()> {
    let file = file.as_fd();
    rustix::fs::chownat(file, "", Some(owner), Some(group), AtFlags::EMPTY_PATH)?;
    if let Some(mode) = mode {
        // Also where it is opened as a place only; this leads to the opened file itself, by no name.
        rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
    }
    Ok(rustix::fs::utimensat(file, "", times, AtFlags::EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn symbolic_links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("secret");
        fs::write(&outside, "secret").unwrap();
        let root_path = folder.path().join("root");
        fs::create_dir_all(root_path.join("etc")).unwrap();
        fs::write(root_path.join("etc/passwd"), "inside").unwrap();
        symlink("../../../../../../etc", root_path.join("up")).unwrap();
        symlink(&outside, root_path.join("absolute")).unwrap();
        symlink("/etc", root_path.join("inner")).unwrap();
        let root = Root::open(&root_path).unwrap();
        assert_eq!(root.read(Path::new("/up/passwd"), 100).unwrap(), b"inside");
        assert_eq!(root.read(Path::new("/inner/passwd"), 100).unwrap(), b"inside");
        assert_eq!(root.read(Path::new("/../../etc/passwd"), 100).unwrap(), b"inside");
        assert!(root.read(Path::new("/absolute"), 100).is_err());
        assert!(root.read(Path::new("/etc/passwd"), 3).is_err());
        assert!(root.create_directories(Path::new("/inner/a/b")).unwrap());
        assert!(!root.create_directories(Path::new("/inner/a/b")).unwrap());
        assert!(root_path.join("etc/a/b").is_dir());
        assert!(root.create_directories(Path::new("/etc/passwd/x")).is_err());
    }

    /// A number that no driver has: whoever opens the node is told so, and here nobody is.
    #[test]
    fn devices_and_pipes_are_not_even_opened() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Root::open(folder.path()).unwrap();
        let mode = Mode::from_raw_mode(0o644);
        let device = rustix::fs::makedev(240, 77);
        rustix::fs::mknodat(&directory.0, "device", FileType::CharacterDevice, mode, device).unwrap();
        rustix::fs::mknodat(&directory.0, "pipe", FileType::Fifo, mode, 0).unwrap();
        for name in ["device", "pipe"] {
            let kinds = [
                directory.read(Path::new(name), 100).unwrap_err().kind(),
                open_regular(&directory.0, name).unwrap_err().kind(),
            ];
            assert_eq!(kinds, [io::ErrorKind::InvalidData; 2], "{name}");
        }
    }

    #[test]
    fn links_are_followed_to_where_nothing_is_yet() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        for (target, link) in
            [("/usr/share/zone", "etc/localtime"), ("../../../far", "etc/up"), ("loop", "loop"), ("etc", "e")]
        {
            symlink(target, folder.path().join(link)).unwrap();
        }
        let root = Root::open(folder.path()).unwrap();
        for (path, end) in [
            ("/etc/localtime", "/usr/share/zone"),
            ("/etc/localtime/x/../y", "/usr/share/zone/y"),
            ("/e/up/in", "/far/in"),
            ("/etc", "/etc"),
            ("/new/../../one", "/one"),
        ] {
            assert_eq!(root.end_of_links(Path::new(path)).unwrap(), Path::new(end), "{path}");
        }
        assert!(root.end_of_links(Path::new("/loop/x")).is_err());
    }

    #[test]
    fn nothing_put_in_the_way_of_a_copy_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        for place in [&from, &to] {
            fs::create_dir(place).unwrap();
        }
        let victim = folder.path().join("victim");
        fs::write(&victim, "host").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        // Whatever kind it is: somebody replaces it by a link as soon as it is there.
        for number in 0..100 {
            fs::write(from.join(format!("file{number}")), "x").unwrap();
            rustix::fs::mknodat(
                CWD,
                from.join(format!("pipe{number}")),
                FileType::Fifo,
                Mode::from_raw_mode(0o777),
                0,
            )
            .unwrap();
            fs::set_permissions(from.join(format!("file{number}")), fs::Permissions::from_mode(0o777))
                .unwrap();
        }
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in fs::read_dir(&to).into_iter().flatten().flatten() {
                        if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                            let link = folder.path().join("link");
                            let _ = symlink(&victim, &link);
                            let _ = fs::rename(link, entry.path());
                        }
                    }
                }
            });
            for _ in 0..10 {
                let _ = copy_tree(Root::open(&from).unwrap().0, Root::open(&to).unwrap().0);
                fs::remove_dir_all(&to).unwrap_or(());
                fs::create_dir_all(&to).unwrap();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "host");
    }

    #[test]
    fn a_tree_is_copied_with_its_attributes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        std::os::unix::fs::chown(from.join("sub"), Some(70), Some(71)).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        copy_tree(Root::open(&from).unwrap().0, Root::open(&to).unwrap().0).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/file")).unwrap(), "content");
        assert_eq!(fs::metadata(to.join("sub/file")).unwrap().mode() & 0o7777, 0o4750);
        assert_eq!(fs::metadata(to.join("sub")).unwrap().uid(), 70);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
    }

    #[test]
    fn cleaning_goes_by_the_letters() {
        assert_eq!(clean(Path::new("a//b/../c/./")), Path::new("/a/c"));
        assert_eq!(clean(Path::new("/../..")), Path::new("/"));
    }
}
