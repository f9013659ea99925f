//! Logging in to a host: its recorded address, its key, its pinned host key; one session.

use std::{fmt::Debug, path::Path, sync::Arc, time::Duration};

use machine_driver::{Endpoint, HostName, SshEndpoint, SshKey};

use super::{Context, locked::LockedHost};
use crate::{
    ssh::{
        HostKeyPolicy, Key, OfferedKey, Passphrase, Session, SshError, Target, Timeouts, is_fingerprint,
        same_key,
    },
    store::{Record, StoreError},
};

/// How often the lock of a host is asked for, to keep a key that was just accepted, and how long is waited in between.
const LOCK_TRIES: u32 = 20;
const LOCK_EVERY: Duration = Duration::from_millis(100);

/// Answers what has to be known on the way to a login: as a rule a person at a terminal. Called on threads of its own.
pub trait Prompter: Debug + Send + Sync {
    /// Whether the host shows the right key.
    fn accepts(&self, question: &HostKeyQuestion<'_>) -> bool;

    /// The passphrase of a key file; nothing if nobody gives one.
    fn passphrase(&self, key_file: &Path) -> Option<String>;
}

/// A host that shows a key of which nothing is known, or another one than before.
#[derive(Debug, Clone, Copy)]
pub struct HostKeyQuestion<'a> {
    pub host: &'a HostName,
    /// Where it was found.
    pub address: &'a str,
    pub port: u16,
    /// What is recorded of it, and is something else.
    pub recorded: &'a [String],
    pub offered: &'a OfferedKey,
}

/// There is nothing to log in to, or it did not let us in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("`{name}` has no address yet")]
    NoAddress { name: HostName },
    #[error("`{name}` has no SSH: its driver records a URL only")]
    NoSsh { name: HostName },
    #[error(transparent)]
    Ssh(#[from] SshError),
}

impl LoginError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ssh(error) => error.hint(),
            Self::NoAddress { .. } => {
                Some("Run the same `machine create` again to go on, or `machine rm` to undo".to_owned())
            }
            Self::NoSsh { .. } => None,
        }
    }
}

/// Where a host's SSH server is.
pub(super) fn endpoint(record: &Record) -> Result<&SshEndpoint, LoginError> {
    let name = &record.name;
    let endpoint: &Endpoint =
        record.endpoint.as_ref().ok_or_else(|| LoginError::NoAddress { name: name.clone() })?;
    endpoint.ssh.as_ref().ok_or_else(|| LoginError::NoSsh { name: name.clone() })
}

/// How a host is logged in to. A host whose key is not pinned is asked about.
pub(super) fn target(context: &Context, record: &Record) -> Result<Target, LoginError> {
    let (name, ssh, prompter) = (&record.name, endpoint(record)?, &context.prompter);
    let key = match &ssh.key {
        SshKey::Generated => Key::File(context.store.folder(name).join("id_ed25519")),
        SshKey::File(path) => Key::File(path.clone()),
        SshKey::Agent => Key::Agent,
    };
    let host_key = if record.ssh_host_keys.is_empty() {
        let (name, address, port, prompter) = (name.clone(), ssh.host.clone(), ssh.port, prompter.clone());
        HostKeyPolicy::Ask(Arc::new(move |offered: &OfferedKey| {
            prompter.accepts(&HostKeyQuestion {
                host: &name,
                address: &address,
                port,
                recorded: &[],
                offered,
            })
        }))
    } else {
        HostKeyPolicy::Pinned(record.ssh_host_keys.clone())
    };
    let prompter = prompter.clone();
    let passphrase = Passphrase::from(move |path| prompter.passphrase(path));
    Ok(Target { host: ssh.host.clone(), port: ssh.port, user: ssh.user.clone(), key, passphrase, host_key })
}

/// Logs in once. The host shows a key that is recorded, or one that was accepted just now: whoever holds the host's lock
/// keeps it with [`pin`].
pub(super) async fn log_in(context: &Context, record: &Record) -> Result<Session, LoginError> {
    let target = target(context, record)?;
    Ok(Session::connect(&target, &Timeouts::default()).await?)
}

/// Keeps the host key of a session as the only one that is accepted from now on.
pub(super) fn pin(host: &mut LockedHost<'_>, session: &Session) -> Result<(), StoreError> {
    if host.record.ssh_host_keys != [session.host_key().line.as_str()] {
        host.record.ssh_host_keys = vec![session.host_key().line.clone()];
        host.save()?;
    }
    Ok(())
}

/// Logs in once, for somebody who does not hold the host's lock. A key that was accepted just now, or that was known by its
/// fingerprint alone, is kept in the record; the second half of the answer says why it could not be.
pub async fn log_in_and_pin(
    context: &Context,
    record: &Record,
) -> Result<(Session, Option<StoreError>), LoginError> {
    let session = log_in(context, record).await?;
    let kept = keep(context, record, &session).await;
    Ok((session, kept.err()))
}

async fn keep(context: &Context, used: &Record, session: &Session) -> Result<(), StoreError> {
    let shown = session.host_key();
    if used.ssh_host_keys.iter().any(|known| !is_fingerprint(known) && same_key(known, shown)) {
        return Ok(());
    }
    let mut host = lock_soon(context, &used.name).await?;
    // Whoever had the lock meanwhile may have recorded another key, and knows better.
    if host.record.ssh_host_keys == used.ssh_host_keys {
        pin(&mut host, session)?;
    }
    Ok(())
}

async fn lock_soon<'a>(context: &'a Context, name: &HostName) -> Result<LockedHost<'a>, StoreError> {
    let mut tries = 1;
    loop {
        match LockedHost::lock(context, name) {
            Err(StoreError::Locked { .. }) if tries < LOCK_TRIES => tries += 1,
            other => return other,
        }
        tokio::time::sleep(LOCK_EVERY).await;
    }
}
