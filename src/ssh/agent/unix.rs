//! The agent of OpenSSH, on the socket that `$SSH_AUTH_SOCK` names.

use russh::keys::Error;
use russh::keys::agent::client::AgentClient;

use super::{Agent, unusable};

/// How an agent is started and given a key.
pub(in crate::ssh) const START: &str = "eval \"$(ssh-agent)\"; ssh-add";

pub(super) async fn connect() -> Result<Agent, String> {
    match AgentClient::connect_env().await {
        Ok(agent) => Ok(agent.dynamic()),
        Err(Error::EnvVar(_)) => Err("`SSH_AUTH_SOCK` is not set, so there is no agent".to_owned()),
        Err(error) => Err(unusable(&error)),
    }
}
