//! Files of the client: a directory (`moby.filesync.v1.FileSync`) or an archive that it was given (`moby.upload.v1.Upload`).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine_model::task::apart;
use hyper::body::Frame;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::caller::Metadata;
use super::grpc::{Code, Status, framed};
use super::messages::session::{BytesMessage, Packet, packet};
use super::progress::Step;
use super::session::Session;
use super::tree::{Reply, Tree, TreeError};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const PULL: &str = "/moby.upload.v1.Upload/Pull";
/// A client that sends nothing for as long, though it is there, is not waited for. It may have to look through many files
/// that are ignored before there is one to send.
const STALLED: Duration = Duration::from_mins(3);
/// Packets that wait for the disk.
const WAITING: usize = 32;
const TELL_EVERY: Duration = Duration::from_millis(150);
/// Go's servers take a megabyte of headers. What is not told to the client is left out here.
const MOST_HEADERS: usize = 256 << 10;

/// Which files are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// What the client calls the directory: `context`, `dockerfile`, or the name of a named context.
    pub(crate) directory: String,
    /// As in `.dockerignore`.
    pub(crate) excludes: Vec<String>,
    /// Only these, and what they lead to as links; all if there are none.
    pub(crate) paths: Vec<String>,
}

impl Wish {
    fn metadata(&self) -> Metadata {
        let mut metadata = Vec::new();
        add(&mut metadata, "dir-name", "dir-name-encoded", std::slice::from_ref(&self.directory));
        for (name, mark, values) in [
            ("exclude-patterns", "exclude-patterns-encoded", &self.excludes),
            ("followpaths", "followpaths-encoded", &self.paths),
        ] {
            if values.iter().map(|value| 3 * value.len() + 64).sum::<usize>() <= MOST_HEADERS {
                add(&mut metadata, name, mark, values);
            }
        }
        metadata
    }
}

