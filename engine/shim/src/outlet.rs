//! Output on its way from the supervising process to the log process, and the form that it has there.
//!
//! The log process is this program again, as `engine log`, made by the supervising process and, like it, independent of the
//! daemon. Its standard input carries its settings (a length of four bytes and that much JSON) and then pieces of output,
//! each with a [`Head`]. Its standard output carries one line, [`READY`] or the reason why not, and then a byte each time that it
//! has passed something on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::log::Stream;
use super::protocol::{LogProcess, ShimConfig};

/// The line that says that the driver works.
pub const READY: &[u8] = b"ready";
/// What messages about the driver begin with, as dockerd's do.
pub const FAILED: &str = "failed to initialize logging driver: ";

/// How long the driver may take to reach its server.
const BEGINNING: Duration = Duration::from_secs(60);
/// How much waits for the log process in blocking mode before the container's output waits, too.
const HELD: usize = 64 * 1024;
/// Longer answers are not read.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Of the stream's byte: something before this piece was dropped.
const GAP: u8 = 0x80;

/// What comes before a piece of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub stream: Stream,
    /// Something before it was dropped, so that it does not go on where the piece before it ended.
    pub after_gap: bool,
    pub time: Timestamp,
    pub length: u32,
}

impl Head {
    /// The stream, nanoseconds since 1970 and the length; numbers in little endian.
    pub const SIZE: usize = 1 + 16 + 4;

    pub fn bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = self.stream as u8 | if self.after_gap { GAP } else { 0 };
        bytes[1..17].copy_from_slice(&self.time.as_nanosecond().to_le_bytes());
        bytes[17..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let [first, rest @ ..] = bytes;
        let (nanoseconds, length) = rest.split_first_chunk::<16>()?;
        let stream = match first & !GAP {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        Some(Self {
            stream,
            after_gap: first & GAP != 0,
            time: Timestamp::from_nanosecond(i128::from_le_bytes(*nanoseconds)).ok()?,
            length: u32::from_le_bytes(length.try_into().ok()?),
        })
    }
}

/// This side of it.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// Absent once the log process is gone.
    input: Option<OwnedFd>,
    signs: Option<OwnedFd>,
    pending: Vec<u8>,
    /// How much of that is sent.
    sent: usize,
    /// In non-blocking mode: how much may be pending.
    buffer: Option<usize>,
    writes_file: bool,
    /// Whether something of a stream was dropped since its last piece.
    gaps: [bool; 2],
    /// The log process, if there is such a handle.
    process: Option<OwnedFd>,
    /// Whether that was said.
    complained: bool,
}

impl Outlet {
    /// Begins the log process of a container, if it has one, and waits until its driver works; otherwise why it does not.
    pub(crate) fn begin(directory: &Path, config: &ShimConfig) -> Result<Option<Self>, String> {
        let Some(process) = &config.log_process else { return Ok(None) };
        let outlet = Self::spawn(directory, process).map_err(|error| format!("{FAILED}{error}"))?;
        Ok(Some(outlet))
    }

    fn spawn(directory: &Path, settings: &LogProcess) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("log")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(messages(directory, settings)?)
            .spawn()?;
        let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process =
            process.and_then(|process| rustix::process::pidfd_open(process, PidfdFlags::empty()).ok());
        let (Some(input), Some(signs)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let text = serde_json::to_vec(&settings.settings)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        let mut input = File::from(OwnedFd::from(input));
        let mut signs = File::from(OwnedFd::from(signs));
        input.write_all(&length.to_le_bytes())?;
        input.write_all(&text)?;
        match first_line(&mut signs) {
            Ok(line) if line == READY => {}
            Ok(line) if line.is_empty() => return Err(io::Error::other("the log process is gone")),
            Ok(line) => return Err(io::Error::other(String::from_utf8_lossy(&line).into_owned())),
            Err(error) => {
                let _ = child.kill();
                return Err(error);
            }
        }
        let (input, signs) = (OwnedFd::from(input), OwnedFd::from(signs));
        rustix::io::ioctl_fionbio(&input, true)?;
        rustix::io::ioctl_fionbio(&signs, true)?;
        Ok(Self {
            input: Some(input),
            signs: Some(signs),
            pending: Vec::new(),
            sent: 0,
            buffer: settings.buffer.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            writes_file: settings.writes_file,
            gaps: [false; 2],
            process,
            complained: false,
        })
    }

