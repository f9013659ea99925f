//! Standard input on unix, where everything can be polled.

use std::io::{self, PipeWriter};
use std::thread;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::CHUNK;

/// The thread that reads. It ends with this.
pub(super) struct Reader {
    /// Closing it wakes the thread.
    _wake: PipeWriter,
}

impl Reader {
    pub(super) fn start(sender: mpsc::Sender<io::Result<Bytes>>) -> io::Result<Self> {
        let (wake_reader, wake) = io::pipe()?;
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let stdin = io::stdin();
            loop {
                let mut waiting =
                    [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&wake_reader, PollFlags::IN)];
                match poll(&mut waiting, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => {
                        let _ = sender.blocking_send(Err(error.into()));
                        return;
                    }
                }
                if !waiting[1].revents().is_empty() {
                    return;
                }
                if waiting[0].revents().is_empty() {
                    continue;
                }
                let mut chunk = vec![0; CHUNK];
                let read = match rustix::io::read(&stdin, &mut chunk) {
                    Ok(0) => return,
                    Ok(length) => {
                        chunk.truncate(length);
                        Ok(chunk.into())
                    }
                    Err(Errno::INTR | Errno::AGAIN) => continue,
                    Err(error) => Err(error.into()),
                };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { _wake: wake })
    }
}
