//! Work that goes on beside the requests.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

/// Begins work that the engine cannot do without and that nobody waits for. A panic in it ends the daemon, which is started
/// again and finds its containers as they are; going on would leave something undone without anybody noticing.
pub fn vital(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!("Work panicked that the engine cannot do without");
            std::process::abort();
        }
    })
}
