//! Files of the client: a directory (`moby.filesync.v1.FileSync`) or an archive that it was given (`moby.upload.v1.Upload`).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine_model::task::apart;
use futures_util::FutureExt as _;
use hyper::body::Frame;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::caller::Metadata;
use super::grpc::{Code, Status, framed};
use super::messages::session::{BytesMessage, Packet, packet};
use super::progress::Step;
use super::session::Session;
use super::tree::{Bounds, MOST_ASKED, Reply, Tree, TreeError};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const PULL: &str = "/moby.upload.v1.Upload/Pull";
/// A client that sends nothing for as long, though it is there, is not waited for. It may have to look through many files
/// that are ignored before there is one to send.
pub(crate) const STALLED: Duration =
    if cfg!(test) { Duration::from_millis(300) } else { Duration::from_mins(3) };
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
    /// They are a few files of text.
    pub(crate) is_text: bool,
}

impl Wish {
    fn metadata(&self) -> Metadata {
        let mut metadata = Vec::new();
        add(&mut metadata, "dir-name", "dir-name-encoded", std::slice::from_ref(&self.directory));
        for (name, mark, values) in [
            ("exclude-patterns", "exclude-patterns-encoded", &self.excludes),
            ("followpaths", "followpaths-encoded", &self.paths),
        ] {
            if fits(values) {
                add(&mut metadata, name, mark, values);
            }
        }
        metadata
    }

    /// Whether the client is told all that is to be left out.
    pub(crate) fn is_sent_whole(&self) -> bool {
        fits(&self.excludes)
    }
}

