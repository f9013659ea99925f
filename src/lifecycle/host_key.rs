//! How a host's SSH host key becomes known, and how one that others may know is replaced before anything secret is sent.

use std::time::Duration;

use machine_driver::{HostKeySource, HostName, Progress};

use super::{
    BringUpError, Context, DELIVERED_HOST_KEY, LoginError,
    bring_up::{BOOT_AT_MOST, Console},
    locked::LockedHost,
    login::{self, log_in, pin},
};
use crate::{
    provision,
    ssh::{OfferedKey, Session, Timeouts},
    store::{Record, StoreError},
};

/// Consoles of providers lag behind by half a minute and more.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often the host is looked at after its server was told to take up the new key.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Pins the keys that the provider shows, where it is the provider who knows them.
pub(super) async fn learn(host: &mut LockedHost<'_>, progress: &dyn Progress) -> Result<(), BringUpError> {
    if host.own_features()?.host_key != HostKeySource::Shown || !host.record.ssh_host_keys.is_empty() {
        return Ok(());
    }
    progress.step("Waiting for the console to show the SSH host key");
    let (driver, view) = (host.driver()?, host.view());
    let deadline = tokio::time::Instant::now() + BOOT_AT_MOST;
    loop {
        if let Some(shown) = driver.host_keys(&view, &host.record.driver.state).await? {
            host.record.ssh_host_keys = shown;
            return Ok(host.save()?);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(BringUpError::NoHostKey { after: BOOT_AT_MOST });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Logs in to a host that is going to be sent something secret. A key that was accepted or known by its fingerprint is
/// pinned. One that was delivered where others may read it is replaced first, and the session is one with the new key.
pub(super) async fn log_in_for_secrets(
    host: &mut LockedHost<'_>,
    progress: &dyn Progress,
) -> Result<Session, BringUpError> {
    progress.step("Logging in");
    let delivered = Delivered::of(host);
    let mut session = enter(host).await?;
    if delivered.exists() && host.own_features()?.host_key == HostKeySource::DeliveredOnce {
        replace(host, session, progress).await?;
        progress.step("Logging in with the new SSH host key");
        session = enter(host).await?;
    }
    pin(host, &session)?;
    // Last of all: while it is there, the host is taken for one that may still show it.
    delivered.delete();
    Ok(session)
}

async fn enter(host: &LockedHost<'_>) -> Result<Session, BringUpError> {
    let failed = |source| BringUpError::Login { source, console: Console::default() };
    log_in(host.context, &host.record).await.map_err(failed)
}

/// The key that a driver delivers, as files in the host's folder.
struct Delivered(std::path::PathBuf);

impl Delivered {
    fn of(host: &LockedHost<'_>) -> Self {
        Self(host.folder().join(DELIVERED_HOST_KEY))
    }

    fn exists(&self) -> bool {
        self.0.exists()
    }

    /// A file that cannot be deleted now is deleted by the next login.
    fn delete(&self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("pub"));
    }
}

/// Has the host make a key of its own in place of the one that was delivered, where others may read that. Both are
/// accepted until the new one has been seen, so that this can be killed at any point.
async fn replace(
    host: &mut LockedHost<'_>,
    session: Session,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    progress.step("Replacing the SSH host key");
    let fresh = provision::prepare_host_key(&session).await?;
    if !host.record.ssh_host_keys.contains(&fresh) {
        host.record.ssh_host_keys = vec![session.host_key().line.clone(), fresh.clone()];
        host.save()?;
    }
    provision::place_host_key(&session).await?;
    session.close().await;
    for _ in 0..LOOKS {
        if shown_host_key(&host.record).await.is_ok_and(|key| key.line == fresh) {
            host.record.ssh_host_keys = vec![fresh];
            return Ok(host.save()?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(BringUpError::HostKeyKept { name: host.record.name.clone() })
}

/// Has these keys accepted from now on, as [`crate::ssh::expected_key`] read them, and no others; none: the next login asks.
pub fn set_host_keys(context: &Context, name: &HostName, keys: Vec<String>) -> Result<(), StoreError> {
    let mut host = LockedHost::lock(context, name)?;
    host.record.ssh_host_keys = keys;
    host.save()
}

/// The host key that a host shows now; nobody logs in for it.
pub async fn shown_host_key(record: &Record) -> Result<OfferedKey, LoginError> {
    let ssh = login::endpoint(record)?;
    Ok(Session::host_key_of(&ssh.host, ssh.port, &Timeouts::default()).await?)
}
