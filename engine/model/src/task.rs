//! Work that goes on beside the requests.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

/// How many threads may wait for clients at once. One more waits for one of them, and keeps nothing else from its work.
static APART: Semaphore = Semaphore::const_new(256);

/// Begins work that the engine cannot do without and that nobody does again. A panic in it ends the daemon, which is started
/// again and finds its containers as they are; going on would leave something undone without anybody noticing.
pub fn vital<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(whole(work))
}

/// The same for work that somebody else begins.
pub async fn whole<T>(work: impl Future<Output = T>) -> T {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("Work panicked that the engine cannot do without");
        std::process::abort()
    })
}

/// Work beside the requests that came to no end.
#[derive(Debug, thiserror::Error)]
pub enum ApartError {
    #[error("Could not start a thread")]
    Thread {
        #[source]
        source: io::Error,
    },
    #[error("The work was cut short")]
    CutShort,
}

/// Blocking work that waits for a client, in a thread of its own: clients that stall take none of the threads that others
/// need. It goes on when nobody waits for it any more.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApartError> {
    let place = APART.acquire().await.map_err(|_| ApartError::CutShort)?;
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        let _place = place;
        // Dropped in a panic, the sender tells of it; that nobody waits is fine.
        let _ = sender.send(work());
    };
    std::thread::Builder::new()
        .name("transfer".to_owned())
        .spawn(run)
        .map_err(|source| ApartError::Thread { source })?;
    receiver.await.map_err(|_| ApartError::CutShort)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_panic_of_work_apart_is_an_error() {
        assert_eq!(apart(|| 7).await.unwrap(), 7);
        let broken = apart(|| -> u32 { "hostile".parse().unwrap() }).await;
        assert!(matches!(broken, Err(ApartError::CutShort)), "{broken:?}");
    }
}
