//! Cleans away what nobody needs: on a schedule, and when the disk fills up. Never volumes, never a container that never
//! ran or that has a restart policy.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use engine_containers::{Container, Pruned, Status};
use engine_model::chain;
use engine_model::{Image, ImageId, Removed};
use engine_network::NetworkRecord;
use jiff::Timestamp;
use serde::Serialize;

use crate::app::{App, publish_network};
use crate::building::{CacheWish, ForgottenSteps, forget_steps};
use crate::config::Prune;
use crate::host::used_percent;

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_mins(1);
/// When cleaning did not help, it will not help a minute later either.
const REST_AFTER_WATERMARK: Duration = Duration::from_mins(10);
/// The reason that is told when the disk was full.
const WATERMARK: &str = "disk-watermark";

/// What a removal of unneeded images brought.
#[derive(Debug, Default)]
pub struct ImagePrune {
    /// The ids of images that are gone.
    pub images: Vec<String>,
    /// Each step of their removal, layers included.
    pub removed: Vec<Removed>,
    pub bytes: u64,
}

/// Removes images that no container needs: those without a name, or all. Blocks.
pub fn images(app: &App, dangling_only: bool, fits: &dyn Fn(&Image) -> bool) -> ImagePrune {
    let before = app.images.layers_size();
    let (mut gone, mut removed) = (Vec::new(), Vec::new());
    for image in unneeded_images(app, dangling_only, fits) {
        // Others may have come to need it, or given it a name, while those before it were removed.
        let users = app.containers.image_users(&image.id);
        let named = || app.images.find(image.id.as_str()).is_ok_and(|image| !image.repo_tags.is_empty());
        if !users.is_empty() || (dangling_only && named()) {
            continue;
        }
        // Forced only in that all its names go, digests in several repositories too.
        match app.images.remove(image.id.as_str(), true, &|id| app.containers.image_users(id)) {
            Ok(steps) => {
                publish_removal(app, &image.id, &steps);
                let is_gone = |step: &Removed| *step == Removed::Deleted(image.id.to_string());
                if steps.iter().any(is_gone) {
                    gone.push(image.id.to_string());
                }
                removed.extend(steps);
            }
            Err(error) => {
                tracing::warn!(image = %image.id, error = chain(&error), "Could not remove an image");
            }
        }
    }
    collect_hidden(app);
    // What pulls that failed have left is of use to the next one, for a while.
    let downloads = app.images.clear_downloads(engine_images::OLD_DOWNLOAD);
    let bytes = before.saturating_sub(app.images.layers_size()) + downloads;
    ImagePrune { images: gone, removed, bytes }
}

fn unneeded_images(app: &App, dangling_only: bool, fits: &dyn Fn(&Image) -> bool) -> Vec<Image> {
    if app.containers.are_some_unknown() {
        tracing::warn!(
            "Images are not pruned: there are containers whose record cannot be read, and they may use any"
        );
        return Vec::new();
    }
    let mut images = app.images.list();
    images.retain(|image| {
        (!dangling_only || image.repo_tags.is_empty())
            && fits(image)
            && app.containers.image_users(&image.id).is_empty()
    });
    images
}

/// The events that dockerd tells for a removal.
pub fn publish_removal(app: &App, id: &ImageId, removed: &[Removed]) {
    for step in removed {
        match step {
            Removed::Untagged(_) => {
                app.events.publish("image", "untag", id.as_str(), &[("name", id.as_str())]);
            }
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
                prune(&app, "schedule").await;
                remember(&app);
            } else if let Some(used) = used
                && tokio::time::Instant::now() >= rest_until
            {
                tracing::warn!(used, watermark, "The disk is filling up");
                prune(&app, WATERMARK).await;
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

/// Something that the automatic cleaning removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Candidate {
    pub id: String,
    /// Empty for an image, since only images without a name are removed.
    pub name: String,
    /// In bytes, as far as it is this object's alone; 0 for a network.
    pub size: u64,
}

/// What the automatic cleaning would remove now, in the order in which it does. Volumes are never in it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Plan {
    pub images: Vec<Candidate>,
    pub networks: Vec<Candidate>,
    /// At the disk's watermark these come only if the images were not enough.
    pub containers: Vec<Candidate>,
}

/// What a cleaning removed.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Removal {
    /// By id.
    pub images: Vec<String>,
    /// By name.
    pub networks: Vec<String>,
    /// By id.
    pub containers: Vec<String>,
    /// In bytes.
    pub space_reclaimed: u64,
}

/// How old something has to be before it is cleaned away.
#[derive(Clone, Copy)]
struct Ages {
    /// When an image was last used, or a network made.
    unused: Timestamp,
    /// When a container ended.
    stopped: Timestamp,
}

impl Ages {
    fn now(prune: &Prune) -> Self {
        let before = |age: Duration| Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        Self { unused: before(prune.until), stopped: before(prune.containers_until) }
    }

    /// An old image that came in a moment ago is not left over, and one that has lost its name by no wish of a user is none
    /// without a name.
    fn image(self) -> impl Fn(&Image) -> bool {
        move |image| !image.recovered && image.last_used().is_none_or(|time| time < self.unused)
    }

