//! Files on this machine. What is written below the destination stays below it: every step down is taken from the
//! directory before it and follows no link.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsMaybeDirExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use super::{Kind, MAXIMUM_ENTRIES, Meta};

/// Files are read in pieces of this size.
const CHUNK: usize = 256 * 1024;

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
        mode: system::mode(metadata),
        size: metadata.len(),
        accessed: seconds(metadata.accessed()),
        modified: seconds(metadata.modified()),
    }
}

/// Seconds since 1970; 0 where nobody knows, and outside of what the protocol can say.
fn seconds(time: io::Result<SystemTime>) -> u32 {
    let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(0)
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

/// A name that something else gave, in a directory here.
pub(super) fn join(directory: &Path, name: &OsStr) -> io::Result<PathBuf> {
    system::check_name(name)?;
    Ok(directory.join(name))
}

/// The last part of a path, unless it is `.` or `..`; a root has none.
pub(super) fn own_name(path: &Path) -> Option<&OsStr> {
    let is_separator = |byte: &u8| std::path::is_separator(char::from(*byte));
    // Components leave out a `.` at the end.
    let mut parts = path.as_os_str().as_encoded_bytes().rsplit(is_separator);
    if parts.find(|part| !part.is_empty()) == Some(b".") {
        return None;
    }
    path.file_name()
}

/// A file that is read.
pub(super) struct Reader(tokio::fs::File);

impl Reader {
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let file = blocking(move || system::not_waiting(File::options().read(true)).open(path)).await?;
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
pub(super) struct Folder(Arc<Dir>);

impl Folder {
    /// The destination itself. The user has named it, so links on the way are followed.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(move || {
            already_there(fs::DirBuilder::new().create(&path))?;
            Ok(Self(Arc::new(Dir::open_ambient_dir(&path, ambient_authority())?)))
        })
        .await
    }

    /// A directory in this one, made if need be.
    pub(super) async fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let (parent, name) = (self.0.clone(), name.to_owned());
        blocking(move || {
            system::check_name(&name)?;
            already_there(parent.create_dir_with(&name, &system::private_directory()))?;
            Ok(Self(Arc::new(parent.open_dir_nofollow(&name)?)))
        })
        .await
    }

    /// A file in this directory, empty.
    pub(super) async fn create(&self, name: &OsStr) -> io::Result<Writer> {
        let (parent, name) = (self.0.clone(), name.to_owned());
        blocking(move || {
            system::check_name(&name)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).follow(FollowSymlinks::No);
            Writer::new(parent.open_with(&name, system::private_file_below(&mut options))?.into_std())
        })
        .await
    }

    /// Sets the mode of a directory below this one. It is walked to again, since not all can be held open for long.
    pub(super) async fn finish(&self, below: &[OsString], meta: Meta, times: bool) -> io::Result<()> {
        let (mut folder, below) = (self.0.clone(), below.to_owned());
        blocking(move || {
            for name in &below {
                folder = Arc::new(folder.open_dir_nofollow(name)?);
            }
            let mut options = OpenOptions::new();
            options.maybe_dir(true).follow(FollowSymlinks::No);
            let opened = folder.open_with(".", system::changing_properties(&mut options))?;
            finish(&opened.into_std(), meta, times)
        })
        .await
    }
}

fn already_there(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A file that is written.
pub(super) struct Writer {
    file: tokio::fs::File,
    /// Modes belong to files; a device keeps its own.
    is_regular: bool,
}

impl Writer {
    fn new(file: File) -> io::Result<Self> {
        let is_regular = file.metadata()?.is_file();
        Ok(Self { file: tokio::fs::File::from_std(file), is_regular })
    }

    /// A file that the user has named.
    pub(super) async fn create(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(move || {
            let mut options = File::options();
            options.write(true).create(true).truncate(true);
            Self::new(system::private_file(&mut options).open(&path)?)
        })
        .await
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

/// The times come first: they cannot be set any more where the mode is one that forbids all change.
fn finish(file: &File, meta: Meta, times: bool) -> io::Result<()> {
    if times {
        let at = |seconds: u32| UNIX_EPOCH + Duration::from_secs(seconds.into());
        file.set_times(FileTimes::new().set_accessed(at(meta.accessed)).set_modified(at(meta.modified)))?;
    }
    system::set_mode(file, meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_keep_their_name_if_they_have_one() {
        let name = |path: &str| own_name(Path::new(path)).map(|name| name.to_string_lossy().into_owned());
        assert_eq!(name("/a/b"), Some("b".to_owned()));
        assert_eq!(name("b/"), Some("b".to_owned()));
        assert_eq!(name("-x y"), Some("-x y".to_owned()));
        for path in ["", ".", "a/.", "a/./", "..", "a/..", "/"] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
