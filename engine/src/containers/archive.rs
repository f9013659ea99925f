//! Copying files into and out of containers, as tar archives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::record::MountKind;
use super::{Container, ContainerError, Containers};
use crate::runtime::confine::Root;
use crate::runtime::overlay;
use crate::shim::protocol::{self, Overlay};

/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;

/// What an archive call says about the path it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    pub name: String,
    pub size: u64,
    mode: u32,
    modified: Timestamp,
    pub link_target: String,
}

impl PathStat {
    /// In the form of the `X-Docker-Container-Path-Stat` header, before base64.
    pub fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "size": self.size,
            "mode": go_mode(self.mode),
            "mtime": self.modified.to_string(),
            "linkTarget": self.link_target,
        })
    }
}

/// Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => (1 << 26) | (1 << 21),
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = bits.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | (mode & 0o777)
}

impl Containers {
    /// What is at a path; a link is not followed.
    pub async fn path_stat(
        &self,
        container: &Arc<Container>,
        path: PathBuf,
    ) -> Result<PathStat, ContainerError> {
        self.in_root(container, move |root| stat(root, &path)).await
    }

    /// The tree at a path as a tar archive, which `sender` takes.
    pub async fn pack(
        &self,
        container: &Arc<Container>,
        path: PathBuf,
        sender: mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), ContainerError> {
        self.in_root(container, move |root| {
            let mut archive = tar::Builder::new(Channel { sender, buffer: Vec::new() });
            let packed = pack(root, &path, &mut archive).and_then(|()| archive.finish()).and_then(|()| {
                let channel = archive.get_mut();
                channel.flush()
            });
            if let Err(error) = packed {
                // The header is out; a broken end of the body is how it learns.
                let _ = archive.get_mut().sender.blocking_send(Err(error));
            }
            Ok(())
        })
        .await
    }

    /// Unpacks an archive in a directory.
    pub async fn unpack(
        &self,
        container: &Arc<Container>,
        path: PathBuf,
        archive: impl Read + Send + 'static,
        keep_kinds: bool,
    ) -> Result<(), ContainerError> {
        if container.identity().host.readonly_rootfs {
            return Err(ContainerError::Invalid("container rootfs is marked read-only".to_owned()));
        }
        self.in_root(container, move |root| {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            root.get(&path, flags).map_err(|error| missing(&path, &error))?;
            unpack(root, &path, archive, keep_kinds)
                .map_err(|source| ContainerError::Write { path: path.clone(), source })
        })
        .await
    }

    /// Works in the container's root file system: that of the running process, or one mounted for this alone.
    async fn in_root<T: Send + 'static>(
        &self,
        container: &Arc<Container>,
        work: impl FnOnce(&Root) -> Result<T, ContainerError> + Send + 'static,
    ) -> Result<T, ContainerError> {
        let containers = self.clone();
        let container = Arc::clone(container);
        // Nobody may start it while its layers are mounted here.
        let operation = container.operation.lock().await;
        if container.status().is_alive() {
            drop(operation);
            let path = super::inspect::visible_root(container.state().pid);
            return tokio::task::spawn_blocking(move || {
                let root = Root::open(&path).map_err(|source| ContainerError::Read { path, source })?;
                work(&root)
            })
            .await?;
        }
        let target = Arc::clone(&container);
        let result = tokio::task::spawn_blocking(move || {
            // A thread of its own, for the sake of its mount namespace.
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    let root = containers.mounted_root(&target)?;
                    work(&root)
                });
                worker.join().unwrap_or_else(|_| {
                    Err(ContainerError::Refused("The work on the files was cut short".to_owned()))
                })
            })
        })
        .await?;
        drop(operation);
        result
    }

    /// Mounts a stopped container's layers and volumes in a new mount namespace of this thread.
    fn mounted_root(&self, container: &Container) -> Result<Root, ContainerError> {
        let lower = self.0.images.lower_dirs(&container.identity().image_id)?;
        super::shim::wait_for_end(&container.directory)?;
        super::shim::prepare(&container.runtime_directory)?;
        let path = container.runtime_directory.join(protocol::ROOTFS);
        let overlay = Overlay {
            lower,
            upper: container.directory.join("upper"),
            work: container.directory.join("work"),
        };
        let mount = || -> io::Result<Root> {
            private_mounts()?;
            overlay::mount(&overlay, &path, &container.runtime_directory)?;
            let root = Root::open(&path)?;
            for point in &container.identity().mounts {
                if point.kind != MountKind::Tmpfs {
                    bind(&root, &point.source, &point.destination)?;
                }
            }
            // Opened anew, so that what was just mounted is seen.
            Root::open(&path)
        };
        mount().map_err(|source| ContainerError::Read { path: path.clone(), source })
    }
}

#[expect(unsafe_code, reason = "rustix marks unshare as unsafe for the sake of shared descriptor tables")]
fn private_mounts() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags;
    use rustix::thread::UnshareFlags;
    // SAFETY: descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

