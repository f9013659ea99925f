//! Ctrl-C and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for the wish that this program ends. SIGHUP is left as it is: whoever runs this under `nohup` has it ignored.
pub(crate) struct Termination {
    interrupted: Signal,
    terminated: Signal,
}

impl Termination {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for it.
    pub(crate) async fn wished(&mut self) {
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}
