//! Work that blocks, away from the runtime's threads.

use machine_driver::DriverError;
use tokio::task::spawn_blocking;

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(DriverError::failed("The work was interrupted").with_source(error)))
}
