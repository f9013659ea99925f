//! The two ends of a copy, each here or on a host.

use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};

use super::remote::Remote;
use super::{CopyError, Kind, MAXIMUM_ENTRIES, Meta, Place, is_name, label, local, remote};

/// Where something is read.
pub(super) enum Source<'a> {
    Local,
    Remote(Remote<'a>),
}

impl<'a> Source<'a> {
    /// The end, and the path there.
    pub(super) async fn open(place: &Place<'a>) -> Result<(Self, PathBuf), CopyError> {
        match place {
            Place::Local(path) => Ok((Self::Local, path.clone())),
            Place::Remote { session, name, path } => {
                let remote = Remote::open(session, name).await?;
                let path = remote.expand(path).await?;
                Ok((Self::Remote(remote), path))
            }
        }
    }

    /// Where it is, whatever it is called.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => Some(remote.session.host()),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => Some(&remote.name),
        }
    }

    pub(super) fn label(&self, path: &Path) -> String {
        label(self.name(), path)
    }

    /// An entry of a directory that was read.
    pub(super) fn join(&self, directory: &Path, name: &OsStr) -> PathBuf {
        match self {
            Self::Local => directory.join(name),
            Self::Remote(_) => remote::join(directory, name),
        }
    }

    /// The name under which something goes into a directory. `.`, `..` and roots have none: their entries go there.
    pub(super) fn own_name(&self, path: &Path) -> Option<OsString> {
        match self {
            Self::Local => local::own_name(path).map(OsStr::to_owned),
            Self::Remote(_) => remote::own_name(path).map(OsString::from),
        }
    }

    /// An error that happened here, or the loss of the connection behind it.
    pub(super) fn read_error(&self, path: &Path, source: io::Error) -> CopyError {
        self.lost().unwrap_or_else(|| CopyError::Read { place: self.label(path), source })
    }

    /// Waits for the end of the conversation, which should not come before ours.
    pub(super) async fn ended(&self) -> CopyError {
        match self {
            Self::Local => pending().await,
            Self::Remote(remote) => remote.ended().await,
        }
    }

    pub(super) fn lost(&self) -> Option<CopyError> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => remote.lost().map(CopyError::from),
        }
    }

    /// What the path leads to, through links.
    pub(super) async fn stat(&self, path: &Path) -> Result<Meta, CopyError> {
        let found = match self {
            Self::Local => local::stat(path).await,
            Self::Remote(remote) => remote.stat(path).await,
        };
        found.map_err(|source| self.read_error(path, source))
    }

    pub(super) async fn canonical(&self, path: &Path) -> Result<PathBuf, CopyError> {
        let found = match self {
            Self::Local => local::canonical(path).await,
            Self::Remote(remote) => remote.canonical(path).await,
        };
        found.map_err(|source| self.read_error(path, source))
    }

    /// The entries of a directory, all with names that are ones.
    pub(super) async fn list(&self, path: &Path) -> Result<Vec<(OsString, Option<Meta>)>, CopyError> {
        let found = match self {
            Self::Local => local::list(path).await,
            Self::Remote(remote) => remote.list(path).await,
        };
        let place = || self.label(path);
        let entries = found
            .map_err(|source| self.lost().unwrap_or_else(|| CopyError::List { place: place(), source }))?;
        if entries.len() > MAXIMUM_ENTRIES {
            return Err(CopyError::TooMany { place: place(), limit: MAXIMUM_ENTRIES });
        }
        // Names from here are the kernel's and may be any bytes; those of a host are text and may be anything else.
        let hostile = entries.iter().find(|(name, _)| name.to_str().is_some_and(|name| !is_name(name)));
        if let Some((name, _)) = hostile {
            return Err(CopyError::HostileName { place: place(), name: label(None, Path::new(name)) });
        }
        Ok(entries)
    }

    pub(super) async fn open_file(&self, path: &Path, size: u64) -> Result<Reader, CopyError> {
        let opened = match self {
            Self::Local => local::Reader::open(path).await.map(Reader::Local),
            Self::Remote(remote) => remote.read(path, size).await.map(Reader::Remote),
        };
        opened.map_err(|source| self.read_error(path, source))
    }
}

/// A file that is read.
pub(super) enum Reader {
    Local(local::Reader),
    Remote(remote::Reader),
}

impl Reader {
    /// The next piece of it, or nothing at its end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Local(reader) => reader.next().await,
            Self::Remote(reader) => reader.next().await,
        }
    }

    pub(super) fn close(self) {
        if let Self::Remote(reader) = self {
            reader.close();
        }
    }
}

/// Where something is written.
pub(super) enum Destination<'a> {
    Local,
    Remote(Remote<'a>),
}

impl<'a> Destination<'a> {
    /// The end, and the path there.
    pub(super) async fn open(place: &Place<'a>) -> Result<(Self, PathBuf), CopyError> {
        match Source::open(place).await? {
            (Source::Local, path) => Ok((Self::Local, path)),
            (Source::Remote(remote), path) => Ok((Self::Remote(remote), path)),
        }
    }

