//! Files on a host, over SFTP, with many requests on their way at once.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use russh::ChannelMsg;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::rawsession::Limits;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::protocol::{Data, FileAttributes, FileMode, OpenFlags, Status, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{CopyError, Kind, MAXIMUM_ENTRIES, Meta};
use crate::ssh::error::printable;
use crate::ssh::{Session, SshError};

/// One request carries this much of a file.
const CHUNK: u32 = 32 * 1024;
/// How many requests may be on their way, in each direction. On long ways this decides the speed.
const IN_FLIGHT: usize = 64;
/// A dead host is noticed by the session; this is for a server that forgets to answer.
const REQUEST_SECONDS: u64 = 600;
/// Types in the mode of a file.
const TYPE_MASK: u32 = 0o170_000;

/// An SFTP conversation with a host.
pub(super) struct Remote<'a> {
    pub(super) session: &'a Session,
    pub(super) name: String,
    sftp: Arc<RawSftpSession>,
    ended: Arc<Notify>,
    chunk: u32,
    expands: bool,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl<'a> Remote<'a> {
    pub(super) async fn open(session: &'a Session, name: &str) -> Result<Self, CopyError> {
        const WHAT: &str = "the transfer of files";
        let mut channel = session.open_channel(WHAT).await?;
        channel.request_subsystem(true, "sftp").await.map_err(|error| session.channel_error(WHAT, error))?;
        let none = |reason: &str| CopyError::NoSftp {
            host: name.to_owned(),
            source: io::Error::other(reason.to_owned()),
        };
        loop {
            match timeout(session.channel_limit(), channel.wait()).await {
                Ok(Some(ChannelMsg::Success)) => break,
                Ok(Some(ChannelMsg::Failure)) => return Err(none("it refused the request")),
                Ok(Some(_)) => {}
                Ok(None) => return Err(session.lost(WHAT).into()),
                Err(_) => return Err(session.channel_timeout(WHAT).into()),
            }
        }
        let config =
            Config { request_timeout_secs: session.channel_limit().as_secs().max(1), ..Config::default() };
        let ended = Arc::new(Notify::new());
        let stream = Watched { stream: channel.into_stream(), ended: ended.clone() };
        let mut sftp = RawSftpSession::new_with_config(stream, config);
        let version = sftp.init().await.map_err(|error| none(&error.to_string()))?;
        let mut chunk = CHUNK;
        if version.extensions.contains_key("limits@openssh.com") {
            let limits = Limits::from(sftp.limits().await.map_err(|error| none(&error.to_string()))?);
            let smallest = [
                limits.read_len,
                limits.write_len,
                limits.packet_len.map(|length| length.saturating_sub(1024)),
            ];
            let smallest = smallest.into_iter().flatten().min().unwrap_or(u64::MAX);
            chunk = chunk.min(u32::try_from(smallest).unwrap_or(u32::MAX)).max(1);
            sftp.set_limits(limits);
        }
        sftp.set_timeout(REQUEST_SECONDS);
        Ok(Self {
            session,
            name: name.to_owned(),
            sftp: Arc::new(sftp),
            ended,
            chunk,
            expands: version.extensions.contains_key("expand-path@openssh.com"),
            reads: Arc::new(Semaphore::new(IN_FLIGHT)),
            writes: Arc::new(Semaphore::new(IN_FLIGHT)),
        })
    }

    /// The path that the user means: without one it is their home there, and `~` too.
    pub(super) async fn expand(&self, path: &str) -> Result<PathBuf, CopyError> {
        let place = |path: &str| super::label(Some(&self.name), Path::new(path));
        if path.contains('\0') {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it contains a null byte");
            return Err(CopyError::Read { place: place(path), source });
        }
        match path.strip_prefix('~') {
            None if path.is_empty() => Ok(".".into()),
            Some("" | "/") => Ok(".".into()),
            Some(rest) if rest.starts_with('/') => Ok(rest.trim_start_matches('/').into()),
            Some(_) if self.expands => {
                let answer = self.sftp.expand_path(path).await;
                let failed = |source| CopyError::Read { place: place(path), source };
                let answer = answer.map_err(|error| failed(io_error(error)))?;
                let first = answer.files.into_iter().next();
                Ok(first.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?.filename.into())
            }
            None | Some(_) => Ok(path.into()),
        }
    }

    pub(super) async fn stat(&self, path: &Path) -> io::Result<Meta> {
        let answer = self.sftp.stat(text(path)?).await.map_err(io_error)?;
        Ok(meta(&answer.attrs))
    }

    pub(super) async fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let answer = self.sftp.realpath(text(path)?).await.map_err(io_error)?;
        let first = answer.files.into_iter().next();
        first.map(|file| file.filename.into()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The entries of a directory, without following links, and without `.` and `..`.
    pub(super) async fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Option<Meta>)>> {
        let handle = self.sftp.opendir(text(path)?).await.map_err(io_error)?.handle;
        let mut entries = Vec::new();
        let outcome = loop {
            match self.sftp.readdir(handle.as_str()).await {
                Ok(names) => {
                    let real =
                        names.files.into_iter().filter(|file| file.filename != "." && file.filename != "..");
                    entries.extend(real.map(|file| {
                        let known = file.attrs.permissions.is_some() && file.attrs.size.is_some();
                        (OsString::from(file.filename), known.then(|| meta(&file.attrs)))
                    }));
                    if entries.len() > MAXIMUM_ENTRIES {
                        break Ok(());
                    }
                }
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => break Ok(()),
                Err(error) => break Err(io_error(error)),
            }
        };
        let _ = self.sftp.close(handle).await;
        outcome.map(|()| entries)
    }

    /// Makes the directory, or takes the one that is there.
    pub(super) async fn make_directory(&self, path: &Path) -> io::Result<()> {
        let Err(error) = self.sftp.mkdir(text(path)?, permissions(0o700)).await else { return Ok(()) };
        match self.stat(path).await {
            Ok(Meta { kind: Kind::Directory, .. }) => Ok(()),
            Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => Err(io_error(error)),
        }
    }

    pub(super) async fn finish_directory(&self, path: &Path, meta: Meta, times: bool) -> io::Result<()> {
        self.sftp.setstat(text(path)?, attributes(meta, times)).await.map(drop).map_err(io_error)
    }

    pub(super) async fn read(&self, path: &Path, size: u64) -> io::Result<Reader> {
        let handle = self
            .sftp
            .open(text(path)?, OpenFlags::READ, FileAttributes::empty())
            .await
            .map_err(io_error)?
            .handle;
        Ok(Reader {
            sftp: self.sftp.clone(),
            handle,
            size,
            asked: 0,
            delivered: 0,
            chunk: self.chunk,
            pending: FuturesOrdered::new(),
            permits: self.reads.clone(),
        })
    }

    pub(super) async fn write(&self, path: &Path) -> io::Result<Writer> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let handle = self.sftp.open(text(path)?, flags, permissions(0o600)).await.map_err(io_error)?.handle;
        Ok(Writer {
            sftp: self.sftp.clone(),
            handle,
            offset: 0,
            chunk: self.chunk as usize,
            pending: FuturesUnordered::new(),
            permits: self.writes.clone(),
        })
    }

    /// Waits until the server ends the conversation, be it with the connection or alone, and says how. Requests that were
    /// made too late would wait for their answer for long.
    pub(super) async fn ended(&self) -> CopyError {
        self.ended.notified().await;
        self.session.lost("the transfer of files").into()
    }

    /// The better error, if the connection is gone.
    pub(super) fn lost(&self) -> Option<SshError> {
        self.session.facts().lost().map(|_| self.session.lost("the transfer of files"))
    }
}