fn bind(root: &Root, source: &Path, destination: &Path) -> io::Result<()> {
    let Ok(metadata) = source.metadata() else { return Ok(()) };
    if !metadata.is_dir() {
        return Ok(());
    }
    root.create_directories(destination)?;
    let target = root.get(destination, OFlags::PATH | OFlags::DIRECTORY)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(&tree, "", &target, "", flags)?)
}

fn missing(path: &Path, error: &io::Error) -> ContainerError {
    match error.kind() {
        io::ErrorKind::NotFound => ContainerError::NoSuchFile(path.to_owned()),
        io::ErrorKind::NotADirectory => ContainerError::Invalid("not a directory".to_owned()),
        _ => ContainerError::Refused(format!("{}: {error}", path.display())),
    }
}

/// The directory that holds a path, and its name there; a path that ends with a slash or dot is the directory itself.
fn locate(root: &Root, path: &Path) -> Result<(OwnedFd, PathBuf), ContainerError> {
    let found = |error: io::Error| missing(path, &error);
    let whole = path.as_os_str().as_bytes();
    let itself = whole.ends_with(b"/") || whole.ends_with(b"/.") || path.file_name().is_none();
    if itself {
        let directory = root.get(path, OFlags::PATH | OFlags::DIRECTORY).map_err(found)?;
        return Ok((directory, PathBuf::from(".")));
    }
    let (parent, name) = root.parent(path).map_err(found)?;
    Ok((parent, PathBuf::from(name)))
}

fn stat(root: &Root, path: &Path) -> Result<PathStat, ContainerError> {
    let (parent, name) = locate(root, path)?;
    let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| missing(path, &error.into()))?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&parent, &name, Vec::new());
            let target = target.map_err(|error| missing(path, &error.into()))?;
            let target = PathBuf::from(std::ffi::OsStr::from_bytes(target.to_bytes()));
            let base = path.parent().unwrap_or_else(|| Path::new("/"));
            crate::runtime::confine::clean(&base.join(target)).to_string_lossy().into_owned()
        }
        _ => String::new(),
    };
    Ok(PathStat {
        name: base_name(path),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified: Timestamp::from_second(stat.st_mtime).unwrap_or_default(),
        link_target,
    })
}

fn base_name(path: &Path) -> String {
    path.components().next_back().map_or_else(String::new, |last| match last {
        Component::Normal(name) => name.to_string_lossy().into_owned(),
        _ => "/".to_owned(),
    })
}

fn pack(root: &Root, path: &Path, archive: &mut tar::Builder<impl Write>) -> io::Result<()> {
    let (parent, name) = locate(root, path).map_err(|error| io::Error::other(error.to_string()))?;
    let shown = match base_name(path).as_str() {
        "/" | "" => PathBuf::from("."),
        name => PathBuf::from(name),
    };
    pack_one(parent.as_fd(), &name, &shown, archive, 0)
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

fn pack_one(
    parent: std::os::fd::BorrowedFd<'_>,
    name: &Path,
    shown: &Path,
    archive: &mut tar::Builder<impl Write>,
    depth: usize,
) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other("the directories are too deep"));
    }
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let mut folder = shown.as_os_str().to_owned();
            folder.push("/");
            archive.append_data(&mut header(&stat, tar::EntryType::Directory), folder, io::empty())?;
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&directory)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    names.push(PathBuf::from(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())));
                }
            }
            names.sort();
            for inner in names {
                pack_one(directory.as_fd(), &inner, &shown.join(&inner), archive, depth + 1)?;
            }
            Ok(())
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
            let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
            archive.append_link(&mut header(&stat, tar::EntryType::Symlink), shown, target)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
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

fn unpack(root: &Root, path: &Path, archive: impl Read, keep_kinds: bool) -> io::Result<()> {
    let mut archive = tar::Archive::new(plain(archive)?);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inner = crate::runtime::confine::clean(&entry.path()?);
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
        match kind {
            tar::EntryType::Directory => {
                if !is_directory {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                }
                directories.push((target.clone(), header.clone()));
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                rustix::fs::symlinkat(link.as_ref(), &parent, name)?;
            }
            tar::EntryType::Link => {
                let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                let source =
                    path.join(crate::runtime::confine::clean(&link).strip_prefix("/").unwrap_or(&link));
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
            }
            _ => continue,
        }
        let number =
            |value: io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let (owner, group) = (Uid::from_raw(number(header.uid())), Gid::from_raw(number(header.gid())));
        rustix::fs::chownat(&parent, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != tar::EntryType::Symlink {
            let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
            rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
        }
        set_time(&parent, name, &header)?;
    }
    // What was unpacked into them has changed their times.
    for (target, header) in directories.into_iter().rev() {
        let (parent, name) = root.parent(&target)?;
        set_time(&parent, name, &header)?;
    }
    Ok(())
}

fn set_time(parent: &OwnedFd, name: &std::ffi::OsStr, header: &tar::Header) -> io::Result<()> {
    let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Writes to where an answer's body is read from.
struct Channel {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
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
    use std::os::unix::fs::symlink;

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

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o40755), (1 << 31) | 0o755);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
        assert_eq!(go_mode(0o120_777), (1 << 27) | 0o777);
    }
}
