//! Our standard input, read without blocking the runtime and without changing what others share it with.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot};
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

/// Standard input as a stream. A thread reads it, because not everything that can be a standard input can be waited for
/// in another way; the thread ends with this, as far as the system lets it.
pub(super) struct StandardInput {
    received: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
    escape: Escape,
    _reader: system::Reader,
}

impl StandardInput {
    /// With a listener, `~.` at the beginning of a line is not passed on but reported to it.
    pub(super) fn open(listener: Option<oneshot::Sender<()>>) -> io::Result<Self> {
        let (sender, received) = mpsc::channel(4);
        let reader = system::Reader::start(sender)?;
        Ok(Self { received, rest: Bytes::new(), escape: Escape::new(listener), _reader: reader })
    }
}

impl AsyncRead for StandardInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.received.poll_recv(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(chunk)) => self.rest = self.escape.filter(chunk),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// Watches for `~.`, with which a person leaves a connection that hangs. `~~` stands for `~`.
struct Escape {
    listener: Option<oneshot::Sender<()>>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Tilde,
    InLine,
}

impl Escape {
    fn new(listener: Option<oneshot::Sender<()>>) -> Self {
        Self { listener, state: State::LineStart }
    }

    fn filter(&mut self, chunk: Bytes) -> Bytes {
        if self.listener.is_none() {
            return chunk;
        }
        let mut passed = Vec::with_capacity(chunk.len() + 1);
        for byte in chunk {
            let after = if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::InLine };
            match (self.state, byte) {
                (State::LineStart, b'~') => self.state = State::Tilde,
                (State::Tilde, b'.') => {
                    if let Some(listener) = self.listener.take() {
                        let _ = listener.send(());
                    }
                    break;
                }
                (State::Tilde, b'~') => {
                    passed.push(b'~');
                    self.state = State::InLine;
                }
                (State::Tilde, other) => {
                    passed.extend([b'~', other]);
                    self.state = after;
                }
                (_, other) => {
                    passed.push(other);
                    self.state = after;
                }
            }
        }
        passed.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(chunks: &[&str]) -> (String, bool) {
        let (sender, mut receiver) = oneshot::channel();
        let mut escape = Escape::new(Some(sender));
        let passed: Vec<u8> =
            chunks.iter().flat_map(|chunk| escape.filter(Bytes::copy_from_slice(chunk.as_bytes()))).collect();
        (String::from_utf8_lossy(&passed).into_owned(), receiver.try_recv().is_ok())
    }

    #[test]
    fn the_escape_counts_at_the_beginning_of_lines() {
        assert_eq!(filtered(&["~."]), (String::new(), true));
        assert_eq!(filtered(&["ls\r", "~", ".x"]), ("ls\r".to_owned(), true));
        assert_eq!(filtered(&["ls ~.\r"]), ("ls ~.\r".to_owned(), false));
        assert_eq!(filtered(&["~~.\r~x"]), ("~.\r~x".to_owned(), false));
    }
}
