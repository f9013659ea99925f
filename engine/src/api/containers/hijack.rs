//! A connection that stops being HTTP and carries the streams of a process instead.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frames::Reframe;
use crate::peer::{self, Peer};

/// What docker's clients detach with.
const DEFAULT_KEYS: &[u8] = &[16, 17];
const BUFFER: usize = 32 * 1024;
/// How long a process may take to read what a client had sent that is gone.
const LAST_INPUT: Duration = Duration::from_secs(10);

/// The client's wish to take the connection over.
#[derive(Debug)]
pub struct Takeover {
    upgrade: OnUpgrade,
    /// Whose connection it is.
    pub peer: Option<Peer>,
}

/// How the output is framed.
pub fn content_type(terminal: bool) -> &'static str {
    if terminal { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" }
}

impl Takeover {
    /// From a request that asks for an upgrade; `None` if it does not.
    pub fn of(request: &mut Request<Body>) -> Option<Self> {
        if !wants_upgrade(request.headers()) {
            return None;
        }
        let extensions = request.extensions_mut();
        Some(Self { upgrade: extensions.remove::<OnUpgrade>()?, peer: extensions.remove::<Peer>() })
    }

    /// The answer that makes the connection a stream.
    pub fn response(terminal: bool) -> Response {
        let headers = [
            (header::CONTENT_TYPE, content_type(terminal)),
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "tcp"),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }

    /// The bare connection, once the answer has been sent.
    pub async fn stream(self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
        Ok(TokioIo::new(self.upgrade.await.map_err(io::Error::other)?))
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    has(header::CONNECTION, "upgrade") && headers.contains_key(header::UPGRADE)
}

/// Carries bytes both ways until the process's side ends, or the client is gone (as far as `peer` tells). The client may
/// close its own side before that; it is told of the end when `recorded` is over, since it asks for the exit code as soon as
/// it sees the end. With `keys`, typing them ends it too; then the answer is true.
pub async fn carry(
    client: impl AsyncRead + AsyncWrite,
    peer: Option<&Peer>,
    process: impl AsyncRead + AsyncWrite,
    keys: Option<Vec<u8>>,
    mut frames: Reframe,
    recorded: impl Future<Output = ()>,
) -> bool {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_process, mut to_process) = tokio::io::split(process);
    let input = async {
        let mut keys = keys.map(Keys::new);
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match from_client.read(&mut buffer).await {
                Ok(count) if count > 0 => count,
                _ => break,
            };
            let typed = match &mut keys {
                Some(keys) => keys.look_for(&buffer[..count]),
                None => Typed::Pass(buffer[..count].to_vec()),
            };
            match typed {
                Typed::Pass(bytes) => {
                    if to_process.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Typed::Detach => return true,
            }
        }
        let _ = to_process.shutdown().await;
        false
    };
    let output = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            match from_process.read(&mut buffer).await {
                Ok(count) if count > 0 => {
                    let Ok(bytes) = frames.convert(&buffer[..count]) else { return };
                    if to_client.write_all(&bytes).await.is_err() || to_client.flush().await.is_err() {
                        return;
                    }
                }
                _ => break,
            }
        }
        recorded.await;
        let _ = to_client.shutdown().await;
    };
    let abandoned = async {
        peer::gone(peer).await;
        tokio::time::sleep(LAST_INPUT).await;
    };
    tokio::pin!(output);
    tokio::select! {
        () = &mut output => false,
        () = abandoned => false,
        detached = input => {
            if !detached {
                // Its last words have been passed on; whether it hears the answer is another matter.
                tokio::select! {
                    () = output => {}
                    () = peer::gone(peer) => {}
                }
            }
            detached
        }
    }
}

