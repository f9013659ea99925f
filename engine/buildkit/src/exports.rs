//! Results that go to their client as files: into a directory of its own, or as an archive.
//!
//! ```text
//! here:   STAT a, STAT a/b, … STAT nothing        DATA …, DATA nothing        FIN
//! client:              REQ 1, …                                          FIN
//! ```

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use engine_build::Builder;
use engine_kernel::attributes;
use engine_kernel::confine::{Root, open_regular};
use engine_model::task::apart;
use engine_model::{Failure, ImageId};
use hyper::body::Frame;
use prost::Message;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat as FileStat};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::filesync::{STALLED, broken_off};
use super::grpc::{Code, Reading, Status, framed};
use super::messages::session::{BytesMessage, Packet, Stat, packet};
use super::progress::Step;
use super::session::Session;
use super::tree::go;

const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const PIECE: usize = 32 << 10;
/// How long a client that takes nothing more may take to say why.
const LAST_WORD: Duration = Duration::from_secs(5);
/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;
/// As many as a context may have.
const MOST_ENTRIES: u32 = 2_000_000;

/// As what the client gets a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Directory,
    Archive,
}

impl Form {
    /// The step, in BuildKit's words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Directory => "exporting to client directory",
            Self::Archive => "exporting to client tarball",
        }
    }
}

/// Sends an image's files to the client.
pub(crate) async fn send(
    builder: &Builder,
    session: &Session,
    id: &ImageId,
    form: Form,
    step: &Step,
    cancelled: &CancellationToken,
) -> Result<(), Status> {
    let (builder, id) = (builder.clone(), id.clone());
    let work = move |frames: &Frames, requests| match form {
        Form::Directory => builder.with_files(&id, |root| Sender::new(frames, requests).send(root)),
        Form::Archive => {
            let mut output = io::BufWriter::with_capacity(PIECE, Pieces(frames));
            builder.with_files(&id, |root| {
                builder.pack(root, &mut output)?;
                output.flush()
            })
        }
    };
    converse(session, form, work, step, cancelled).await
}

type Requests = mpsc::UnboundedReceiver<Packet>;

/// Has `work` done that sends files, and listens to what the client says meanwhile.
async fn converse(
    session: &Session,
    form: Form,
    work: impl FnOnce(&Frames, Requests) -> Result<(), Failure> + Send + 'static,
    step: &Step,
    cancelled: &CancellationToken,
) -> Result<(), Status> {
    if !session.serves(DIFF_COPY) {
        return Err(Status::new(Code::NotFound, "the client takes no files"));
    }
    let (frames, answers) = session.caller.converse(DIFF_COPY, Vec::new());
    let (asked, requests) = mpsc::unbounded_channel();
    let moved = Arc::new(AtomicU64::new(0));
    let frames = Frames { sender: frames, moved: Arc::clone(&moved) };
    // It waits for the client, so it is none of the threads that are for the disk.
    let sending = apart(move || work(&frames, requests));
    let heard = Arc::clone(&moved);
    // With its end, nothing more is asked for.
    let reading = async move {
        let mut answers = answers.await?;
        // The client says nothing but what it wants, once each, or that it has an archive.
        let mut count = 0;
        while let Some(packet) = next(&mut answers, form).await? {
            count += 1;
            if count > u64::from(MOST_ENTRIES) + 1 {
                return Err(Status::new(Code::ResourceExhausted, "the client asks for too much"));
            }
            heard.fetch_add(1, Ordering::Relaxed);
            // Who has sent all does not listen any more.
            let _ = asked.send(packet);
        }
        Ok(())
    };
    let shown = match form {
        Form::Directory => "copying files",
        Form::Archive => "sending tarball",
    };
    step.part(shown, 0, 0, false);
    let sending = async {
        let sent = sending.await.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        sent.map_err(|failure: Failure| Status::new(Code::Unknown, failure.message))
    };
    // What the client says is the reason why nothing more could be sent.
    let both = async {
        tokio::pin!(sending, reading);
        tokio::select! {
            biased;
            sent = &mut sending => match sent {
                Ok(()) => reading.await,
                Err(error) => match tokio::time::timeout(LAST_WORD, reading).await {
                    Ok(Err(said)) if !said.is(Code::Unavailable) => Err(said),
                    _ => Err(error),
                },
            },
            read = &mut reading => {
                // A connection that ends tells less than what was wrong with it.
                let sent = tokio::time::timeout(LAST_WORD, sending).await;
                match (read, sent) {
                    (Err(said), _) if !said.is(Code::Unavailable) => Err(said),
                    (_, Ok(Err(own))) => Err(own),
                    (Ok(()), Err(_)) => Err(Status::new(Code::Internal, gone().to_string())),
                    (read, _) => read,
                }
            }
        }
    };
    tokio::select! {
        done = both => done?,
        () = cancelled.cancelled() => return Err(broken_off()),
        () = stall(&moved) => {
            let seconds = STALLED.as_secs();
            let message = format!("the client has taken nothing for {seconds} s");
            return Err(Status::new(Code::DeadlineExceeded, message));
        }
    }
    step.part(shown, 0, 0, true);
    Ok(())
}

