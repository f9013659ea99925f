//! Ctrl-C and SIGTERM.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

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
            _ = self.terminated.recv() => TERMINATED.store(true, Ordering::Relaxed),
        }
    }
}

/// It was not the user at the keyboard.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// Whether SIGTERM was the wish.
pub(crate) fn was_terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}
