//! What a new daemon finds: containers that run, that ended meanwhile, that were being made or removed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::exit::should_restart;
use super::record::{self, CONFIG_FILE, FORMAT, Identity, STATE_FILE, State, Status};
use super::shim::Connection;
use super::{Container, ContainerError, Containers};

impl Containers {
    pub(super) async fn restore(&self) -> Result<(), ContainerError> {
        self.blocking(Self::load).await?;
        let mut running: Vec<(Arc<Container>, Connection)> = Vec::new();
        let mut ended = Vec::new();
        for container in self.all() {
            match container.status() {
                Status::Running | Status::Paused => match container.shim().connect().await {
                    Ok(connection) => running.push((container, connection)),
                    Err(_) => ended.push(container),
                },
                Status::Removing | Status::Dead => {
                    let _operation = container.operation.lock().await;
                    if let Err(error) = self.remove_locked(&container, true).await {
                        tracing::error!(container = container.id, "{}", crate::api::error::chain(&error));
                    }
                }
                Status::Created | Status::Restarting | Status::Exited => {}
            }
        }
        let mut live = Vec::new();
        for (container, _) in &running {
            let state = container.state();
            for (number, endpoint) in state.endpoints.iter().enumerate() {
                let ports = if number == 0 { state.ports.clone() } else { Vec::new() };
                live.push((container.id.clone(), endpoint.clone(), ports));
            }
        }
        if let Err(error) = self.0.network.restore(&live).await {
            tracing::error!("Could not restore the networks: {}", crate::api::error::chain(&error));
        }
        for (container, connection) in running {
            tracing::info!(container = container.id, "Found a running container");
            self.watch(&container, connection);
        }
        for container in ended {
            self.ended_unseen(&container).await;
        }
        for container in self.all() {
            let state = container.state();
            let was_started = state.started_at.is_some();
            if state.status == Status::Restarting
                || (was_started
                    && state.status == Status::Exited
                    && should_restart(&container, &state, state.exit_code))
            {
                container.change_state(|state| state.status = Status::Restarting);
                self.restart_later(&container, Duration::ZERO);
            }
        }
        Ok(())
    }

    /// A container ended while no daemon was there.
    async fn ended_unseen(&self, container: &Arc<Container>) {
        let exit = self.find_exit(container).await;
        self.ended(container, exit).await;
    }

    fn load(&self) -> Result<(), ContainerError> {
        let config = &self.0.config;
        let folder = config.data_root.join("containers");
        let failed = |source| ContainerError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let directory = entry.map_err(failed)?.path();
            let Some((identity, state)) = read(&directory) else { continue };
            let container =
                Container::new(identity, state, &config.data_root, &config.exec_root, &self.0.cgroup_parent);
            let mut index = self.index();
            index.names.insert(container.identity().name.clone(), container.id.clone());
            index.containers.insert(container.id.clone(), Arc::new(container));
        }
        Ok(())
    }
}

/// Reads a container's records. A directory without one is what remains of an interrupted create or remove.
fn read(directory: &Path) -> Option<(Identity, State)> {
    let path = directory.join(CONFIG_FILE);
    let identity: Identity = match record::read(&path) {
        Ok(identity) => identity,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(directory = %directory.display(), "Removing what remains of a container");
            if let Err(error) = fs::remove_dir_all(directory) {
                tracing::error!(%error, directory = %directory.display(), "Could not remove it");
            }
            return None;
        }
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "Could not read a container's record");
            return None;
        }
    };
    if identity.format > FORMAT || directory.file_name() != Some(identity.id.as_ref()) {
        tracing::error!(path = %path.display(), "This record is of a newer engine or of another container");
        return None;
    }
    // Without a state it was being made, or the power was cut while it ran: then there is no process.
    let state = record::read(&directory.join(STATE_FILE)).unwrap_or_default();
    Some((identity, state))
}
