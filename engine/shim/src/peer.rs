//! One connection to the supervising process.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use serde::Serialize;

use super::descriptor;
use super::log::Stream;
use super::protocol::{self, LINE_LIMIT, Reply, Request};

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Commands,
    Attached { stdin: bool, stdout: bool, stderr: bool },
    Following,
}

/// A client that has this much to read yet holds up the container.
pub(crate) const PATIENCE: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Peer {
    pub socket: UnixStream,
    pub mode: Mode,
    /// Wants to be told the exit.
    pub waiting: bool,
    /// It will not send any more.
    pub finished_sending: bool,
    pub dead: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl Peer {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            mode: Mode::Commands,
            waiting: false,
            finished_sending: false,
            dead: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
        })
    }

    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    pub(crate) fn is_attached(&self) -> bool {
        matches!(self.mode, Mode::Attached { .. })
    }

    pub(crate) fn gives_stdin(&self) -> bool {
        matches!(self.mode, Mode::Attached { stdin: true, .. })
    }

    /// Reads what there is; says how many bytes came.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> usize {
        match self.socket.read(buffer) {
            Ok(0) => self.finished_sending = true,
            Ok(count) => return count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.dead = true,
        }
        0
    }

    /// Adds bytes of a command connection.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next whole request, or the name of one that is not understood; a line that is none kills the connection.
    pub(crate) fn next_request(&mut self) -> Option<Result<Request, String>> {
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            self.dead |= self.input.len() > LINE_LIMIT;
            return None;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let request = match serde_json::from_slice(&line) {
            Ok(request) => Some(Ok(request)),
            Err(_) => protocol::name(&line).map(Err),
        };
        self.dead |= request.is_none();
        request
    }

    /// What came behind the last request, on a connection that has become a stream.
    pub(crate) fn leftover(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    pub(crate) fn reply(&mut self, reply: &Reply) {
        self.send_line(reply);
    }

    /// Replies, and hands a descriptor over with it; on a connection that still has something to read, without.
    pub(crate) fn hand_over(&mut self, reply: &Reply, descriptor: BorrowedFd<'_>) {
        let Ok(mut line) = serde_json::to_vec(reply) else { return };
        line.push(b'\n');
        if self.unsent() == 0
            && let Ok(count) = descriptor::send(&self.socket, &line, descriptor)
        {
            line.drain(..count);
        }
        self.output.append(&mut line);
        self.send();
    }

    fn send_line(&mut self, line: &impl Serialize) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            self.output.append(&mut text);
            self.send();
        }
    }

    /// Passes output on, as a frame unless it comes from a terminal.
    pub(crate) fn pass(&mut self, stream: Stream, bytes: &[u8], terminal: bool) {
        let Mode::Attached { stdout, stderr, .. } = self.mode else { return };
        let wanted = if stream == Stream::Stdout { stdout } else { stderr };
        if !wanted || self.dead {
            return;
        }
        if !terminal {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let [a, b, c, d] = length.to_be_bytes();
            self.output.extend_from_slice(&[stream as u8, 0, 0, 0, a, b, c, d]);
        }
        self.output.extend_from_slice(bytes);
        self.send();
    }

    /// Tells a follower that the log has grown. One unread byte is as good as many.
    pub(crate) fn nudge(&mut self) {
        if self.mode == Mode::Following && self.unsent() == 0 {
            self.output.push(b'.');
            self.send();
        }
    }

    pub(crate) fn send(&mut self) {
        while self.sent < self.output.len() {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(0) => self.dead = true,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.dead = true,
            }
            if self.dead {
                return;
            }
        }
        self.output.clear();
        self.output.shrink_to(PATIENCE);
        self.sent = 0;
    }
}
