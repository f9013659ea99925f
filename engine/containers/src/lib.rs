//! Containers: what they are, and their life from create to remove.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

pub mod archive;
mod attributes;
mod changes;
mod checks;
mod commit;
mod complaints;
pub mod container;
mod create;
mod endpoint;
mod error;
pub mod exec;
mod executor;
mod exit;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod inspect;
mod limits;
mod linked;
pub mod list;
pub mod logs;
mod mounts;
mod names;
mod naming;
mod oci;
mod outside;
mod pack;
mod place;
pub mod record;
mod remove;
mod restore;
mod room;
mod sandbox;
mod sensible;
pub mod signals;
mod start;
pub mod stats;
mod stop;
mod top;
mod tree;
mod understand;
mod unsupported;
mod update;
mod usage;
mod users;
pub mod volumes;

pub use container::Container;
pub use endpoint::{endpoint, request as endpoint_request};
pub use engine_kernel::ids::IdMap;
pub use error::ContainerError;
pub use outside::{Images, Networks, Settings};
pub use remove::Pruned;
pub use unsupported::refuse_endpoint;
pub use update::UpdateRequest;
pub use users::{Mapping, MappingError};

use engine_kernel::seccomp::Filters;
use engine_model::event::EventBus;
use engine_model::wire::LogConfig;
use engine_model::{ImageId, ImageUser};
use engine_store::Quarantine;
use exec::Exec;
pub use record::Status;
use volumes::Mounted;

/// Containers of this engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Containers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Settings,
    /// How output is kept unless a container says otherwise; it may change while the daemon runs.
    log: RwLock<LogConfig>,
    images: Arc<dyn Images>,
    network: Arc<dyn Networks>,
    events: EventBus,
    quarantine: Quarantine,
    /// Of the system calls that processes may make.
    filters: Filters,
    /// There are containers whose record cannot be read: what they use is not known.
    unknown: Mutex<BTreeSet<String>>,
    cgroup_parent: PathBuf,
    /// The one that is removed when it is of no use.
    own_cgroup_parent: PathBuf,
    index: Mutex<Index>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    mounted: Mounted,
    /// Turns at beginning to ask a container whether it is well.
    checks: Semaphore,
    /// How many have come to an end, and how many of those have failed.
    checks_made: [AtomicU64; 2],
    /// Turns at finding a number for a container whose room is bounded.
    projects: Mutex<()>,
    /// Done before the first network namespace is pinned.
    pins: Once,
}

#[derive(Debug, Default)]
struct Index {
    containers: BTreeMap<String, Arc<Container>>,
    /// Taken names, to ids; a name is taken before its container is there.
    names: HashMap<String, String>,
}

/// How many containers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
}

impl Containers {
    /// Loads all records and finds the containers that are still running.
    pub async fn open(
        config: Settings,
        images: Arc<dyn Images>,
        network: Arc<dyn Networks>,
        events: EventBus,
        quarantine: Quarantine,
    ) -> Result<Self, ContainerError> {
        for directory in [config.data_root.join("containers"), config.exec_root.join("containers")] {
            std::fs::create_dir_all(&directory)
                .map_err(|source| ContainerError::Write { path: directory, source })?;
        }
        let own_cgroup_parent = cgroup_parent(&config.exec_root);
        let named = config.cgroup_parent.as_deref();
        let cgroup_parent = named.map_or_else(|| own_cgroup_parent.clone(), engine_kernel::confine::clean);
        let containers = Self(Arc::new(Inner {
            config,
            log: RwLock::default(),
            images,
            network,
            events,
            quarantine,
            filters: Filters::default(),
            unknown: Mutex::default(),
            cgroup_parent,
            own_cgroup_parent,
            index: Mutex::default(),
            execs: Mutex::default(),
            mounted: Mounted::default(),
            checks: Semaphore::new(checks::AT_ONCE),
            checks_made: Default::default(),
            projects: Mutex::default(),
            pins: Once::new(),
        }));
        containers.restore().await?;
        containers.read_complaints();
        Ok(containers)
    }

    /// How the output of new containers is kept that do not say it themselves.
    pub fn set_log_defaults(&self, defaults: LogConfig) {
        *self.0.log.write().unwrap_or_else(PoisonError::into_inner) = defaults;
    }

    fn log_defaults(&self) -> LogConfig {
        self.0.log.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.0.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a container by id, name or a unique beginning of the id.
    pub fn find(&self, reference: &str) -> Result<Arc<Container>, ContainerError> {
        let index = self.index();
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let known = index.containers.get(reference).or_else(|| index.containers.get(index.names.get(name)?));
        if let Some(container) = known {
            return Ok(Arc::clone(container));
        }
        let is_prefix = !reference.is_empty() && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut matches = index
            .containers
            .range(reference.to_owned()..)
            .take_while(|(id, _)| is_prefix && id.starts_with(reference))
            .map(|(_, container)| container);
        match (matches.next(), matches.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(ContainerError::Ambiguous(reference.to_owned())),
            (None, _) => Err(ContainerError::NoSuchContainer(reference.to_owned())),
        }
    }

    /// All containers, the newest first.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.index().containers.values().cloned().collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.identity().created));
        all
    }

    /// Ids of containers whose record cannot be read.
    fn unknown(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what could take something away from a container that is not known.
    pub fn check_all_known(&self) -> Result<(), ContainerError> {
        if !self.are_some_unknown() {
            return Ok(());
        }
        let message = "nothing is removed that a container may use: there are containers whose record cannot be read \
                       (`docker info` names them)";
        Err(ContainerError::Conflict(message.to_owned()))
    }

    /// Whether there are containers that are not shown because their record cannot be read. They may use any image and any
    /// volume, so nothing may be removed for want of a user.
    pub fn are_some_unknown(&self) -> bool {
        !self.unknown().is_empty()
    }

    /// Which containers are made from an image, or mount it.
    pub fn image_users(&self, image: &ImageId) -> Vec<ImageUser> {
        self.all()
            .into_iter()
            .filter(|container| {
                let identity = container.identity();
                identity.image_id == *image
                    || identity.mounts.iter().any(|point| point.image.as_ref() == Some(image))
            })
            .map(|container| ImageUser {
                container: container.id.clone(),
                running: container.status().is_alive(),
            })
            .collect()
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for container in self.all() {
            match container.status() {
                Status::Running | Status::Restarting => counts.running += 1,
                Status::Paused => counts.paused += 1,
                _ => counts.stopped += 1,
            }
        }
        counts
    }

    /// How many health checks there have been since the daemon began, and how many of them failed.
    pub fn checks_made(&self) -> [u64; 2] {
        self.0.checks_made.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Runs something that waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ContainerError> + Send + 'static,
    ) -> Result<T, ContainerError> {
        let containers = self.clone();
        tokio::task::spawn_blocking(move || work(&containers)).await?
    }
}

/// Containers of engines with other directories have another parent, so that they do not remove each other's.
fn cgroup_parent(exec_root: &Path) -> PathBuf {
    if exec_root == Path::new("/run/engine") {
        return PathBuf::from("/engine");
    }
    let digest = Sha256::digest(exec_root.as_os_str().as_encoded_bytes());
    let digits = engine_model::id::hex(&digest[..6]);
    PathBuf::from(format!("/engine-{digits}"))
}

/// Succeeds when the thing to remove is not there.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
