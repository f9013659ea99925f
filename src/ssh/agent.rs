//! The agent that holds the user's keys: where it is.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use russh::keys::agent::client::{AgentClient, AgentStream};
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(super) use system::START;

/// A conversation with the agent.
pub(super) type Agent = AgentClient<Box<dyn AgentStream + Send + Unpin>>;

/// Connects to it, or says why there is none.
pub(super) async fn connect() -> Result<Agent, String> {
    system::connect().await
}

/// Why an agent that is there is none for us.
pub(super) fn unusable(error: &russh::keys::Error) -> String {
    format!("the agent cannot be used ({error})")
}