    /// Where it is, whatever it is called.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => Some(remote.session.host()),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => Some(&remote.name),
        }
    }

    pub(super) fn label(&self, path: &Path) -> String {
        label(self.name(), path)
    }

    /// Something of this name in a directory.
    pub(super) fn join(&self, directory: &Path, name: &OsStr) -> Result<PathBuf, CopyError> {
        match self {
            Self::Local => {
                local::join(directory, name).map_err(|source| self.write_error(&directory.join(name), source))
            }
            Self::Remote(_) => Ok(remote::join(directory, name)),
        }
    }

    /// Whether the user wrote a directory.
    pub(super) fn ends_in_separator(&self, path: &Path) -> bool {
        let last = path.as_os_str().as_encoded_bytes().last().copied().map(char::from);
        last.is_some_and(|last| match self {
            Self::Local => std::path::is_separator(last),
            Self::Remote(_) => last == '/',
        })
    }

    pub(super) fn write_error(&self, path: &Path, source: io::Error) -> CopyError {
        self.lost().unwrap_or_else(|| CopyError::Write { place: self.label(path), source })
    }

    /// Waits for the end of the conversation, which should not come before ours.
    pub(super) async fn ended(&self) -> CopyError {
        match self {
            Self::Local => pending().await,
            Self::Remote(remote) => remote.ended().await,
        }
    }

    pub(super) fn lost(&self) -> Option<CopyError> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => remote.lost().map(CopyError::from),
        }
    }

    /// What is there, if anything.
    pub(super) async fn stat(&self, path: &Path) -> Result<Option<Meta>, CopyError> {
        let found = match self {
            Self::Local => local::stat(path).await,
            Self::Remote(remote) => remote.stat(path).await,
        };
        match found {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.write_error(path, error)),
        }
    }

    pub(super) async fn canonical(&self, path: &Path) -> Option<PathBuf> {
        match self {
            Self::Local => local::canonical(path).await.ok(),
            Self::Remote(remote) => remote.canonical(path).await.ok(),
        }
    }

    /// The directory at the path, made if need be.
    pub(super) async fn open_folder(&self, path: &Path) -> Result<Folder, CopyError> {
        let opened = match self {
            Self::Local => local::Folder::open(path).await.map(Some),
            Self::Remote(remote) => remote.make_directory(path).await.map(|()| None),
        };
        self.folder(path.to_owned(), opened)
    }

    /// A directory in a directory, made if need be.
    pub(super) async fn enter(&self, parent: &Folder, name: &OsStr) -> Result<Folder, CopyError> {
        let path = self.join(&parent.path, name)?;
        let opened = match (self, &parent.local) {
            (Self::Remote(remote), _) => remote.make_directory(&path).await.map(|()| None),
            (Self::Local, Some(folder)) => folder.enter(name).await.map(Some),
            (Self::Local, None) => Err(io::ErrorKind::NotADirectory.into()),
        };
        self.folder(path, opened)
    }

    fn folder(&self, path: PathBuf, opened: io::Result<Option<local::Folder>>) -> Result<Folder, CopyError> {
        match opened {
            Ok(local) => Ok(Folder { path, local }),
            Err(source) => Err(self
                .lost()
                .unwrap_or_else(|| CopyError::MakeDirectory { place: self.label(&path), source })),
        }
    }

    /// Sets the mode of a directory below the root, or of the root itself when the path to it is empty.
    pub(super) async fn finish_folder(
        &self,
        root: &Folder,
        below: &[OsString],
        meta: Meta,
        times: bool,
    ) -> Result<(), CopyError> {
        let mut path = root.path.clone();
        for name in below {
            path = self.join(&path, name)?;
        }
        let outcome = match (self, &root.local) {
            (Self::Remote(remote), _) => remote.finish_directory(&path, meta, times).await,
            (Self::Local, Some(folder)) => folder.finish(below, meta, times).await,
            (Self::Local, None) => Ok(()),
        };
        outcome.map_err(|source| self.write_error(&path, source))
    }

    /// A file in a directory, empty.
    pub(super) async fn create(&self, parent: &Folder, name: &OsStr) -> Result<Writer, CopyError> {
        let path = self.join(&parent.path, name)?;
        let created = match (self, &parent.local) {
            (Self::Remote(remote), _) => remote.write(&path).await.map(Writer::Remote),
            (Self::Local, Some(folder)) => folder.create(name).await.map(Writer::Local),
            (Self::Local, None) => Err(io::ErrorKind::NotADirectory.into()),
        };
        created.map_err(|source| self.write_error(&path, source))
    }

    /// The file that the user named, empty.
    pub(super) async fn create_at(&self, path: &Path) -> Result<Writer, CopyError> {
        let created = match self {
            Self::Remote(remote) => remote.write(path).await.map(Writer::Remote),
            Self::Local => local::Writer::create(path).await.map(Writer::Local),
        };
        created.map_err(|source| self.write_error(path, source))
    }
}

/// A directory that is written to.
#[derive(Clone)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    local: Option<local::Folder>,
}

/// A file that is written.
pub(super) enum Writer {
    Local(local::Writer),
    Remote(remote::Writer),
}

impl Writer {
    pub(super) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Local(writer) => writer.write(data).await,
            Self::Remote(writer) => writer.write(data).await,
        }
    }

    /// Waits until all of it is written, and sets the mode, except that of what is no file.
    pub(super) async fn finish(self, meta: Option<Meta>, times: bool) -> io::Result<()> {
        match (self, meta) {
            (Self::Local(writer), Some(meta)) => writer.finish(meta, times).await,
            (Self::Local(writer), None) => writer.flush().await,
            (Self::Remote(writer), meta) => writer.finish(meta, times).await,
        }
    }
}

impl Meta {
    /// Whether the mode of it may be changed.
    pub(super) fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
}