/// A stream whose end others learn of.
struct Watched<S> {
    stream: S,
    ended: Arc<Notify>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if outcome.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0) {
            self.ended.notify_one();
        }
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// An entry of a directory: paths of a host are joined with `/`, wherever we run.
pub(super) fn join(directory: &Path, name: &OsStr) -> PathBuf {
    let mut path = directory.as_os_str().to_owned();
    if !path.is_empty() && !path.as_encoded_bytes().ends_with(b"/") {
        path.push("/");
    }
    path.push(name);
    path.into()
}

/// The last part of a path, unless it is `.` or `..`; a root has none.
pub(super) fn own_name(path: &Path) -> Option<&str> {
    let last = path.to_str()?.split('/').rfind(|part| !part.is_empty())?;
    (!matches!(last, "." | "..")).then_some(last)
}

/// The protocol of old carries bytes, our half of it text.
fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, "the name is not UTF-8"))
}

fn permissions(mode: u32) -> FileAttributes {
    FileAttributes { permissions: Some(mode), ..FileAttributes::empty() }
}

fn attributes(meta: Meta, times: bool) -> FileAttributes {
    FileAttributes {
        permissions: Some(meta.mode),
        atime: times.then_some(meta.accessed),
        mtime: times.then_some(meta.modified),
        ..FileAttributes::empty()
    }
}

