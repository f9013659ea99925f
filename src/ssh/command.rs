//! Commands on the host, without a terminal.

use std::future::pending;
use std::io;

use bytes::{Bytes, BytesMut};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

use super::error::abbreviated;
use super::{Session, SshError};
use crate::terminal::Size;

/// How much `output` keeps.
const MAXIMUM_OUTPUT: usize = 64 * 1024 * 1024;
/// How long a line of `stream` gets.
const MAXIMUM_LINE: usize = 64 * 1024;
/// One packet of the protocol.
const CHUNK: usize = 32 * 1024;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this status.
    Code(u32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

impl ExitStatus {
    /// The status to end with ourselves: that of the command, or 128 plus the number of the signal, as shells do it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Self::Signal(name) => signal_number(name).map_or(u8::MAX, |number| 128 + number),
        }
    }

    /// Whether the command was content.
    pub fn success(&self) -> bool {
        *self == Self::Code(0)
    }
}

fn signal_number(name: &str) -> Option<u8> {
    // Servers add their domain to names that the protocol does not know.
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    Some(match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "SYS" => 31,
        _ => return None,
    })
}

fn signal_name(signal: Sig) -> String {
    match signal {
        Sig::Custom(name) => name.chars().filter(char::is_ascii_graphic).take(64).collect(),
        known => format!("{known:?}"),
    }
}

/// Which of its two outputs a command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// All that a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Session {
    /// Runs a command to its end and returns what it wrote, up to 64 MiB. The command goes to the login shell of the user
    /// exactly as it is given; that it fails is no error here.
    pub async fn output(&self, command: &str, stdin: &[u8]) -> Result<Output, SshError> {
        let what = abbreviated(command);
        let mut capture = Capture { host: self.host(), what: &what, out: Vec::new(), err: Vec::new() };
        let status = self.execute(&what, command, stdin, &mut capture).await?;
        let Capture { out: stdout, err: stderr, .. } = capture;
        Ok(Output { status, stdout, stderr })
    }

    /// Runs a command and hands out what it writes, line by line as it comes, without the line ends. Lines longer than
    /// 64 KiB come in pieces; what is not UTF-8 is replaced.
    pub async fn stream(
        &self,
        command: &str,
        stdin: impl AsyncRead + Unpin + Send,
        on_line: impl FnMut(Stream, &str) + Send,
    ) -> Result<ExitStatus, SshError> {
        let mut lines = Lines { on_line, out: Vec::new(), err: Vec::new() };
        let status = self.execute(&abbreviated(command), command, stdin, &mut lines).await?;
        lines.finish();
        Ok(status)
    }

    async fn execute(
        &self,
        what: &str,
        command: &str,
        stdin: impl AsyncRead + Unpin + Send,
        consumer: &mut (impl Consumer + Send),
    ) -> Result<ExitStatus, SshError> {
        let channel = self.open_channel(what).await?;
        channel.exec(true, command).await.map_err(|error| self.channel_error(what, error))?;
        self.converse(what, channel, stdin, consumer, &mut NoControls).await
    }

    /// Feeds a command that was just asked for, consumes what it writes, does what the controls say meanwhile, and waits
    /// for its end.
    pub(super) async fn converse(
        &self,
        what: &str,
        channel: Channel<Msg>,
        stdin: impl AsyncRead + Unpin + Send,
        consumer: &mut (impl Consumer + Send),
        controls: &mut (impl Controls + Send),
    ) -> Result<ExitStatus, SshError> {
        let (mut reader, writer) = channel.split();
        let writer = CloseOnDrop::new(writer);
        let mut feeding = std::pin::pin!(feed(&writer, stdin));
        let mut is_fed = false;
        let start_limit = Instant::now() + self.channel_limit();
        let mut progress = Progress::default();
        loop {
            tokio::select! {
                message = reader.wait() => match message {
                    Some(message) => self.receive(what, message, &mut progress, consumer).await?,
                    None => break,
                },
                outcome = &mut feeding, if !is_fed => {
                    is_fed = true;
                    outcome.map_err(|source| SshError::OwnStream { what: "input of the command", source })?;
                }
                control = controls.next() => match control {
                    Control::Resize(Size { columns, rows }) => {
                        // A connection that is gone shows itself on the receiving side.
                        let _ = writer.half().window_change(columns.into(), rows.into(), 0, 0).await;
                    }
                    Control::End(status) => return Ok(status),
                },
                () = sleep_until(start_limit), if !progress.started => return Err(self.channel_timeout(what)),
            }
        }
        match progress.status {
            Some(status) if progress.complete => Ok(status),
            _ => Err(self.lost(what)),
        }
    }

    async fn receive(
        &self,
        what: &str,
        message: ChannelMsg,
        progress: &mut Progress,
        consumer: &mut impl Consumer,
    ) -> Result<(), SshError> {
        match message {
            ChannelMsg::Success => progress.started = true,
            ChannelMsg::Failure if !progress.started => {
                return Err(self.channel_error(what, "the server refused to run it"));
            }
            ChannelMsg::Data { data } => consumer.consume(Stream::Out, data).await?,
            ChannelMsg::ExtendedData { data, ext: 1 } => consumer.consume(Stream::Err, data).await?,
            ChannelMsg::ExitStatus { exit_status } => progress.status = Some(ExitStatus::Code(exit_status)),
            ChannelMsg::ExitSignal { signal_name: signal, .. } => {
                progress.status = Some(ExitStatus::Signal(signal_name(signal)));
            }
            ChannelMsg::Eof | ChannelMsg::Close => progress.complete = true,
            _ => {}
        }
        Ok(())
    }
}

