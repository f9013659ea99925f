//! Removing containers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine_kernel::cgroup;
use engine_model::life::Change;
use jiff::Timestamp;

use super::record::{CONFIG_FILE, MountKind, Status};
use super::{Container, ContainerError, Containers, gone_is_fine};

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub containers: Vec<String>,
    pub bytes: u64,
}

impl Containers {
    /// Removes a container, with its anonymous volumes if `volumes`.
    pub async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<(), ContainerError> {
        if container.removing.swap(true, Ordering::AcqRel) {
            let message = format!("removal of container {} is already in progress", container.id);
            return Err(ContainerError::Conflict(message));
        }
        let result = self.remove_marked(container, force, volumes).await;
        if result.is_err() {
            container.removing.store(false, Ordering::Release);
        }
        result
    }

    async fn remove_marked(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<(), ContainerError> {
        loop {
            let operation = container.operation.lock().await;
            let status = container.status();
            let name = &container.identity().name;
            match status {
                Status::Running | Status::Restarting if !force => {
                    return Err(ContainerError::Conflict(format!(
                        "cannot remove container \"{name}\": container is {}: stop the container before removing or force remove",
                        status.word()
                    )));
                }
                Status::Paused if !force => {
                    return Err(ContainerError::Conflict(format!(
                        "cannot remove container \"{name}\": container is paused and must be unpaused first"
                    )));
                }
                Status::Running | Status::Paused => {
                    container.stopping.store(true, Ordering::Release);
                    let exits = container.life().borrow().exits;
                    drop(operation);
                    self.make_end(container, exits).await?;
                    if container.life().borrow().removed {
                        return Ok(());
                    }
                }
                _ => {
                    container.restart_now_or_never.notify_waiters();
                    return self.remove_locked(container, volumes).await;
                }
            }
        }
    }

    /// Removes a container that does not run and whose `operation` the caller holds.
    pub(super) async fn remove_locked(
        &self,
        container: &Arc<Container>,
        volumes: bool,
    ) -> Result<(), ContainerError> {
        container.removing.store(true, Ordering::Release);
        // Whoever comes after a crash goes on with the same wish.
        container.change_state(|state| {
            state.status = Status::Removing;
            state.with_volumes = volumes;
        });
        let victim = Arc::clone(container);
        self.blocking(move |containers| containers.erase(&victim, volumes)).await?;
        {
            let mut index = self.index();
            let identity = container.identity();
            index.containers.remove(&container.id);
            index.names.remove(&identity.name);
        }
        container.pending().clear();
        container.tell(&self.0.events, &Change::Removed);
        if self.all().iter().all(|other| !other.status().is_alive()) {
            cgroup::remove_parent(&self.0.own_cgroup_parent);
        }
        Ok(())
    }

    fn erase(&self, container: &Container, volumes: bool) -> Result<(), ContainerError> {
        let _claim = engine_shim::client::claim_last(&container.directory)?;
        remove(&container.runtime_directory)?;
        container.unpin();
        // A container that is not known may use them.
        if volumes && !self.are_some_unknown() {
            let used: BTreeSet<PathBuf> = self
                .all()
                .iter()
                .filter(|other| other.id != container.id)
                .flat_map(|other| other.identity().mounts.clone())
                .map(|point| point.source)
                .collect();
            for point in &container.identity().mounts {
                let ours =
                    point.kind == MountKind::Volume && point.anonymous && !used.contains(&point.source);
                if let Some(name) = point.name.as_deref().filter(|_| ours) {
                    self.erase_volume(name)?;
                }
            }
        }
        let project = Self::project_of(container);
        erase_directory(&container.directory)?;
        if let Some(project) = project {
            self.take_room_back(project);
        }
        Ok(())
    }

    /// Removes stopped containers that `wanted` accepts and that were made before `older_than`, but none of their
    /// volumes.
    pub async fn prune_stopped(
        &self,
        older_than: Option<Timestamp>,
        wanted: impl Fn(&Container) -> bool,
    ) -> Pruned {
        let mut pruned = Pruned::default();
        for container in self.all() {
            let old = older_than.is_none_or(|limit| container.identity().created < limit);
            if !matches!(container.status(), Status::Created | Status::Exited | Status::Dead)
                || !old
                || !wanted(&container)
            {
                continue;
            }
            let size = self.written_size(&container).await;
            // Somebody may have started or removed it just now, or it has run and ended meanwhile.
            if wanted(&container) && self.remove(&container, false, false).await.is_ok() {
                pruned.containers.push(container.id.clone());
                pruned.bytes += size;
            }
        }
        pruned
    }

    /// Lets the networks of a container know its name, if they know another one.
    pub(super) async fn tell_name(&self, container: &Arc<Container>) {
        let name = container.identity().name.clone();
        if container.state().endpoints.iter().all(|endpoint| endpoint.container_name == name) {
            return;
        }
        container.change_state(|state| {
            for endpoint in &mut state.endpoints {
                name.clone_into(&mut endpoint.container_name);
            }
        });
        if let Err(error) = self.0.network.rename(&container.id, &name).await {
            let error = engine_model::chain(&error);
            tracing::error!(container = container.id, error, "Its neighbours do not know its name");
        }
    }

    /// Gives a container another name.
    pub async fn rename(&self, container: &Arc<Container>, name: &str) -> Result<(), ContainerError> {
        let _operation = container.operation.lock().await;
        let name = name.trim_start_matches('/');
        if name.is_empty() {
            return Err(ContainerError::Invalid("Neither old nor new names may be empty".to_owned()));
        }
        if !super::names::is_valid(name) {
            return Err(ContainerError::InvalidName(format!("/{name}")));
        }
        let old = container.identity().name.clone();
        if old == name {
            let message = "Renaming a container with the same name as its current name";
            return Err(ContainerError::Invalid(message.to_owned()));
        }
        {
            let mut index = self.index();
            if let Some(owner) = index.names.get(name) {
                return Err(ContainerError::NameTaken { name: name.to_owned(), id: owner.clone() });
            }
            index.names.insert(name.to_owned(), container.id.clone());
        }
        let changed = container.change_identity(|identity| name.clone_into(&mut identity.name));
        let unused = if changed.is_ok() { old.as_str() } else { name };
        self.index().names.remove(unused);
        changed?;
        self.tell_name(container).await;
        container.tell(&self.0.events, &Change::Renamed { old });
        Ok(())
    }
}

/// Removes a container's own directory. What the container is goes last, and before how it is: whoever is interrupted
/// finds a container that is being removed, or a directory that is none.
pub(super) fn erase_directory(directory: &Path) -> Result<(), ContainerError> {
    for part in parts(directory) {
        remove(&part)?;
    }
    Ok(())
}

/// In the order in which they go.
fn parts(directory: &Path) -> [PathBuf; 4] {
    [directory.join("upper"), directory.join("work"), directory.join(CONFIG_FILE), directory.to_owned()]
}

/// Removes a file, or a directory with everything in it.
fn remove(path: &Path) -> Result<(), ContainerError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    gone_is_fine(result).map_err(|source| ContainerError::Remove { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use engine_model::event::EventBus;
    use engine_model::wire::CreateRequest;
    use engine_store::Quarantine;

    use super::*;
    use crate::Settings;
    use crate::fakes::{NoNetworks, OneImage};

    /// The removal is broken off after some of its steps, and in the middle of the last one after any of its files.
    #[tokio::test]
    async fn a_removal_broken_off_anywhere_is_completed() {
        let open = async |settings: &Settings| {
            let quarantine = Quarantine::of(&settings.data_root);
            let (images, networks) = (Arc::new(OneImage::default()), Arc::new(NoNetworks));
            Containers::open(settings.clone(), images, networks, EventBus::new(), quarantine).await.unwrap()
        };
        let mut broken_off = 0;
        for steps in 0..4 {
            // In an order that nobody chooses.
            for number in 0.. {
                let folder = tempfile::tempdir().unwrap();
                let settings = Settings::of(folder.path());
                let containers = open(&settings).await;
                let request = CreateRequest::read(br#"{"Image":"x"}"#).unwrap();
                let container = containers.create(None, request).await.unwrap().container;
                for file in ["hosts", "exit.json", "shim.lock"] {
                    fs::write(container.directory.join(file), "").unwrap();
                }
                container.change_state(|state| state.status = Status::Removing);
                for part in parts(&container.directory).iter().take(steps) {
                    remove(part).unwrap();
                }
                if steps == 3 {
                    let mut files: Vec<_> = fs::read_dir(&container.directory)
                        .unwrap()
                        .map(|file| file.unwrap().path())
                        .collect();
                    files.sort();
                    let Some(file) = files.get(number) else { break };
                    remove(file).unwrap();
                } else if number > 0 {
                    break;
                }
                broken_off += 1;
                let again = open(&settings).await;
                let found: Vec<_> = again.all().iter().map(|container| container.status()).collect();
                assert_eq!(found, [], "after {steps} steps");
                assert!(!container.directory.exists(), "after {steps} steps");
            }
        }
        assert!(broken_off > 6, "{broken_off}");
    }
}
