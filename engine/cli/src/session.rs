//! A person, or a pipe, joined to the streams of a process in a container.

use std::io;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::client::{Client, Target};
use super::detach::DetachKeys;
use super::failure::{Failure, Outcome};
use super::stdcopy::{copy_frames, copy_raw};
use super::terminal::{self, RawMode};

/// What is joined, and how.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "Each is a thing of its own that is or is not so")]
pub(crate) struct Session {
    /// Whether the process has a terminal, so that there are no frames.
    pub(crate) tty: bool,
    /// Whether our standard input goes to the process.
    pub(crate) input: bool,
    /// Whether what the process writes comes to us.
    pub(crate) output: bool,
    pub(crate) detach_keys: DetachKeys,
    /// Whether somebody beside the session passes signals on; otherwise they end it.
    pub(crate) signals_go_on: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process closed its streams.
    Closed,
    /// The person typed the detach keys.
    Detached,
}

/// Signals that end us: the terminal has to be restored before.
const ENDING: [(SignalKind, u8); 3] =
    [(SignalKind::hangup(), 129), (SignalKind::interrupt(), 130), (SignalKind::terminate(), 143)];

impl Session {
    /// Copies in both directions until one side is done. Raw mode lasts exactly as long.
    pub(crate) async fn run(self, stream: Upgraded) -> Outcome<End> {
        let on_terminal = self.tty && self.input && terminal::input_is_terminal();
        // Before the terminal is raw, so that no signal finds it so and nobody to restore it.
        let deadly = if on_terminal && !self.signals_go_on { deadly_signals() } else { Vec::new() };
        let raw = if on_terminal { Some(RawMode::enter().map_err(Failure::Input)?) } else { None };
        let (mut from, to) = tokio::io::split(TokioIo::new(stream));
        let detach_keys = (self.tty && raw.is_some()).then_some(self.detach_keys);
        let mut input: JoinHandle<io::Result<End>> = if self.input {
            tokio::spawn(feed(tokio::io::stdin(), to, detach_keys))
        } else {
            tokio::spawn(async move {
                // The half must live as long as the session: dropping it is no end of input, closing it would be.
                let _to = to;
                std::future::pending().await
            })
        };
        let tty = self.tty;
        let output = async {
            if !self.output {
                // Still to be read, so that the end is seen.
                return copy_raw(&mut from, &mut tokio::io::sink()).await;
            }
            let mut out = tokio::io::stdout();
            if tty {
                return copy_raw(&mut from, &mut out).await;
            }
            copy_frames(&mut from, &mut out, &mut tokio::io::stderr()).await
        };
        tokio::pin!(output);
        let mut input_open = true;
        let killed = ended(deadly);
        tokio::pin!(killed);
        let end = loop {
            tokio::select! {
                result = &mut output => break result.map(|()| End::Closed).map_err(Failure::Output),
                code = &mut killed => break Err(Failure::Exit(code)),
                result = &mut input, if input_open => match result {
                    Ok(Ok(End::Detached)) => break Ok(End::Detached),
                    // The end of the input is not the end of the session, nor is a process that stopped reading.
                    _ => input_open = false,
                },
            }
        };
        input.abort();
        drop(raw);
        end
    }
}

/// Sends what is typed or piped to the process, and then the end of it.
async fn feed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut detach_keys: Option<DetachKeys>,
) -> io::Result<End> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            to.shutdown().await?;
            return Ok(End::Closed);
        }
        match detach_keys.as_mut() {
            None => to.write_all(&buffer[..length]).await?,
            Some(keys) => {
                let typed = keys.feed(&buffer[..length]);
                to.write_all(&typed.forward).await?;
                if typed.detached {
                    to.flush().await?;
                    return Ok(End::Detached);
                }
            }
        }
        to.flush().await?;
    }
}

/// Takes the signals that would end us with the terminal still raw.
fn deadly_signals() -> Vec<(Signal, u8)> {
    ENDING.into_iter().filter_map(|(kind, code)| Some((signal(kind).ok()?, code))).collect()
}

/// Waits for one of the signals; the exit code that goes with it.
async fn ended(signals: Vec<(Signal, u8)>) -> u8 {
    if signals.is_empty() {
        return std::future::pending().await;
    }
    let waits = signals.into_iter().map(|(mut signal, code)| {
        Box::pin(async move {
            signal.recv().await;
            code
        })
    });
    futures_util::future::select_all(waits).await.0
}

/// Passes the terminal's size on, now and at each change, to `target` (a container or a process in one).
pub(crate) async fn follow_size(client: &Client, target: Target) {
    let changes = signal(SignalKind::window_change());
    // The process may not be there yet.
    for attempt in 0..10_u32 {
        if send_size(client, &target).await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10 << attempt.min(5))).await;
    }
    let Ok(mut changes) = changes else { return };
    while changes.recv().await.is_some() {
        send_size(client, &target).await;
    }
}

async fn send_size(client: &Client, target: &Target) -> bool {
    let Some((rows, columns)) = terminal::size() else { return true };
    let target = target.clone().with("h", &rows.to_string()).with("w", &columns.to_string());
    client.post(&target, None).await.is_ok()
}

/// Takes our signals to pass them on to a container. None is lost from here on.
#[derive(Debug, Default)]
pub(crate) struct SignalProxy {
    signals: Vec<(Signal, &'static str)>,
}

impl SignalProxy {
    /// Takes the signals, if they are to be passed on.
    pub(crate) fn new(wanted: bool) -> Self {
        if !wanted {
            return Self::default();
        }
        let kinds = [
            (SignalKind::hangup(), "HUP"),
            (SignalKind::interrupt(), "INT"),
            (SignalKind::quit(), "QUIT"),
            (SignalKind::terminate(), "TERM"),
            (SignalKind::user_defined1(), "USR1"),
            (SignalKind::user_defined2(), "USR2"),
            (SignalKind::alarm(), "ALRM"),
        ];
        Self {
            signals: kinds.into_iter().filter_map(|(kind, name)| Some((signal(kind).ok()?, name))).collect(),
        }
    }

    /// Passes them on until it is dropped.
    pub(crate) async fn run(self, client: &Client, container: &str) {
        let waits = self.signals.into_iter().map(async |(mut signals, name)| {
            while signals.recv().await.is_some() {
                let target = Target::new(["containers", container, "kill"]).with("signal", name);
                // A container that has just ended takes no signals.
                let _: Outcome<Value> = client.post(&target, None).await;
            }
        });
        futures_util::future::join_all(waits).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn the_end_of_the_input_closes_one_half() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut from, to) = tokio::io::split(near);
        assert_eq!(feed(b"hello".as_slice(), to, None).await.unwrap(), End::Closed);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"hello");
        far.write_all(b"answer").await.unwrap();
        drop(far);
        let mut back = Vec::new();
        from.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"answer");
    }

    #[tokio::test]
    async fn detach_keys_end_the_input_without_closing_it() {
        let (near, mut far) = tokio::io::duplex(64);
        let (_from, to) = tokio::io::split(near);
        let typed = [b"ab".as_slice(), &[16, 17], b"never sent"].concat();
        let keys = Some(DetachKeys::default());
        assert_eq!(feed(typed.as_slice(), to, keys).await.unwrap(), End::Detached);
        let mut seen = [0; 2];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"ab");
    }
}
