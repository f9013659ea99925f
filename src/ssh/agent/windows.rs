//! The agent of OpenSSH, a service that listens on a named pipe, or else Pageant.

use std::io;

use russh::keys::Error;
use russh::keys::agent::client::AgentClient;

use super::{Agent, unusable};

/// How an agent is started and given a key.
pub(in crate::ssh) const START: &str = "Start-Service ssh-agent; ssh-add";

/// Where the service listens.
const PIPE: &str = r"\\.\pipe\openssh-ssh-agent";
/// What the names of all pipes begin with. Shells of Cygwin set the variable to a path that only their programs know.
const PIPES: &str = r"\\.\pipe\";

pub(super) async fn connect() -> Result<Agent, String> {
    let named = std::env::var("SSH_AUTH_SOCK").ok().filter(|path| path.starts_with(PIPES));
    let pipe = named.as_deref().unwrap_or(PIPE);
    match AgentClient::connect_named_pipe(pipe).await {
        Ok(agent) => return Ok(agent.dynamic()),
        Err(Error::IO(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(&error)),
    }
    match AgentClient::connect_pageant().await {
        Ok(agent) => Ok(agent.dynamic()),
        Err(_) => Err("neither the service `ssh-agent` nor Pageant runs, so there is no agent".to_owned()),
    }
}
