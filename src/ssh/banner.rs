//! Finds out whether an SSH server speaks at an address, without a login.

use std::time::Duration;

use super::SshError;

/// Waits until a server at the address introduces itself with `SSH-2.0-…`, and returns that line. Tries again and again
/// until the deadline; the error is that of the last try.
pub async fn wait_for_banner(host: &str, port: u16, deadline: Duration) -> Result<String, SshError> {
    todo!("{host}{port}{deadline:?}")
}