/// Adds values under a name; if one is not fit for a header, all are encoded and marked so.
fn add(metadata: &mut Metadata, name: &'static str, mark: &'static str, values: &[String]) {
    let is_plain = values.iter().all(|value| value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    for value in values {
        let text = if is_plain { value.clone() } else { query_escaped(value) };
        if let Ok(value) = HeaderValue::from_str(&text) {
            metadata.push((HeaderName::from_static(name), value));
        }
    }
    if !is_plain {
        metadata.push((HeaderName::from_static(mark), HeaderValue::from_static("1")));
    }
}

/// As Go's `url.QueryEscape`.
fn query_escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn stalled() -> Status {
    let seconds = STALLED.as_secs();
    Status::new(Code::DeadlineExceeded, format!("the client has sent nothing of its files for {seconds} s"))
}

/// Brings a directory of the client into `folder`, which is empty. `step` shows how it goes on.
pub(crate) async fn receive(
    session: &Session,
    wish: &Wish,
    folder: PathBuf,
    step: &Step,
    shown: &str,
) -> Result<(), Status> {
    if !session.serves(DIFF_COPY) {
        return Err(Status::new(Code::NotFound, "the client gives no access to local files"));
    }
    let (requests, answers) = session.caller.converse(DIFF_COPY, wish.metadata());
    let (packets, received) = mpsc::channel::<Packet>(WAITING);
    let (replies, mut to_send) = mpsc::unbounded_channel();
    // It waits for the client, so it is none of the threads that are for the disk.
    let writing = apart(move || write(&folder, received, &replies));
    let reading = async move {
        let mut answers = tokio::time::timeout(STALLED, answers).await.map_err(|_| stalled())??;
        let (mut bytes, mut told) = (0, Instant::now());
        loop {
            let packet =
                tokio::time::timeout(STALLED, answers.next::<Packet>()).await.map_err(|_| stalled())??;
            let Some(packet) = packet else { break };
            bytes += packet.data.len() as u64;
            if told.elapsed() >= TELL_EVERY {
                step.part(shown, bytes, 0, false);
                told = Instant::now();
            }
            let is_last = packet.kind == packet::FINISHED;
            // Once all is here, one packet is to come, and the end.
            if packets.send(packet).await.is_err() && !is_last {
                break;
            }
        }
        Ok::<_, Status>(bytes)
    };
    let sending = async {
        while let Some(reply) = to_send.recv().await {
            if requests.send(Frame::data(framed(&reply))).await.is_err() {
                break;
            }
        }
        // The request stays open until the client has said its last word.
        std::future::pending::<()>().await;
    };
    let writing = async {
        let written = writing.await;
        let written =
            written.map_err(|_| Status::new(Code::Internal, "the writing of files was cut short"))?;
        written.map_err(|error| Status::new(Code::Unknown, error.to_string()))
    };
    let both = futures_util::future::try_join(reading, writing);
    let (bytes, ()) = tokio::select! {
        both = both => both?,
        () = sending => return Err(Status::new(Code::Internal, "the sending of requests ended")),
    };
    step.part(shown, bytes, 0, true);
    Ok(())
}

/// Writes what comes. Ends when all is here, or with the channel.
fn write(
    folder: &Path,
    mut packets: mpsc::Receiver<Packet>,
    replies: &mpsc::UnboundedSender<Packet>,
) -> Result<(), TreeError> {
    let begun = Tree::new(folder);
    let mut tree = begun.map_err(|source| TreeError::Write { path: ".".to_owned(), source })?;
    while let Some(packet) = packets.blocking_recv() {
        let reply = match tree.take(packet)? {
            Reply::Nothing => continue,
            Reply::Request(id) => Packet { kind: packet::REQUEST, id, ..Packet::default() },
            Reply::Finished => Packet { kind: packet::FINISHED, ..Packet::default() },
        };
        let is_all = reply.kind == packet::FINISHED;
        // Without a receiver there is no sender either, soon.
        let _ = replies.send(reply);
        if is_all {
            return Ok(());
        }
    }
    Err(TreeError::Client("it stopped in the middle".to_owned()))
}

/// An archive that the client was given as its context, to be read by a thread.
pub(crate) fn upload(session: &Session, path: &str, host: &str) -> Result<Upload, Status> {
    if !session.serves(PULL) {
        return Err(Status::new(Code::NotFound, "the client uploads nothing"));
    }
    let mut metadata = Vec::new();
    for (name, value) in [("urlpath", path), ("urlhost", host)] {
        let value = HeaderValue::from_str(value).map_err(|_| {
            Status::new(Code::InvalidArgument, format!("`{value}` is no address of an upload"))
        })?;
        metadata.push((HeaderName::from_static(name), value));
    }
    let (requests, answers) = session.caller.converse(PULL, metadata);
    let (pieces, received) = mpsc::channel::<Result<Bytes, Status>>(WAITING);
    tokio::spawn(async move {
        // The client takes a closed request for the end of its work.
        let _open = requests;
        let result = async {
            let mut answers = tokio::time::timeout(STALLED, answers).await.map_err(|_| stalled())??;
            loop {
                let piece = tokio::time::timeout(STALLED, answers.next::<BytesMessage>())
                    .await
                    .map_err(|_| stalled())??;
                let Some(piece) = piece else { return Ok(()) };
                if pieces.send(Ok(piece.data.into())).await.is_err() {
                    return Ok(());
                }
            }
        };
        let result = tokio::select! {
            result = result => result,
            () = pieces.closed() => Ok(()),
        };
        if let Err(error) = result {
            let _ = pieces.send(Err(error)).await;
        }
    });
    Ok(Upload { received, piece: Bytes::new() })
}

/// The bytes of an upload. Reading blocks.
#[derive(Debug)]
pub(crate) struct Upload {
    received: mpsc::Receiver<Result<Bytes, Status>>,
    piece: Bytes,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(error.message)),
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
