//! Files on this machine. What is written below the destination stays below it: every step down is taken from the
//! directory before it and follows no link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    FileType, Mode, OFlags, RawMode, Timespec, Timestamps, fchmod, fstat, futimens, mkdirat, openat,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Kind, MAXIMUM_ENTRIES, Meta};

/// Files are read in pieces of this size.
const CHUNK: usize = 256 * 1024;
/// New files are nobody else's before they are complete.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Runs what blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn meta(metadata: &fs::Metadata) -> Meta {
    let kind = if metadata.is_dir() {
        Kind::Directory
    } else if metadata.is_file() {
        Kind::File
    } else if metadata.is_symlink() {
        Kind::Link
    } else {
        Kind::Other
    };
    Meta {
        kind,
        mode: metadata.mode() & 0o777,
        size: metadata.len(),
        accessed: u32::try_from(metadata.atime()).unwrap_or(0),
        modified: u32::try_from(metadata.mtime()).unwrap_or(0),
    }
}

/// What the path leads to, through links.
pub(super) async fn stat(path: &Path) -> io::Result<Meta> {
    let path = path.to_owned();
    blocking(move || fs::metadata(path).map(|metadata| meta(&metadata))).await
}

pub(super) async fn canonical(path: &Path) -> io::Result<PathBuf> {
    let path = path.to_owned();
    blocking(move || fs::canonicalize(path)).await
}

/// The entries of a directory, without following links.
pub(super) async fn list(path: &Path) -> io::Result<Vec<(OsString, Option<Meta>)>> {
    let path = path.to_owned();
    blocking(move || {
        let entries = fs::read_dir(path)?.take(MAXIMUM_ENTRIES + 1);
        entries
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name(), entry.metadata().ok().map(|metadata| meta(&metadata))))
            })
            .collect()
    })
    .await
}

/// A file that is read.
pub(super) struct Reader(tokio::fs::File);

impl Reader {
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        // A pipe that took the place of the file would else block until somebody writes to it.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = blocking(move || File::options().read(true).custom_flags(nonblocking).open(path)).await?;
        Ok(Self(tokio::fs::File::from_std(file)))
    }

    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        let length = self.0.read_buf(&mut chunk).await?;
        Ok((length > 0).then_some(chunk))
    }
}

/// A directory below the destination, held open.
#[derive(Clone)]
pub(super) struct Folder(Arc<OwnedFd>);

impl Folder {
    /// The destination itself. The user has named it, so links on the way are followed.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(move || {
            match fs::DirBuilder::new().create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(Self(Arc::new(rustix::fs::open(&path, flags, Mode::empty())?)))
        })
        .await
    }

    /// A directory in this one, made if need be.
    pub(super) async fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let (parent, name) = (self.0.clone(), name.to_owned());
        blocking(move || {
            match mkdirat(&parent, &name, Mode::from_raw_mode(PRIVATE_DIRECTORY)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(Self(Arc::new(openat(&parent, &name, ENTER, Mode::empty())?)))
        })
        .await
    }

    /// A file in this directory, empty.
    pub(super) async fn create(&self, name: &OsStr) -> io::Result<Writer> {
        let (parent, name) = (self.0.clone(), name.to_owned());
        blocking(move || {
            let file = openat(&parent, &name, CREATE | OFlags::NOFOLLOW, Mode::from_raw_mode(PRIVATE_FILE))?;
            Writer::new(file)
        })
        .await
    }

    /// Sets the mode of a directory below this one. It is walked to again, since not all can be held open for long.
    pub(super) async fn finish(&self, below: &Path, meta: Meta, times: bool) -> io::Result<()> {
        let (mut folder, below) = (self.0.clone(), below.to_owned());
        blocking(move || {
            for name in &below {
                folder = Arc::new(openat(&folder, name, ENTER, Mode::empty())?);
            }
            finish(&folder, meta, times)
        })
        .await
    }
}

/// One step down.
const ENTER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Not blocking, because of pipes that nobody reads.
const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::TRUNC).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// A file that is written.
pub(super) struct Writer {
    file: tokio::fs::File,
    /// Modes belong to files; a device keeps its own.
    is_regular: bool,
}

impl Writer {
    fn new(file: OwnedFd) -> io::Result<Self> {
        let is_regular = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
        Ok(Self { file: tokio::fs::File::from_std(file.into()), is_regular })
    }

    /// A file that the user has named.
    pub(super) async fn create(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(move || Self::new(rustix::fs::open(&path, CREATE, Mode::from_raw_mode(PRIVATE_FILE))?)).await
    }

    pub(super) async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk).await
    }

    /// A write is complete only when it is flushed; until then its error is not known.
    pub(super) async fn flush(mut self) -> io::Result<()> {
        self.file.flush().await
    }

    pub(super) async fn finish(mut self, meta: Meta, times: bool) -> io::Result<()> {
        self.file.flush().await?;
        if !self.is_regular {
            return Ok(());
        }
        let file = self.file.into_std().await;
        blocking(move || finish(&file, meta, times)).await
    }
}

fn finish(file: &impl std::os::fd::AsFd, meta: Meta, times: bool) -> io::Result<()> {
    fchmod(file, Mode::from_raw_mode(meta.mode as RawMode))?;
    if times {
        let at = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        futimens(file, &Timestamps { last_access: at(meta.accessed), last_modification: at(meta.modified) })?;
    }
    Ok(())
}
