//! What a container has changed, for those who make an image of it.

use std::path::PathBuf;
use std::sync::Arc;

use engine_model::life::Change;
use engine_model::wire::ImageConfig;
use engine_model::{Changes, Failure, ImageId};

use super::start::{FILES, MARK};
use super::{Container, ContainerError, Containers};

/// Made in every container, where the image has none, to mount something on.
const FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];

impl Containers {
    /// Has `work` done with what a container has changed. Nobody starts it meanwhile; if it runs, it is paused for as long as
    /// that takes, or goes on if `pause` is not wanted.
    pub async fn with_changes<T: Send + 'static>(
        &self,
        container: &Arc<Container>,
        pause: bool,
        work: impl FnOnce(Changes) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, ContainerError> {
        // One that is paused already stays so.
        let paused = pause
            && match self.pause(container).await {
                Ok(()) => true,
                Err(ContainerError::Conflict(_) | ContainerError::Ended(_)) => false,
                Err(error) => return Err(error),
            };
        let operation = container.operation.lock().await;
        let (containers, target) = (self.clone(), Arc::clone(container));
        let done = tokio::task::spawn_blocking(move || Ok(work(containers.changes_of(&target)?)?)).await;
        drop(operation);
        if paused && let Err(error) = self.unpause(container).await {
            // Somebody else has made it go on, or it has ended.
            tracing::debug!(%error, container = container.id, "Not unpaused after a commit");
        }
        done?
    }

    fn changes_of(&self, container: &Container) -> Result<Changes, ContainerError> {
        let identity = container.identity();
        let files = FILES.iter().map(|(_, inside)| *inside).chain(FOLDERS).chain([MARK]).map(PathBuf::from);
        Ok(Changes {
            upper: container.directory.join("upper"),
            lower: self.0.images.lower_dirs(&identity.image_id)?,
            mount_points: identity
                .mounts
                .iter()
                .map(|point| point.destination.clone())
                .chain(files)
                .collect(),
        })
    }

    /// What an image of a container starts with, unless it is told otherwise: what the container does.
    pub fn image_config(&self, container: &Container) -> ImageConfig {
        ImageConfig::from(&container.identity().config)
    }

    /// Tells that an image was made of a container.
    pub fn committed(&self, container: &Container, image: &ImageId, reference: &str, comment: &str) {
        let change = Change::Committed {
            image: image.to_string(),
            reference: reference.to_owned(),
            comment: comment.to_owned(),
        };
        container.tell(&self.0.events, &change);
    }
}
