//! How a host's SSH host key becomes known, and how one that others may know is replaced.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use machine_driver::{Driver, HostKeySource, Progress};

use super::{BringUpError, Context, DELIVERED_HOST_KEY, Keys, bring_up::BOOT_AT_MOST};
use crate::{
    provision,
    ssh::{HostKeyPolicy, OfferedKey, Session, Timeouts},
    store::{HostLock, Record},
};

/// Consoles of providers lag behind by half a minute and more.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often the host is looked at after its server was told to take up the new key.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Pins the keys that the provider shows, where it is the provider who knows them.
pub(super) async fn learn(
    context: &Context,
    driver: &dyn Driver,
    lock: &HostLock,
    record: &mut Record,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    let source = driver.features_of(&record.driver.config).host_key;
    if source != HostKeySource::Shown || !record.ssh_host_keys.is_empty() {
        return Ok(());
    }
    progress.step("Waiting for the console to show the SSH host key");
    let (paths, keys) = (context.paths(record), Keys::default());
    let before = record.clone();
    let view = super::view(&before, &paths, &keys);
    let deadline = tokio::time::Instant::now() + BOOT_AT_MOST;
    loop {
        if let Some(shown) = driver.host_keys(&view, &before.driver.state).await? {
            record.ssh_host_keys = shown;
            context.store.save(lock, record)?;
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(BringUpError::NoHostKey { after: BOOT_AT_MOST });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Has the host make a key of its own in place of the one that was delivered, where others may read that. Both are
/// accepted until the new one has been seen, so that this can be killed at any point.
pub(super) async fn replace(
    context: &Context,
    driver: &dyn Driver,
    lock: &HostLock,
    record: &mut Record,
    session: &Session,
    progress: &dyn Progress,
) -> Result<(), BringUpError> {
    let source = driver.features_of(&record.driver.config).host_key;
    let delivered = context.store.folder(&record.name).join(DELIVERED_HOST_KEY);
    if source != HostKeySource::DeliveredOnce || !delivered.exists() {
        return Ok(());
    }
    progress.step("Replacing the SSH host key");
    let fresh = provision::prepare_host_key(session).await?;
    let old = session.host_key().to_owned();
    if !record.ssh_host_keys.contains(&fresh) {
        record.ssh_host_keys = vec![old.clone(), fresh.clone()];
        context.store.save(lock, record)?;
    }
    provision::place_host_key(session).await?;
    for _ in 0..LOOKS {
        if shown(context, record).await.as_deref() == Some(fresh.as_str()) {
            record.ssh_host_keys = vec![fresh];
            context.store.save(lock, record)?;
            // Last of all: while it is there, the host is taken for one that still shows it.
            let _ = std::fs::remove_file(&delivered);
            let _ = std::fs::remove_file(delivered.with_extension("pub"));
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    progress.note(
        "The host goes on showing the SSH host key that it was delivered; `machine provision` tries again",
    );
    Ok(())
}

/// The host key that the host shows now; nobody logs in for it.
async fn shown(context: &Context, record: &Record) -> Option<String> {
    let seen: Arc<Mutex<Option<String>>> = Arc::default();
    let note = seen.clone();
    let look = move |offered: &OfferedKey| {
        *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(offered.line.clone());
        false
    };
    let mut target = super::target(&context.store, record, None).ok()?;
    target.host_key = HostKeyPolicy::Ask(Arc::new(look));
    let _ = Session::connect(&target, &Timeouts::default()).await;
    seen.lock().unwrap_or_else(PoisonError::into_inner).take()
}