/// Whether values are fit for headers by their length.
fn fits(values: &[String]) -> bool {
    values.iter().map(|value| 3 * value.len() + 64).sum::<usize>() <= MOST_HEADERS
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

pub(crate) fn broken_off() -> Status {
    Status::new(Code::Cancelled, "the build was broken off: its client, or its client's session, is gone")
}

/// Brings a directory of the client into `folder`, which is empty. `step` shows how it goes on. It has to be waited for to its
/// end, which comes soon when `cancelled` is.
pub(crate) async fn receive(
    session: &Session,
    wish: &Wish,
    folder: PathBuf,
    step: &Step,
    shown: &str,
    cancelled: &CancellationToken,
) -> Result<(), Status> {
    if !session.serves(DIFF_COPY) {
        return Err(Status::new(Code::NotFound, "the client gives no access to local files"));
    }
    let (requests, answers) = session.caller.converse(DIFF_COPY, wish.metadata());
    let (packets, received) = mpsc::channel::<Packet>(WAITING);
    // As many as there may be: whoever writes waits for the disk alone.
    let (replies, mut to_send) = mpsc::channel(MOST_ASKED + 1);
    // It waits for the client, so it is none of the threads that are for the disk.
    let bounds = if wish.is_text { Bounds::TEXT } else { Bounds::ALL };
    let writing = apart(move || write(&folder, bounds, received, &replies));
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
            let (kind, id) = match reply {
                Reply::Nothing => continue,
                Reply::Request(id) => (packet::REQUEST, id),
                Reply::Finished => (packet::FINISHED, 0),
            };
            let packet = Packet { kind, id, ..Packet::default() };
            if requests.send(Frame::data(framed(&packet))).await.is_err() {
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
    let writing = writing.boxed().shared();
    let both = futures_util::future::try_join(reading, writing.clone());
    let result = tokio::select! {
        both = both => both,
        () = sending => Err(Status::new(Code::Internal, "the sending of requests ended")),
        () = cancelled.cancelled() => Err(broken_off()),
    };
    // Whoever owns the folder removes it next: nothing may be written into it any more. What is read is gone by here, so that
    // there is an end to it.
    let written = writing.await;
    let (bytes, ()) = result?;
    written?;
    step.part(shown, bytes, 0, true);
    Ok(())
}

/// Writes what comes. Ends when all is here, or with the channel.
fn write(
    folder: &Path,
    bounds: Bounds,
    mut packets: mpsc::Receiver<Packet>,
    replies: &mpsc::Sender<Reply>,
) -> Result<(), TreeError> {
    let begun = Tree::new(folder, bounds);
    let mut tree = begun.map_err(|source| TreeError::Write { path: ".".to_owned(), source })?;
    while let Some(packet) = packets.blocking_recv() {
        let reply = tree.take(packet)?;
        if reply != Reply::Nothing {
            // Without a receiver there is no sender either, soon.
            let _ = replies.blocking_send(reply);
        }
        if reply == Reply::Finished {
            return Ok(());
        }
    }
    Err(TreeError::Client("it stopped in the middle".to_owned()))
}

/// An archive that the client was given as its context, to be read by a thread.
pub(crate) fn upload(
    session: &Session,
    path: &str,
    host: &str,
    cancelled: CancellationToken,
) -> Result<Upload, Status> {
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
            () = cancelled.cancelled() => Err(broken_off()),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;

    use hyper::body::Incoming;
    use hyper::server::conn::http2::Builder as Http2;
    use hyper::service::service_fn;
    use hyper::{HeaderMap, Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::super::grpc::{Outgoing, Reading, fine};
    use super::super::messages::session::Stat;
    use super::super::progress::Progress;
    use super::super::session::{Introduction, Sessions};
    use super::*;

    /// What a client of these tests does with its files.
    #[derive(Clone, Copy)]
    enum Client {
        Honest,
        /// Says nothing at all.
        Silent,
        /// Names a file, and never sends it.
        Stalls,
        /// Is gone after the first packet.
        Vanishes,
        /// Ends as if all was sent.
        Ends,
        /// Sends what was not asked for, without an end.
        Floods,
    }

    fn packets(client: Client, mut asked: Reading<Incoming>) -> Outgoing {
        let (frames, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let send = async |packet: &Packet| frames.send(Frame::data(framed(packet))).await.is_ok();
            let stat = Stat { path: "file".into(), mode: 0o644, ..Stat::default() };
            let stat = Packet { kind: packet::STAT, stat: Some(stat), ..Packet::default() };
            match client {
                Client::Silent => std::future::pending::<()>().await,
                Client::Floods => {
                    while send(&Packet {
                        kind: packet::DATA,
                        id: 9,
                        data: vec![0; 1000],
                        ..Packet::default()
                    })
                    .await
                    {}
                }
                Client::Honest | Client::Stalls | Client::Vanishes | Client::Ends => {
                    send(&stat).await;
                    send(&Packet::default()).await;
                }
            }
            match client {
                Client::Stalls => std::future::pending::<()>().await,
                Client::Ends => drop(frames.send(fine()).await),
                Client::Honest => {
                    assert_eq!(asked.one::<Packet>().await.unwrap().kind, packet::REQUEST);
                    for data in [&b"content"[..], b""] {
                        send(&Packet { kind: packet::DATA, data: data.to_vec(), ..Packet::default() }).await;
                    }
                    assert_eq!(asked.one::<Packet>().await.unwrap().kind, packet::FINISHED);
                    send(&Packet { kind: packet::FINISHED, ..Packet::default() }).await;
                    let _ = frames.send(fine()).await;
                }
                _ => {}
            }
        });
        Outgoing::stream(receiver)
    }

    async fn received_from(client: Client) -> (Result<(), String>, usize) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let service = service_fn(move |request: Request<Incoming>| async move {
            assert_eq!(request.headers()["dir-name"], "context");
            Ok::<_, Infallible>(Response::new(packets(client, Reading::request(request.into_body()))))
        });
        let serving =
            tokio::spawn(Http2::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service));
        if matches!(client, Client::Vanishes) {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                serving.abort();
            });
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-docker-expose-session-uuid", "id".parse().unwrap());
        headers.insert("x-docker-expose-session-grpc-method", DIFF_COPY.parse().unwrap());
        let (sessions, introduction) = (Sessions::default(), Introduction::of(&headers).unwrap());
        let holding = sessions.clone();
        tokio::spawn(async move { holding.hold(introduction, ours).await });
        let session = sessions.get("id").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let wish = Wish { directory: "context".to_owned(), ..Wish::default() };
        let (progress, inside) = (Progress::new("x"), folder.path().to_owned());
        let step = progress.begin("x");
        let result = receive(&session, &wish, inside, &step, "x", &CancellationToken::new()).await;
        let whole = std::fs::read(folder.path().join("file")).unwrap_or_default();
        (result.map_err(|error| error.message), whole.len())
    }

    #[tokio::test]
    async fn files_come_whole() {
        assert_eq!(received_from(Client::Honest).await, (Ok(()), 7));
    }

    #[tokio::test]
    async fn clients_that_do_not_keep_to_it_are_not_waited_for() {
        for (client, reason) in [
            (Client::Silent, "has sent nothing"),
            (Client::Stalls, "has sent nothing"),
            (Client::Vanishes, "conne"),
            (Client::Ends, "stopped in the middle"),
            (Client::Floods, "was not asked for"),
        ] {
            let error = received_from(client).await.0.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn too_many_patterns_are_noticed() {
        let mut wish = Wish { excludes: vec!["x".repeat(100); 100], ..Wish::default() };
        assert!(wish.is_sent_whole());
        wish.excludes = vec!["x".repeat(100); 1000];
        assert!(!wish.is_sent_whole());
    }

    #[test]
    fn names_get_into_headers() {
        let names = ["a b".to_owned(), "ä+".to_owned()];
        let mut metadata = Vec::new();
        add(&mut metadata, "followpaths", "followpaths-encoded", &names);
        let values: Vec<&str> = metadata.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(values, ["a+b", "%C3%A4%2B", "1"]);
        metadata.clear();
        add(&mut metadata, "followpaths", "followpaths-encoded", &names[..1]);
        assert_eq!(metadata.len(), 1);
    }
}
