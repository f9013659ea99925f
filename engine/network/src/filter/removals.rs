//! Somebody takes rules, chains or tables away: a firewall of the host that is loaded anew begins with that.

use std::io;

use engine_kernel::netlink::FilterChanges;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{DELETE_RULE, DELETE_TABLE, SUBSYSTEM};

const DELETE_CHAIN: u16 = 5;

/// The packet filter of the network namespace in which this was opened, watched.
#[derive(Debug)]
pub(in super::super) struct Removals(AsyncFd<FilterChanges>);

impl Removals {
    #[expect(unsafe_code, reason = "tokio takes any descriptor")]
    pub(in super::super) fn watch() -> io::Result<Self> {
        let changes = FilterChanges::open()?;
        // SAFETY: it has one descriptor, which stays open until it is dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }?))
    }

    /// Waits for the next one, which may be our own.
    pub(in super::super) async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|changes| changes.get_ref().kinds()) {
                Ok(Ok(kinds)) if !kinds.iter().any(|kind| is_removal(*kind)) => {}
                // There were too many for us to hear of each.
                Ok(Err(error)) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
                Ok(_) => return Ok(()),
                Err(_would_block) => {}
            }
        }
    }
}

fn is_removal(kind: u16) -> bool {
    kind >> 8 == SUBSYSTEM && matches!(kind & 0xff, DELETE_TABLE | DELETE_CHAIN | DELETE_RULE)
}
