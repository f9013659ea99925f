//! A command or a shell on the host, joined to our own standard input and output.

use super::{ExitStatus, Session, SshError};

impl Session {
    /// Runs a command, or the login shell, on our own standard input, output and error. With `terminal` the host gives it
    /// a terminal of the size of ours, and ours is raw until this returns.
    pub async fn run(&self, command: Option<&str>, terminal: bool) -> Result<ExitStatus, SshError> {
        todo!("{command:?}{terminal}")
    }
}