    /// What never ran was made for a later time, and what has a restart policy is meant to run.
    fn container(self, container: &Container) -> bool {
        let state = container.state();
        matches!(state.status, Status::Exited | Status::Dead)
            && state.started_at.is_some()
            && state.finished_at.is_some_and(|time| time < self.stopped)
            && !container.identity().host.restart_policy.is_wanted()
    }
}

/// What would be removed if the cleaning came now.
pub async fn plan(app: &App) -> Plan {
    let ages = Ages::now(&app.config.live().prune);
    let worker = app.clone();
    let images = tokio::task::spawn_blocking(move || {
        let size = |image: Image| {
            let size = image.size.saturating_sub(worker.images.shared_size(&image.id));
            Candidate { id: image.id.to_string(), name: String::new(), size }
        };
        unneeded_images(&worker, true, &ages.image()).into_iter().map(size).collect()
    });
    let networks = unused_networks(app, ages.unused);
    let mut containers = Vec::new();
    for container in app.containers.all().into_iter().filter(|container| ages.container(container)) {
        let size = app.containers.written_size(&container).await;
        containers.push(Candidate {
            id: container.id.clone(),
            name: container.identity().name.clone(),
            size,
        });
    }
    Plan {
        images: images.await.unwrap_or_default(),
        networks: networks
            .into_iter()
            .map(|network| Candidate { id: network.id, name: network.name, size: 0 })
            .collect(),
        containers,
    }
}

/// Networks of users that no container is made for, running or not, and on which there was none since `limit`.
fn unused_networks(app: &App, limit: Timestamp) -> Vec<NetworkRecord> {
    if app.containers.are_some_unknown() {
        return Vec::new();
    }
    let mut used = BTreeSet::new();
    for container in app.containers.all() {
        let identity = container.identity();
        for name in identity.networks.keys().chain([&identity.host.network_mode]) {
            if let Ok(network) = app.network.find(name) {
                used.insert(network.id);
            }
        }
    }
    let mut networks = app.network.networks();
    networks
        .retain(|network| !network.is_built_in() && network.created < limit && !used.contains(&network.id));
    let mut unused = Vec::new();
    for network in networks {
        if app.network.last_used(&network.id).is_none_or(|time| time < limit) {
            unused.push(network);
        }
    }
    unused
}

/// Removes what [`plan`] names, and returns what was removed. Each removal is looked at once more, publishes its event
/// and leaves a line in the log.
pub async fn prune(app: &App, why: &'static str) -> Removal {
    let live = app.config.live();
    let ages = Ages::now(&live.prune);
    let worker = app.clone();
    let images =
        tokio::task::spawn_blocking(move || images(&worker, true, &ages.image())).await.unwrap_or_default();
    let (worker, wish) =
        (app.clone(), CacheWish { all: true, until: Some(ages.unused), ..CacheWish::default() });
    let steps = tokio::task::spawn_blocking(move || {
        forget_steps(&worker.images, &worker.containers, &worker.builder, &wish)
    })
    .await;
    let steps = steps.unwrap_or_else(|_| Ok(ForgottenSteps::default())).unwrap_or_else(|error| {
        tracing::warn!(%error, "Could not forget steps of builds");
        ForgottenSteps::default()
    });
    if !steps.ids.is_empty() {
        let (count, bytes) = (steps.ids.len(), steps.bytes);
        tracing::info!(why, count, bytes, "Forgot steps of builds that none has used for long");
    }
    let mut removal = Removal::default();
    for image in images.images {
        tracing::info!(why, image, "Removed an image without a name");
        removal.images.push(image);
    }
    for network in unused_networks(app, ages.unused) {
        // A container may have been made for it while those before it were removed.
        if !unused_networks(app, ages.unused).contains(&network) {
            continue;
        }
        // One that came into use just now is left.
        if let Ok(network) = app.network.remove(&network.id).await {
            publish_network(app, "destroy", &network, &[]);
            tracing::info!(why, network = network.name, "Removed a network that nothing used");
            removal.networks.push(network.name);
        }
    }
    let is_enough = why == WATERMARK
        && used_percent(&app.config.data_root).is_some_and(|used| used <= live.prune.disk_watermark);
    let pruned = if is_enough {
        Pruned::default()
    } else {
        app.containers.prune_stopped(None, |container| ages.container(container)).await
    };
    for container in &pruned.containers {
        tracing::info!(why, container, "Removed a container that had stopped long ago");
    }
    removal.containers = pruned.containers;
    removal.space_reclaimed = images.bytes + steps.bytes + pruned.bytes;
    tracing::info!(
        why,
        images = removal.images.len(),
        networks = removal.networks.len(),
        containers = removal.containers.len(),
        reclaimed = removal.space_reclaimed,
        "Cleaned up"
    );
    app.events.publish("image", "prune", "", &[("reason", why), ("reclaimed", &images.bytes.to_string())]);
    app.events.publish("network", "prune", "", &[("reason", why), ("reclaimed", "0")]);
    app.events.publish(
        "container",
        "prune",
        "",
        &[("reason", why), ("reclaimed", &pruned.bytes.to_string())],
    );
    removal
}