    /// Takes a piece of output; in non-blocking mode it is dropped where there is no room.
    pub(crate) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        let Ok(length) = u32::try_from(bytes.len()) else { return };
        if self.input.is_none() {
            return;
        }
        let waiting = self.pending.len() - self.sent;
        if self.buffer.is_some_and(|buffer| waiting > 0 && waiting + bytes.len() > buffer) {
            self.gaps[stream as usize - 1] = true;
            if !self.complained {
                self.complained = true;
                tracing::error!(
                    "The log does not keep up with the container; in non-blocking mode what does not fit into `max-buffer-size` is dropped"
                );
            }
            return;
        }
        let head = Head {
            stream,
            after_gap: std::mem::take(&mut self.gaps[stream as usize - 1]),
            time: Timestamp::now(),
            length,
        };
        self.pending.extend_from_slice(&head.bytes());
        self.pending.extend_from_slice(bytes);
    }

    /// Whether the container's output has to wait.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.is_none() && self.pending.len() - self.sent >= HELD
    }

    pub(crate) fn has_more(&self) -> bool {
        self.input.is_some() && self.sent < self.pending.len()
    }

    pub(crate) fn writes_file(&self) -> bool {
        self.writes_file
    }

    pub(crate) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd).filter(|_| self.has_more())
    }

    pub(crate) fn signs(&self) -> Option<BorrowedFd<'_>> {
        self.signs.as_ref().map(AsFd::as_fd)
    }

    /// Sends as much as the log process takes now. An error: it takes nothing any more.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        while let Some(input) = &self.input
            && self.sent < self.pending.len()
        {
            match rustix::io::write(input, &self.pending[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => {
                    self.input = None;
                    self.pending = Vec::new();
                    self.sent = 0;
                    return Err(error.into());
                }
            }
        }
        if self.sent == self.pending.len() {
            self.pending.clear();
            self.pending.shrink_to(HELD);
            self.sent = 0;
        } else if self.sent >= HELD.max(self.pending.len() / 2) {
            self.pending.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Reads the signs that have come; whether there were any.
    pub(crate) fn heed(&mut self) -> bool {
        let Some(signs) = &self.signs else { return false };
        let mut buffer = [0; 4096];
        match rustix::io::read(signs, &mut buffer[..]) {
            Ok(count) if count > 0 => true,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => false,
            // It is gone; who writes to it learns that.
            _ => {
                self.signs = None;
                true
            }
        }
    }

    /// Gives it what is left, and waits until it has ended.
    pub(crate) fn finish(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.has_more() {
            let Some(input) = &self.input else { break };
            if !wait(input.as_fd(), PollFlags::OUT, deadline) || self.send().is_err() {
                break;
            }
        }
        self.input = None;
        while let Some(signs) = &self.signs {
            if !wait(signs.as_fd(), PollFlags::IN, deadline) {
                // The next run has the file for itself.
                if let Some(process) = &self.process {
                    let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
                }
                break;
            }
            self.heed();
        }
    }

    /// Nothing more comes, and all is sent.
    pub(crate) fn close(&mut self) {
        self.input = None;
    }
}

/// Where the log process says what went wrong: in a file that outlives this run, as it does itself.
fn messages(directory: &Path, settings: &LogProcess) -> io::Result<File> {
    match &settings.messages {
        Some(path) => File::options().create(true).append(true).mode(0o600).open(path),
        None => super::open_messages(directory),
    }
}

/// Whether it is ready before the deadline.
fn wait(descriptor: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    match rustix::event::poll(&mut [PollFd::new(&descriptor, flags)], Some(&timeout)) {
        Ok(count) => count > 0,
        Err(_) => Instant::now() < deadline,
    }
}

fn first_line(signs: &mut File) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + BEGINNING;
    let mut line = Vec::new();
    // Byte by byte, as what comes after the line is not part of it.
    let mut byte = [0];
    while line.len() < LONGEST_ANSWER {
        if !wait(signs.as_fd(), PollFlags::IN, deadline) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the driver does not answer"));
        }
        if signs.read(&mut byte)? == 0 || byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet(buffer: Option<usize>) -> (Outlet, OwnedFd) {
        let (theirs, input) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&input, true).unwrap();
        let outlet = Outlet {
            input: Some(input),
            signs: None,
            pending: Vec::new(),
            sent: 0,
            buffer,
            writes_file: false,
            gaps: [false; 2],
            process: None,
            complained: false,
        };
        (outlet, theirs)
    }

    fn pieces(bytes: &[u8]) -> Vec<(Head, usize)> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while let Some((head, after)) = rest.split_first_chunk::<{ Head::SIZE }>() {
            let head = Head::parse(head).unwrap();
            let length = head.length as usize;
            pieces.push((head, length));
            rest = &after[length..];
        }
        pieces
    }

    #[test]
    fn heads() {
        let time = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        for after_gap in [false, true] {
            let head = Head { stream: Stream::Stderr, after_gap, time, length: 77 };
            assert_eq!(Head::parse(&head.bytes()), Some(head));
        }
        assert_eq!(Head::parse(&[0; Head::SIZE]), None);
        assert_eq!(Head::parse(&[0xff; Head::SIZE]), None);
    }

    #[test]
    fn in_blocking_mode_nothing_is_dropped_and_the_container_waits() {
        let (mut outlet, theirs) = outlet(None);
        let mut given = 0;
        while !outlet.is_full() {
            outlet.add(Stream::Stdout, &[b'x'; 10_000]);
            given += 1;
            outlet.send().unwrap();
        }
        let mut received = vec![0; 1 << 20];
        let mut length = 0;
        while outlet.has_more() || length < given * (10_000 + Head::SIZE) {
            length += rustix::io::read(&theirs, &mut received[length..]).unwrap();
            outlet.send().unwrap();
        }
        let pieces = pieces(&received[..length]);
        assert_eq!(pieces.len(), given);
        assert!(pieces.iter().all(|(head, length)| !head.after_gap && *length == 10_000));
    }

    #[test]
    fn in_non_blocking_mode_what_does_not_fit_is_dropped_and_the_gap_is_told() {
        let (mut outlet, theirs) = outlet(Some(50_000));
        for _ in 0..100 {
            outlet.add(Stream::Stdout, &[b'x'; 10_000]);
            outlet.send().unwrap();
            assert!(!outlet.is_full());
        }
        let mut received = vec![0; 1 << 20];
        let mut length = 0;
        while outlet.has_more() {
            length += rustix::io::read(&theirs, &mut received[length..]).unwrap();
            outlet.send().unwrap();
        }
        outlet.add(Stream::Stderr, b"another stream");
        outlet.add(Stream::Stdout, b"after");
        outlet.send().unwrap();
        drop(outlet);
        loop {
            let count = rustix::io::read(&theirs, &mut received[length..]).unwrap();
            length += count;
            if count == 0 {
                break;
            }
        }
        let pieces = pieces(&received[..length]);
        assert!(pieces.len() < 50, "{}", pieces.len());
        let gaps: Vec<usize> = (0..pieces.len()).filter(|index| pieces[*index].0.after_gap).collect();
        assert_eq!(gaps.last(), Some(&(pieces.len() - 1)));
    }

    #[test]
    fn a_log_process_that_is_gone_holds_up_nobody() {
        let (mut outlet, theirs) = outlet(None);
        drop(theirs);
        outlet.add(Stream::Stdout, b"lost");
        // As the process itself is set up.
        assert!(outlet.send().is_err());
        outlet.add(Stream::Stdout, &vec![0; 200_000]);
        assert!(!outlet.has_more() && !outlet.is_full());
    }
}