fn meta(attributes: &FileAttributes) -> Meta {
    let mode = attributes.permissions.unwrap_or(FileMode::REG.bits() | 0o644);
    let kind = match mode & TYPE_MASK {
        0 | 0o100_000 => Kind::File,
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Link,
        _ => Kind::Other,
    };
    Meta {
        kind,
        mode: mode & 0o777,
        size: attributes.size.unwrap_or(0),
        accessed: attributes.atime.unwrap_or(0),
        modified: attributes.mtime.unwrap_or(0),
    }
}

pub(super) fn io_error(error: SftpError) -> io::Error {
    let SftpError::Status(status) = error else {
        return match error {
            SftpError::Timeout => io::ErrorKind::TimedOut.into(),
            other => io::Error::other(other.to_string()),
        };
    };
    let kind = match status.status_code {
        StatusCode::NoSuchFile => io::ErrorKind::NotFound,
        StatusCode::PermissionDenied => io::ErrorKind::PermissionDenied,
        StatusCode::OpUnsupported => io::ErrorKind::Unsupported,
        StatusCode::Eof => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::Other,
    };
    let said = printable(&status.error_message);
    io::Error::new(kind, if said.is_empty() { status.status_code.to_string() } else { said })
}

type PendingRead = BoxFuture<'static, (u64, u32, Result<Data, SftpError>)>;

/// A file that is read, well ahead of who wants it.
pub(super) struct Reader {
    sftp: Arc<RawSftpSession>,
    handle: String,
    /// What it was when the file was found; 0 for files that are made up as they are read.
    size: u64,
    asked: u64,
    delivered: u64,
    chunk: u32,
    pending: FuturesOrdered<PendingRead>,
    permits: Arc<Semaphore>,
}

impl Reader {
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.size == 0 {
            return self.next_of_unknown().await;
        }
        self.ask();
        let Some((offset, length, answer)) = self.pending.next().await else { return Ok(None) };
        let data = match answer {
            Ok(answer) => answer.data,
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Vec::new(),
            Err(error) => return Err(io_error(error)),
        };
        if data.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        if data.len() > length as usize {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the server sent more than it was asked for",
            ));
        }
        self.delivered = offset + data.len() as u64;
        if data.len() < length as usize {
            // What comes after a short answer is not what was meant.
            self.pending = FuturesOrdered::new();
            self.asked = self.delivered;
        }
        Ok(Some(data))
    }

    /// Sends requests as far ahead as the permits go; one is always allowed, so that nobody waits for others.
    fn ask(&mut self) {
        while self.asked < self.size {
            let permit = self.permits.clone().try_acquire_owned().ok();
            if permit.is_none() && !self.pending.is_empty() {
                return;
            }
            let (sftp, handle, offset) = (self.sftp.clone(), self.handle.clone(), self.asked);
            let length = u32::try_from(self.size - offset).unwrap_or(u32::MAX).min(self.chunk);
            self.pending.push_back(Box::pin(async move {
                let _permit = permit;
                (offset, length, sftp.read(handle, offset, length).await)
            }));
            self.asked += u64::from(length);
        }
    }

    async fn next_of_unknown(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.sftp.read(self.handle.as_str(), self.delivered, self.chunk).await {
            Ok(answer) if answer.data.is_empty() => Ok(None),
            Ok(answer) => {
                self.delivered += answer.data.len() as u64;
                Ok(Some(answer.data))
            }
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }

    /// Nobody waits for the answer.
    pub(super) fn close(self) {
        tokio::spawn(async move { self.sftp.close(self.handle).await });
    }
}

