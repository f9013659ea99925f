//! Network namespaces of containers: made before the processes that live in them, and gone after them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use engine_kernel::pin;

use super::{Container, ContainerError, Containers};

/// Where they are pinned.
pub(crate) fn folder(exec_root: &Path) -> PathBuf {
    exec_root.join("netns")
}

impl Container {
    /// Lets go of its network namespace; blocks. What cannot be let go of is looked at again by the next daemon.
    pub(super) fn unpin(&self) {
        unpin(&self.pin);
    }
}

impl Containers {
    /// Makes the network namespace of a container and pins it.
    pub(super) fn pin(&self, container: &str, path: &Path) -> Result<(), ContainerError> {
        self.prepare_pins();
        pin::pin(path).map_err(|source| ContainerError::Pin { id: container.to_owned(), source })
    }

    /// To be done before the first one is pinned.
    pub(super) fn prepare_pins(&self) {
        self.0.pins.call_once(|| {
            let folder = folder(&self.0.config.exec_root);
            if let Err(error) = pin::prepare(&folder) {
                let folder = folder.display();
                tracing::warn!(%error, %folder, "Supervising processes keep copies of all network namespaces");
            }
        });
    }

    /// Lets go of what a daemon that was killed has left pinned. What may be of a container that runs stays.
    pub(super) fn sweep_pins(&self) {
        let folder = folder(&self.0.config.exec_root);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::error!(%error, folder = %folder.display(), "Could not look for network namespaces that are left");
                }
                return;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|name| is_id(name)) else { continue };
            let runs = self.index().containers.get(id).is_some_and(|container| container.status().is_alive());
            if !runs && !self.unknown().contains(id) {
                tracing::info!(container = id, "Its network namespace is left");
                unpin(&entry.path());
            }
        }
    }
}

fn unpin(path: &Path) {
    if let Err(error) = pin::unpin(path) {
        tracing::error!(%error, path = %path.display(), "Could not let go of a network namespace");
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
