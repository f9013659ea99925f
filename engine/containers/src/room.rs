//! How much a container may write to its root file system: `--storage-opt size=…`.

use std::fs::File;
use std::io;
use std::sync::PoisonError;

use engine_kernel::quota;
use engine_model::size;
use engine_model::wire::HostConfig;

use super::{Container, ContainerError, Containers};

/// Numbers that are tried for a new project.
const TRIALS: u32 = 1_000_000;

/// How many bytes are wished for; refuses other options, in dockerd's words.
pub(super) fn wished(host: &HostConfig) -> Result<Option<u64>, ContainerError> {
    let mut wished = None;
    for (key, value) in host.storage_opt.iter().flatten() {
        if !key.eq_ignore_ascii_case("size") {
            return Err(ContainerError::Invalid(format!("Unknown option {key:.100}")));
        }
        let bytes = size(value).filter(|bytes| *bytes > 0);
        wished = Some(bytes.ok_or_else(|| ContainerError::Invalid(format!("invalid size: '{value:.100}'")))?);
    }
    Ok(wished)
}

impl Containers {
    /// Bounds what a new container, which has nothing yet, may write.
    pub(super) fn give_room(&self, container: &Container, bytes: u64) -> Result<(), ContainerError> {
        self.bound(container, bytes).map_err(|source| {
            if quota::are_lacking(&source) {
                // As dockerd says it; here, ext4 will do as well.
                let message = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option, or over ext4 with 'prjquota'";
                ContainerError::Invalid(message.to_owned())
            } else {
                ContainerError::Write { path: container.directory.clone(), source }
            }
        })
    }

    fn bound(&self, container: &Container, bytes: u64) -> io::Result<()> {
        let around = File::open(container.directory.parent().unwrap_or(&container.directory))?;
        // Whoever has a number uses it before another one looks for one.
        let _turn = self.0.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let base = quota::project(&around)?;
        for project in (base..).skip(1).take(TRIALS as usize) {
            if quota::is_used(&around, project)? {
                continue;
            }
            for folder in ["upper", "work"] {
                quota::set_project(File::open(container.directory.join(folder))?, project)?;
            }
            return quota::limit(&around, project, bytes);
        }
        Err(io::Error::other("there is no number for a project of files"))
    }

    /// What there is to be lifted when a container is gone: the next one with its number may have no limit.
    pub(super) fn project_of(container: &Container) -> Option<u32> {
        let host = &container.identity().host;
        if host.storage_opt.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
            return None;
        }
        let upper = File::open(container.directory.join("upper")).ok()?;
        quota::project(upper).ok().filter(|project| *project > 0)
    }

    /// Lifts a limit.
    pub(super) fn take_room_back(&self, project: u32) {
        let lifted = File::open(self.0.config.data_root.join("containers"))
            .and_then(|around| quota::limit(&around, project, 0));
        if let Err(error) = lifted {
            tracing::warn!(%error, project, "The limit of a container that is gone stays");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_a_size_can_be_wished_for() {
        let wish = |options: Value| {
            let host: HostConfig = serde_json::from_value(json!({ "StorageOpt": options })).unwrap();
            wished(&host).map_err(|error| error.to_string())
        };
        assert_eq!(wish(json!(null)), Ok(None));
        assert_eq!(wish(json!({})), Ok(None));
        assert_eq!(wish(json!({ "Size": "10m" })), Ok(Some(10 << 20)));
        assert_eq!(wish(json!({ "colour": "red" })), Err("Unknown option colour".to_owned()));
        for odd in ["", "0", "much", "-1"] {
            assert_eq!(wish(json!({ "size": odd })), Err(format!("invalid size: '{odd}'")));
        }
    }
}