/// What is known about a command that runs.
#[derive(Default)]
struct Progress {
    started: bool,
    status: Option<ExitStatus>,
    /// Whether the server said that nothing more would come.
    complete: bool,
}

/// Sends all of the input, then its end. Errors are those of the input: a connection that no longer takes it shows itself
/// on the receiving side, with a better reason, and a command that no longer takes it has its own.
async fn feed(writer: &CloseOnDrop, mut stdin: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        if stdin.read_buf(&mut buffer).await? == 0 {
            let _ = writer.half().eof().await;
            return Ok(());
        }
        if writer.half().data_bytes(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
}

/// Where the output of a command goes.
pub(super) trait Consumer {
    fn consume(&mut self, stream: Stream, data: Bytes) -> impl Future<Output = Result<(), SshError>> + Send;
}

/// What can happen on our side while a command runs.
pub(super) enum Control {
    /// Our terminal has another size now.
    Resize(Size),
    /// We do not want to wait any longer, and end as if the command had ended so.
    End(ExitStatus),
}

/// Where controls come from.
pub(super) trait Controls {
    /// Waits for the next one. May be dropped and called again without losing any.
    fn next(&mut self) -> impl Future<Output = Control> + Send;
}

/// For commands without a terminal.
pub(super) struct NoControls;

impl Controls for NoControls {
    async fn next(&mut self) -> Control {
        pending().await
    }
}

struct Capture<'a> {
    host: &'a str,
    what: &'a str,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Consumer for Capture<'_> {
    async fn consume(&mut self, stream: Stream, data: Bytes) -> Result<(), SshError> {
        if self.out.len() + self.err.len() + data.len() > MAXIMUM_OUTPUT {
            return Err(SshError::TooMuchOutput {
                host: self.host.to_owned(),
                what: self.what.to_owned(),
                limit: MAXIMUM_OUTPUT,
            });
        }
        match stream {
            Stream::Out => self.out.extend_from_slice(&data),
            Stream::Err => self.err.extend_from_slice(&data),
        }
        Ok(())
    }
}

struct Lines<F> {
    on_line: F,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<F: FnMut(Stream, &str) + Send> Consumer for Lines<F> {
    async fn consume(&mut self, stream: Stream, data: Bytes) -> Result<(), SshError> {
        let Self { on_line, out, err } = self;
        let pending = match stream {
            Stream::Out => out,
            Stream::Err => err,
        };
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            pending.extend_from_slice(piece);
            if pending.ends_with(b"\n") {
                emit(on_line, stream, pending);
            }
            while pending.len() > MAXIMUM_LINE {
                let rest = pending.split_off(character_boundary(pending, MAXIMUM_LINE));
                emit(on_line, stream, pending);
                *pending = rest;
            }
        }
        Ok(())
    }
}

impl<F: FnMut(Stream, &str)> Lines<F> {
    fn finish(&mut self) {
        for (stream, pending) in [(Stream::Out, &mut self.out), (Stream::Err, &mut self.err)] {
            if !pending.is_empty() {
                emit(&mut self.on_line, stream, pending);
            }
        }
    }
}

fn emit(on_line: &mut impl FnMut(Stream, &str), stream: Stream, pending: &mut Vec<u8>) {
    let line = pending.strip_suffix(b"\n").unwrap_or(pending);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    on_line(stream, &String::from_utf8_lossy(line));
    pending.clear();
}

/// The end of the last character that begins before the limit.
fn character_boundary(bytes: &[u8], limit: usize) -> usize {
    let is_continuation = |index: usize| bytes.get(index).is_some_and(|byte| byte & 0xc0 == 0x80);
    (0..4).map(|back| limit - back).find(|&index| !is_continuation(index)).unwrap_or(limit)
}

/// The writing half of a channel, which closes the channel when nobody needs it any more: a caller that stops waiting
/// should not leave a command behind that nobody listens to.
pub(super) struct CloseOnDrop(Option<ChannelWriteHalf<Msg>>);

impl CloseOnDrop {
    pub(super) fn new(half: ChannelWriteHalf<Msg>) -> Self {
        Self(Some(half))
    }

    #[expect(clippy::expect_used, reason = "it is there until the drop")]
    pub(super) fn half(&self) -> &ChannelWriteHalf<Msg> {
        self.0.as_ref().expect("the half is taken by the drop only")
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let (Some(half), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { half.close().await });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn split(chunks: &[&[u8]]) -> Vec<(Stream, String)> {
        let mut seen = Vec::new();
        let mut lines = Lines {
            on_line: |stream, line: &str| seen.push((stream, line.to_owned())),
            out: vec![],
            err: vec![],
        };
        for chunk in chunks {
            lines.consume(Stream::Out, Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        lines.finish();
        seen
    }

    #[tokio::test]
    async fn lines_are_put_together_and_taken_apart() {
        let lines = split(&[b"on", b"e\r\ntwo\n\nth", b"\xc3", b"\xa9\nlast"]).await;
        let texts: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(texts, ["one", "two", "", "thé", "last"]);
    }

    #[tokio::test]
    async fn endless_lines_come_in_pieces_of_whole_characters() {
        let long = "é".repeat(MAXIMUM_LINE);
        let lines = split(&[b"x", long.as_bytes(), b"\nend"]).await;
        assert!(lines.iter().all(|(_, line)| line.len() <= MAXIMUM_LINE && !line.contains('\u{fffd}')));
        let joined: String = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(joined, format!("x{long}end"));
    }

    #[test]
    fn statuses_become_ours_as_in_shells() {
        assert_eq!(ExitStatus::Code(255).code(), 255);
        assert_eq!(ExitStatus::Code(256).code(), 0);
        assert_eq!(ExitStatus::Signal("KILL".to_owned()).code(), 137);
        assert_eq!(ExitStatus::Signal("BUS@openssh.com".to_owned()).code(), 135);
        assert_eq!(ExitStatus::Signal("?".to_owned()).code(), 255);
    }
}
