//! Work that goes on beside the requests.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

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
