//! Logging in to a host: its recorded address, its key, its pinned host key; one session.

use std::sync::Arc;

use machine_driver::{Endpoint, SshKey};

use crate::{
    ssh::{HostKeyPolicy, Key, OfferedKey, Session, SshError, Target, Timeouts},
    store::{Record, Store},
};

/// Asks the user whether a host key is the right one.
pub type Asker = Arc<dyn Fn(&OfferedKey) -> bool + Send + Sync>;

/// There is nothing to log in to, or it did not let us in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("`{name}` has no address yet")]
    NoAddress { name: String },
    #[error("`{name}` has no SSH: its driver records a URL only")]
    NoSsh { name: String },
    #[error("{0}")]
    Ssh(#[from] SshError),
}

/// How a host is logged in to. A host whose key is not pinned is asked about.
pub fn target(store: &Store, record: &Record, asker: Option<Asker>) -> Result<Target, LoginError> {
    let name = record.name.to_string();
    let endpoint: &Endpoint =
        record.endpoint.as_ref().ok_or_else(|| LoginError::NoAddress { name: name.clone() })?;
    let ssh = endpoint.ssh.as_ref().ok_or(LoginError::NoSsh { name })?;
    let key = match &ssh.key {
        SshKey::Generated => Key::File(store.folder(&record.name).join("id_ed25519")),
        SshKey::File(path) => Key::File(path.clone()),
        SshKey::Agent => Key::Agent,
    };
    let host_key = match asker {
        Some(asker) if record.ssh_host_keys.is_empty() => HostKeyPolicy::Ask(asker),
        _ => HostKeyPolicy::Pinned(record.ssh_host_keys.clone()),
    };
    Ok(Target { host: ssh.host.clone(), port: ssh.port, user: ssh.user.clone(), key, host_key })
}

/// Logs in once.
pub async fn log_in(store: &Store, record: &Record, asker: Option<Asker>) -> Result<Session, LoginError> {
    let target = target(store, record, asker)?;
    Ok(Session::connect(&target, &Timeouts::default()).await?)
}