/// A file that is written, without waiting for each answer.
pub(super) struct Writer {
    sftp: Arc<RawSftpSession>,
    handle: String,
    offset: u64,
    chunk: usize,
    pending: FuturesUnordered<BoxFuture<'static, Result<Status, SftpError>>>,
    permits: Arc<Semaphore>,
}

impl Writer {
    pub(super) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(self.chunk) {
            let permit = self.permit().await?;
            let (sftp, handle, offset, piece) =
                (self.sftp.clone(), self.handle.clone(), self.offset, piece.to_vec());
            self.offset += piece.len() as u64;
            self.pending.push(Box::pin(async move {
                let _permit = permit;
                sftp.write(handle, offset, piece).await
            }));
            // A request is sent when it is first looked at.
            while let Some(Some(answer)) = self.pending.next().now_or_never() {
                answer.map_err(io_error)?;
            }
        }
        Ok(())
    }

    /// Waits until one more request may be on its way. Answers that come meanwhile free permits, perhaps for others.
    async fn permit(&mut self) -> io::Result<OwnedSemaphorePermit> {
        let mut acquire = std::pin::pin!(self.permits.clone().acquire_owned());
        loop {
            tokio::select! {
                permit = &mut acquire => return permit.map_err(io::Error::other),
                Some(answer) = self.pending.next() => { answer.map_err(io_error)?; }
            }
        }
    }

    /// Waits for all answers, and sends what is left to ask meanwhile: a server does things in the order in which they are
    /// asked for, so a small file costs one round trip here.
    pub(super) async fn finish(mut self, meta: Option<Meta>, times: bool) -> io::Result<()> {
        let set_mode = async {
            match meta {
                Some(meta) => {
                    self.sftp.fsetstat(self.handle.as_str(), attributes(meta, times)).await.map(drop)
                }
                None => Ok(()),
            }
        };
        let written = async {
            while let Some(answer) = self.pending.next().await {
                answer?;
            }
            Ok(())
        };
        let close = self.sftp.close(self.handle.as_str());
        let (written, set, closed) = tokio::join!(biased; written, set_mode, close);
        written.map_err(io_error)?;
        set.map_err(io_error)?;
        closed.map(drop).map_err(io_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_host_are_joined_and_taken_apart_as_it_does_it() {
        for (directory, name, expected) in
            [("a", "b", "a/b"), ("a/", "b", "a/b"), ("/", "b", "/b"), ("", "b", "b"), ("a", r"b\c", r"a/b\c")]
        {
            assert_eq!(join(Path::new(directory), OsStr::new(name)).as_os_str(), expected);
        }
        for (path, name) in [("/a/b", "b"), ("b/", "b"), ("-x y", "-x y"), (r"a/b\c", r"b\c"), ("a/C:", "C:")]
        {
            assert_eq!(own_name(Path::new(path)), Some(name), "{path}");
        }
        for path in ["", ".", "a/.", "a/./", "..", "a/..", "/"] {
            assert_eq!(own_name(Path::new(path)), None, "{path}");
        }
    }
}