/// Reads `ctrl-p,ctrl-q` or `a,b`.
pub fn parse_keys(text: Option<&str>) -> Option<Vec<u8>> {
    let Some(text) = text else { return Some(DEFAULT_KEYS.to_vec()) };
    text.split(',')
        .map(|key| match key.as_bytes() {
            [single] => Some(*single),
            [b'c', b't', b'r', b'l', b'-', letter] => match letter {
                b'a'..=b'z' => Some(letter - b'a' + 1),
                b'@' => Some(0),
                b'[' => Some(27),
                b'\\' => Some(28),
                b']' => Some(29),
                b'^' => Some(30),
                b'_' => Some(31),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// What becomes of what is typed.
pub(super) enum Typed {
    Pass(Vec<u8>),
    Detach,
}

/// Looks for a sequence of keys in what is typed.
pub(super) struct Keys {
    sequence: Vec<u8>,
    seen: usize,
}

impl Keys {
    pub(super) fn new(sequence: Vec<u8>) -> Self {
        Self { sequence, seen: 0 }
    }

    /// Keys that may be the beginning of the sequence are held back until the next one tells.
    pub(super) fn look_for(&mut self, typed: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.sequence.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.sequence.len() {
                    return Typed::Detach;
                }
                continue;
            }
            pass.extend_from_slice(&self.sequence[..self.seen]);
            self.seen = 0;
            if self.sequence.first() == Some(&byte) && self.sequence.len() > 1 {
                self.seen = 1;
            } else {
                pass.push(byte);
            }
        }
        Typed::Pass(pass)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn both_sides_end_on_their_own() {
        let (client, mut other_client) = tokio::io::duplex(64);
        let (process, mut other_process) = tokio::io::duplex(64);
        let carrying =
            tokio::spawn(carry(client, None, process, None, Reframe::Keep, std::future::ready(())));
        other_client.write_all(b"question").await.unwrap();
        other_client.shutdown().await.unwrap();
        let mut question = Vec::new();
        other_process.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        other_process.write_all(b"answer").await.unwrap();
        drop(other_process);
        let mut answer = Vec::new();
        other_client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert!(!carrying.await.unwrap());
    }

    /// Who sees the end asks for the exit code.
    #[tokio::test]
    async fn the_client_sees_the_end_when_it_is_recorded_and_not_before() {
        let (client, mut other_client) = tokio::io::duplex(64);
        let (process, other_process) = tokio::io::duplex(64);
        let (record, recorded) = tokio::sync::oneshot::channel::<()>();
        let carrying = carry(client, None, process, None, Reframe::Keep, async { drop(recorded.await) });
        drop(other_process);
        tokio::pin!(carrying);
        // As far as it comes by itself.
        assert_eq!(carrying.as_mut().now_or_never(), None);
        let mut answer = Vec::new();
        {
            let ends = other_client.read_to_end(&mut answer);
            tokio::pin!(ends);
            assert!(ends.as_mut().now_or_never().is_none());
        }
        record.send(()).unwrap();
        let (_, ended) = tokio::join!(carrying, other_client.read_to_end(&mut answer));
        assert_eq!(ended.unwrap(), 0);
    }

    /// Nothing is held open for it, and what it had sent reaches the process.
    #[tokio::test]
    async fn a_client_that_is_gone_ends_it_though_the_process_is_silent() {
        let (mut other_client, client) = tokio::net::UnixStream::pair().unwrap();
        let (process, mut other_process) = tokio::io::duplex(64);
        let peer = Peer::from(client);
        let carrying = carry(peer.clone(), Some(&peer), process, None, Reframe::Keep, std::future::ready(()));
        other_client.write_all(b"last words").await.unwrap();
        drop(other_client);
        assert!(!carrying.await);
        let mut words = String::new();
        other_process.read_to_string(&mut words).await.unwrap();
        assert_eq!(words, "last words");
    }

    #[test]
    fn keys_detach_and_others_pass() {
        let mut keys = Keys::new(parse_keys(None).unwrap());
        assert!(matches!(keys.look_for(b"ab\x10"), Typed::Pass(bytes) if bytes == b"ab"));
        assert!(matches!(keys.look_for(b"x"), Typed::Pass(bytes) if bytes == b"\x10x"));
        assert!(matches!(keys.look_for(b"\x10\x10\x11"), Typed::Detach));
        assert_eq!(parse_keys(Some("ctrl-a,x,ctrl-]")), Some(vec![1, b'x', 29]));
        assert_eq!(parse_keys(Some("ctrl-1")), None);
    }
}