/// The next packet; an archive is answered by nothing but the end.
async fn next(answers: &mut Reading, form: Form) -> Result<Option<Packet>, Status> {
    match form {
        Form::Directory => answers.next::<Packet>().await,
        Form::Archive => match answers.next::<BytesMessage>().await? {
            None => Ok(None),
            Some(_) => Err(Status::new(Code::InvalidArgument, "the client sends what it was to take")),
        },
    }
}

/// Ends when nothing moves any more.
async fn stall(moved: &AtomicU64) {
    let mut before = None;
    loop {
        let now = moved.load(Ordering::Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        tokio::time::sleep(STALLED).await;
    }
}

/// Where frames go, by threads that wait.
struct Frames {
    sender: mpsc::Sender<Frame<Bytes>>,
    /// Counts what has gone either way.
    moved: Arc<AtomicU64>,
}

impl Frames {
    fn send(&self, message: &impl Message) -> io::Result<()> {
        self.sender.blocking_send(Frame::data(framed(message))).map_err(|_| gone())?;
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client takes no more files")
}

/// An archive on its way.
struct Pieces<'a>(&'a Frames);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE);
        let message = BytesMessage { data: bytes[..count].to_vec() };
        self.0.send(&message)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A directory on its way. It blocks.
struct Sender<'a> {
    frames: &'a Frames,
    requests: Requests,
    next: u32,
    /// By number, those whose content may be asked for, once.
    files: BTreeMap<u32, PathBuf>,
    /// The first name of files that have several.
    names: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Sender<'a> {
    fn new(frames: &'a Frames, requests: Requests) -> Self {
        Self { frames, requests, next: 0, files: BTreeMap::new(), names: HashMap::new() }
    }

    fn packet(&self, packet: &Packet) -> io::Result<()> {
        self.frames.send(packet)
    }

    fn send(mut self, folder: &Path) -> io::Result<()> {
        let root = Root::open(folder)?;
        let directory = root.get(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.level(&directory, Path::new(""), 0)?;
        self.packet(&Packet::default())?;
        while let Some(asked) = self.requests.blocking_recv() {
            match asked.kind {
                packet::REQUEST => self.content(&root, asked.id)?,
                packet::FINISHED => {
                    return self.packet(&Packet { kind: packet::FINISHED, ..Packet::default() });
                }
                packet::ERROR => {
                    let said = String::from_utf8_lossy(&asked.data).into_owned();
                    return Err(io::Error::other(format!("the client could not take the files: {said}")));
                }
                other => {
                    return Err(io::Error::other(format!("the client sends packets of the kind {other}")));
                }
            }
        }
        Err(gone())
    }

    /// In the order of names, each directory's own right after it, as clients expect them.
    fn level(&mut self, directory: &OwnedFd, folder: &Path, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("The directories are more than {DEEPEST} deep")));
        }
        let mut entries = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                entries.push(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
        }
        entries.sort();
        for name in entries {
            let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Socket {
                continue;
            }
            let path = folder.join(&name);
            if self.next == MOST_ENTRIES {
                return Err(io::Error::other(format!("there are more than {MOST_ENTRIES} files")));
            }
            let mut described = describe(&path, &stat);
            let place = openat(directory, &name, OFlags::PATH)?;
            if kind == FileType::Symlink {
                let target = rustix::fs::readlinkat(&place, "", Vec::new())?;
                described.link = target.into_bytes();
            } else {
                described.attributes = attributes::read(&place)?
                    .into_iter()
                    .filter(|(name, _)| attributes::travels(name))
                    .collect();
            }
            if kind == FileType::RegularFile {
                let file = (stat.st_dev, stat.st_ino);
                let has_more = stat.st_nlink > 1;
                if let Some(first) = self.names.get(&file).filter(|_| has_more) {
                    first.as_os_str().as_bytes().clone_into(&mut described.link);
                } else {
                    if has_more {
                        self.names.insert(file, path.clone());
                    }
                    self.files.insert(self.next, path.clone());
                }
            }
            self.next += 1;
            self.packet(&Packet { kind: packet::STAT, stat: Some(described), ..Packet::default() })?;
            if kind == FileType::Directory {
                let inner = openat(directory, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                self.level(&inner, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, root: &Root, id: u32) -> io::Result<()> {
        let Some(path) = self.files.remove(&id) else {
            return Err(io::Error::other(format!(
                "the client asks for the file {id}, which it was not sent"
            )));
        };
        let path = Path::new("/").join(path);
        let (parent, name) = root.parent(&path)?;
        let mut file = open_regular(&parent, name)?;
        let mut piece = vec![0; PIECE];
        loop {
            // Nothing is the end.
            let count = file.read(&mut piece)?;
            let data = piece[..count].to_vec();
            self.packet(&Packet { kind: packet::DATA, id, data, ..Packet::default() })?;
            if count == 0 {
                return Ok(());
            }
        }
    }
}

fn openat(directory: &OwnedFd, name: &std::ffi::OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// What a file looks like, in Go's words.
fn describe(path: &Path, stat: &FileStat) -> Stat {
    let mut mode = stat.st_mode & 0o777;
    for (bit, own) in [(go::SET_USER, 0o4000), (go::SET_GROUP, 0o2000), (go::STICKY, 0o1000)] {
        if stat.st_mode & own != 0 {
            mode |= bit;
        }
    }
    let is_device = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mode |= go::DIRECTORY;
            false
        }
        FileType::Symlink => {
            mode |= go::LINK;
            false
        }
        FileType::Fifo => {
            mode |= go::PIPE;
            false
        }
        FileType::CharacterDevice => {
            mode |= go::DEVICE | go::CHARACTERS;
            true
        }
        FileType::BlockDevice => {
            mode |= go::DEVICE;
            true
        }
        _ => false,
    };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Stat {
        path: path.as_os_str().as_bytes().to_vec(),
        mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size,
        modified: stat
            .st_mtime
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        device_major: if is_device { major.into() } else { 0 },
        device_minor: if is_device { minor.into() } else { 0 },
        ..Stat::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;

    use hyper::body::Incoming;
    use hyper::server::conn::http2::Builder as Http2;
    use hyper::service::service_fn;
    use hyper::{HeaderMap, Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::super::grpc::{Outgoing, failed, fine};
    use super::super::progress::Progress;
    use super::super::session::{Introduction, Sessions};
    use super::*;

    /// What a client of these tests does with files.
    #[derive(Clone, Copy)]
    enum Client {
        /// Takes all of them, twice those of several names.
        Honest,
        /// Asks for what it was not sent.
        Lies,
        /// Asks for a file twice.
        Repeats,
        /// Asks for nothing, and reads nothing.
        Silent,
        /// Ends as if it had all.
        Ends,
        /// Says that it cannot.
        Refuses,
    }

    fn answers(client: Client, mut sent: Reading<Incoming>) -> Outgoing {
        let (frames, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let send = async |kind: i32, id: u32| {
                let packet = Packet { kind, id, ..Packet::default() };
                frames.send(Frame::data(framed(&packet))).await.is_ok()
            };
            match client {
                Client::Silent => std::future::pending::<()>().await,
                Client::Ends => drop(frames.send(fine()).await),
                Client::Refuses => {
                    let status = Status::new(Code::Unknown, "no room");
                    drop(frames.send(failed(&status)).await);
                }
                Client::Lies => drop(send(packet::REQUEST, 77).await),
                Client::Repeats => {
                    send(packet::REQUEST, 1).await;
                    send(packet::REQUEST, 1).await;
                }
                Client::Honest => {
                    let mut paths = Vec::new();
                    while let Some(stat) = sent.one::<Packet>().await.unwrap().stat {
                        paths.push(String::from_utf8(stat.path).unwrap());
                    }
                    assert_eq!(paths, ["a", "a/b", "a.b"]);
                    send(packet::REQUEST, 1).await;
                    let data = sent.one::<Packet>().await.unwrap();
                    assert_eq!((data.id, data.data.as_slice()), (1, &b"content"[..]));
                    assert!(sent.one::<Packet>().await.unwrap().data.is_empty());
                    send(packet::FINISHED, 0).await;
                    assert_eq!(sent.one::<Packet>().await.unwrap().kind, packet::FINISHED);
                    drop(frames.send(fine()).await);
                }
            }
            // What is sent is taken until there is no more.
            while let Ok(Some(_)) = sent.next::<Packet>().await {}
        });
        Outgoing::stream(receiver)
    }

    async fn sent_to(client: Client) -> Result<(), String> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let service = service_fn(move |request: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new(answers(client, Reading::request(request.into_body()))))
        });
        tokio::spawn(Http2::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service));
        let mut headers = HeaderMap::new();
        headers.insert("x-docker-expose-session-uuid", "id".parse().unwrap());
        headers.insert("x-docker-expose-session-grpc-method", DIFF_COPY.parse().unwrap());
        let (sessions, introduction) = (Sessions::default(), Introduction::of(&headers).unwrap());
        let holding = sessions.clone();
        tokio::spawn(async move { holding.hold(introduction, ours).await });
        let session = sessions.get("id").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), "content").unwrap();
        std::fs::write(folder.path().join("a.b"), "").unwrap();
        let work = move |frames: &Frames, requests| {
            let sent = Sender::new(frames, requests).send(folder.path());
            sent.map_err(|error| Failure::new(engine_model::Kind::Internal, error.to_string()))
        };
        let (progress, cancelled) = (Progress::new("x"), CancellationToken::new());
        let step = progress.begin("x");
        let sent = converse(&session, Form::Directory, work, &step, &cancelled).await;
        sent.map_err(|error| error.message)
    }

    #[tokio::test]
    async fn clients_are_sent_what_they_ask_for_once() {
        assert_eq!(sent_to(Client::Honest).await, Ok(()));
        for (client, message) in [
            (Client::Lies, "asks for the file 77, which it was not sent"),
            (Client::Repeats, "asks for the file 1, which it was not sent"),
            (Client::Silent, "the client has taken nothing for"),
            (Client::Ends, "the client takes no more files"),
            (Client::Refuses, "no room"),
        ] {
            let error = sent_to(client).await.unwrap_err();
            assert!(error.contains(message), "{message}: {error}");
        }
    }
}
