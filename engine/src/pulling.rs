//! Pulls images from registries, for clients and for builds.

use engine_images::{ImageError, ImageStore, Pulled, Reference, Tell};
use engine_model::event::EventBus;
use engine_model::platform::Platform;
use engine_model::transfer::TransferEvent;
use engine_registry::{Credentials, Registries};

/// What it takes to pull. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pulls {
    pub images: ImageStore,
    pub registries: Registries,
    pub events: EventBus,
}

impl Pulls {
    /// Pulls one image (a name with a tag or a digest), and tells of it.
    pub async fn pull(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        credentials: &Credentials,
        tell: &Tell,
    ) -> Result<Pulled, ImageError> {
        let sources = self.registries.pull_from(name.domain(), name.path(), credentials).await?;
        let pulled = self.images.pull(sources, name, platform, tell).await?;
        let shown = name.familiar();
        let state = if pulled.is_new { "Downloaded newer image for" } else { "Image is up to date for" };
        tell(TransferEvent::Status { text: format!("{state} {shown}") });
        self.events.publish("image", "pull", &shown, &[("name", &name.familiar_repository())]);
        Ok(pulled)
    }
}
