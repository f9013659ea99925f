//! Commands on the host, without a terminal.

use tokio::io::AsyncRead;

use super::{Session, SshError};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this status.
    Code(u32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

impl ExitStatus {
    /// The status to end with ourselves: that of the command, or 128 plus the number of the signal.
    pub fn code(&self) -> u8 {
        todo!()
    }

    /// Whether the command was content.
    pub fn success(&self) -> bool {
        *self == Self::Code(0)
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
        todo!("{command}{stdin:?}")
    }

    /// Runs a command and hands out what it writes, line by line as it comes, without the line ends. Lines longer than
    /// 64 KiB come in pieces; what is not UTF-8 is replaced.
    pub async fn stream(
        &self,
        command: &str,
        stdin: impl AsyncRead + Unpin + Send,
        on_line: impl FnMut(Stream, &str) + Send,
    ) -> Result<ExitStatus, SshError> {
        let _ = (stdin, on_line);
        todo!("{command}")
    }
}
