//! Cleans away what nobody needs: on a schedule, and when the disk fills up. Never volumes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use engine_model::chain;
use engine_model::{Image, ImageId, Removed};
use jiff::Timestamp;

use crate::app::App;
use crate::host::used_percent;

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_mins(1);
/// When cleaning did not help, it will not help a minute later either.
const REST_AFTER_WATERMARK: Duration = Duration::from_mins(10);

/// What a removal of unneeded images brought.
#[derive(Debug, Default)]
pub struct ImagePrune {
    pub removed: Vec<Removed>,
    pub bytes: u64,
}

/// Removes images that no container needs: those without a name, or all. Blocks.
pub fn images(app: &App, dangling_only: bool, fits: &dyn Fn(&Image) -> bool) -> ImagePrune {
    if app.containers.are_some_unknown() {
        tracing::warn!(
            "Images are not pruned: there are containers whose record cannot be read, and they may use any"
        );
        return ImagePrune::default();
    }
    let before = app.images.layers_size();
    let mut removed = Vec::new();
    for image in app.images.list() {
        let unneeded = (!dangling_only || image.repo_tags.is_empty()) && fits(&image);
        if !unneeded || !app.containers.image_users(&image.id).is_empty() {
            continue;
        }
        // Forced only in that all names go; running containers still refuse.
        match app.images.remove(image.id.as_str(), true, &app.containers.image_users(&image.id)) {
            Ok(steps) => {
                publish_removal(app, &image.id, &steps);
                removed.extend(steps);
            }
            Err(error) => {
                tracing::warn!(image = %image.id, error = chain(&error), "Could not remove an image");
            }
        }
    }
    collect_hidden(app);
    ImagePrune { removed, bytes: before.saturating_sub(app.images.layers_size()) }
}

/// The events that dockerd tells for a removal.
pub fn publish_removal(app: &App, id: &ImageId, removed: &[Removed]) {
    for step in removed {
        match step {
            Removed::Untagged(name) => app.events.publish("image", "untag", id.as_str(), &[("name", name)]),
            Removed::Deleted(deleted) if deleted == id.as_str() => {
                app.events.publish("image", "delete", id.as_str(), &[("name", id.as_str())]);
            }
            Removed::Deleted(_) => {}
        }
    }
}

/// Frees layers of images that were removed by force and that no container needs any more.
pub fn collect_hidden(app: &App) {
    // Containers that cannot be read may need any of them.
    if app.containers.are_some_unknown() {
        return;
    }
    let needed = app.containers.all().iter().map(|container| container.identity().image_id.clone()).collect();
    if let Err(error) = app.images.collect_hidden(&needed) {
        tracing::warn!(error = chain(&error), "Could not collect layers");
    }
}

/// Runs for as long as the daemon does.
pub async fn run(app: App) {
    let mut rest_until = tokio::time::Instant::now();
    loop {
        let live = app.config.live();
        if live.prune.enabled {
            let watermark = live.prune.disk_watermark;
            let used = used_percent(&app.config.data_root).filter(|used| *used > watermark);
            if is_due(&app, live.prune.schedule) {
                prune(&app, "schedule", live.prune.until).await;
                remember(&app);
            } else if let Some(used) = used
                && tokio::time::Instant::now() >= rest_until
            {
                tracing::warn!(used, watermark, "The disk is filling up");
                prune(&app, "disk-watermark", live.prune.until).await;
                rest_until = tokio::time::Instant::now() + REST_AFTER_WATERMARK;
            }
        }
        let worker = app.clone();
        // A panic in there has been reported already.
        let _ = tokio::task::spawn_blocking(move || collect_hidden(&worker)).await;
        tokio::time::sleep(LOOK.min(live.prune.schedule)).await;
    }
}

/// The time of the last cleaning is kept, since a daemon may be restarted more often than the schedule comes round.
fn marker(app: &App) -> PathBuf {
    app.config.data_root.join("last-prune")
}

fn is_due(app: &App, schedule: Duration) -> bool {
    if let Ok(last) = fs::metadata(marker(app)).and_then(|metadata| metadata.modified()) {
        return SystemTime::now().duration_since(last).unwrap_or_default() >= schedule;
    }
    remember(app);
    false
}

fn remember(app: &App) {
    let path = marker(app);
    if let Err(error) = fs::write(&path, "") {
        tracing::warn!(path = %path.display(), %error, "Could not note the time of the cleaning");
    }
}

async fn prune(app: &App, why: &'static str, until: Duration) {
    let limit = Timestamp::now().checked_sub(until).unwrap_or(Timestamp::MIN);
    // What ran until a moment ago may be started again, however old it is.
    let pruned = app
        .containers
        .prune_stopped(Some(limit), |container| container.state().finished_at.is_none_or(|time| time < limit))
        .await;
    let (containers, mut bytes) = (pruned.containers, pruned.bytes);
    // An old image that came in a moment ago is not left over.
    let is_old = move |image: &Image| image.last_used().is_none_or(|time| time < limit);
    let worker = app.clone();
    let pruned =
        tokio::task::spawn_blocking(move || images(&worker, true, &is_old)).await.unwrap_or_default();
    bytes += pruned.bytes;
    let images = pruned.removed.iter().filter(|step| matches!(step, Removed::Deleted(_))).count();
    let reclaimed = bytes.to_string();
    tracing::info!(why, containers = containers.len(), images, reclaimed, "Cleaned up");
    for container in &containers {
        tracing::info!(container, "Removed a container that had stopped long ago");
    }
    app.events.publish("container", "prune", "", &[("reason", why), ("reclaimed", &reclaimed)]);
    app.events.publish("image", "prune", "", &[("reason", why), ("reclaimed", &pruned.bytes.to_string())]);
}
