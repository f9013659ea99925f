//! Images and containers, as builds see them; and what builds keep for the next one.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use engine_build::{Arriving, Builder, Keys, LABEL, Outside, Told, Validators};
use engine_containers::Containers;
use engine_images::{ImageStore, Layer, Reference, Tell};
use engine_model::event::EventBus;
use engine_model::{Changes, Failure, Image, ImageId, KeptStep, NewImage};
use engine_registry::{Credentials, Proxies, RegistryError};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::progress::lines;
use crate::pulling::Pulls;

/// What builds reach of the engine.
#[derive(Debug)]
pub struct ForBuilds {
    pub pulls: Pulls,
    pub images: ImageStore,
    pub containers: Containers,
    pub events: EventBus,
}

#[async_trait]
impl Outside for ForBuilds {
    fn find(&self, reference: &str) -> Result<Image, Failure> {
        Ok(self.images.find(reference)?)
    }

    fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.images.lower_dirs(id)?)
    }

    fn find_step(&self, parent: Option<&ImageId>, key: &str) -> Option<Image> {
        self.images.find_step(parent, key)
    }

    fn find_in_history(&self, sources: &[ImageId], new: &NewImage) -> Result<Option<ImageId>, Failure> {
        Ok(self.images.find_in_history(sources, new)?)
    }

    fn squash(&self, id: &ImageId, base: Option<&ImageId>) -> Result<ImageId, Failure> {
        Ok(self.images.squash(id, base)?)
    }

    fn make(&self, new: &NewImage, changes: Option<&Changes>) -> Result<ImageId, Failure> {
        Ok(self.images.make(new, changes.map_or(Layer::Nothing, Layer::Changes))?)
    }

    fn finish(&self, used: &BTreeSet<ImageId>, result: Option<&ImageId>) -> Result<(), Failure> {
        Ok(self.images.finish_build(used, result)?)
    }

    fn tag(&self, id: &ImageId, name: &str) -> Result<String, Failure> {
        self.images.tag(id.as_str(), name)?;
        let shown = Reference::parse(name)?.with_default_tag().familiar();
        self.events.publish("image", "tag", id.as_str(), &[("name", &shown)]);
        Ok(shown)
    }

    fn decompress<'a>(&self, archive: Box<dyn Read + 'a>) -> io::Result<Box<dyn Read + 'a>> {
        engine_images::decompress(archive)
    }

    fn pack(&self, folder: &Path, output: &mut dyn Write) -> io::Result<()> {
        engine_images::pack_folder(folder, output)
    }

    async fn commit(&self, container: &str, new: NewImage) -> Result<ImageId, Failure> {
        let container = self.containers.find(container)?;
        let images = self.images.clone();
        let make = move |changes| Ok(images.make(&new, Layer::Changes(&changes))?);
        Ok(self.containers.with_changes(&container, false, make).await?)
    }

    fn whole_name(&self, reference: &str) -> String {
        match Reference::parse(reference) {
            Ok(name) => name.with_default_tag().to_string(),
            Err(_) => reference.to_owned(),
        }
    }

    async fn pull(&self, reference: &str, keys: &Keys, progress: &mpsc::Sender<Told>) -> Result<(), Failure> {
        let name = Reference::parse(reference)?.with_default_tag();
        let credentials = credentials(keys, name.domain()).await;
        let progress = progress.clone();
        let tell: Tell = Arc::new(move |event| {
            for line in lines(&event) {
                // A client that is slow gets less of it.
                let _ = progress.try_send(Told::Line(line));
            }
        });
        self.pulls.pull(&name, None, &credentials, &tell).await?;
        Ok(())
    }

    async fn fetch(&self, address: &str, known: &Validators) -> Result<Option<Arriving>, Failure> {
        let failure = |error: RegistryError| Failure::of(error.kind(), &error);
        let known = engine_registry::Validators { tag: known.tag.clone(), modified: known.modified.clone() };
        let fetched = self.pulls.registries.fetch(address, &known).await.map_err(failure)?;
        Ok(fetched.map(|fetched| Arriving {
            validators: Validators {
                tag: fetched.validators.tag.clone(),
                modified: fetched.validators.modified.clone(),
            },
            length: fetched.length,
            disposition: fetched.disposition.clone(),
            pieces: futures_util::stream::try_unfold(fetched, move |mut fetched| async move {
                Ok(fetched.next().await.map_err(failure)?.map(|piece| (piece, fetched)))
            })
            .boxed(),
        }))
    }

    fn proxies(&self) -> Vec<(String, String)> {
        let Proxies { http, https, none } = self.pulls.registries.proxies();
        let mut proxies = Vec::new();
        proxies.extend(http.map(|proxy| ("http_proxy".to_owned(), proxy)));
        proxies.extend(https.map(|proxy| ("https_proxy".to_owned(), proxy)));
        // This host is reached directly, whatever the proxies.
        proxies.push(("no_proxy".to_owned(), format!("localhost,127.0.0.1,::1,{none}")));
        proxies
    }
}

/// Who a client is to a registry; nobody in particular if that cannot be found out.
async fn credentials(keys: &Keys, domain: &str) -> Credentials {
    match keys {
        Keys::Header(header) => Credentials::of_config(header, domain).unwrap_or_else(|error| {
            tracing::debug!(%error, "A client does not say who it is");
            Credentials::default()
        }),
        Keys::Client(client) => match client.login(domain).await {
            Ok(Some(login)) => {
                let mut credentials = Credentials::default();
                if login.username.is_empty() {
                    credentials.identitytoken = login.secret;
                } else {
                    (credentials.username, credentials.password) = (login.username, login.secret);
                }
                credentials
            }
            Ok(None) => Credentials::default(),
            Err(error) => {
                tracing::debug!(%error, "A client does not say who it is");
                Credentials::default()
            }
        },
    }
}

/// Removes containers in which a killed engine ran commands of builds: nobody waits for those.
pub async fn remove_orphans(containers: &Containers, builder: &Builder) {
    for id in builder.left_over() {
        let Ok(container) = containers.find(&id) else {
            builder.let_go(&id);
            continue;
        };
        if container.id != id || !container.identity().config.labels.contains_key(LABEL) {
            continue;
        }
        tracing::info!(container = id, "Removing a container of a build that was interrupted");
        match containers.remove(&container, true, true).await {
            Ok(()) => builder.let_go(&id),
            Err(error) => tracing::warn!(%error, container = id, "Could not remove a container of a build"),
        }
    }
}

/// Which steps of builds are to be forgotten.
#[derive(Clone, Debug, Default)]
pub struct CacheWish {
    /// Also those that an image which is shown is made of.
    pub all: bool,
    /// Only those that no build has used since.
    pub until: Option<Timestamp>,
    /// Ids, or beginnings of them; all if there are none.
    pub ids: Vec<String>,
    /// As many bytes may stay: what was used last.
    pub reserved: u64,
}

/// Steps that are gone, and bytes.
#[derive(Debug, Default)]
pub struct ForgottenSteps {
    pub ids: Vec<ImageId>,
    pub bytes: u64,
}

/// Forgets steps that no container and, unless all are to go, no image needs. Blocks.
pub fn forget_steps(
    images: &ImageStore,
    containers: &Containers,
    builder: &Builder,
    wish: &CacheWish,
) -> Result<ForgottenSteps, Failure> {
    if containers.are_some_unknown() {
        return Ok(ForgottenSteps::default());
    }
    let before = images.layers_size();
    let in_use = builder.in_use();
    let mut steps = images.steps();
    // Of those that were used together, the ones that others are made of stay first.
    steps.sort_by_key(|step| (std::cmp::Reverse(step.last_used), step.created));
    let fits = |step: &KeptStep| {
        let hex = step.id.hex();
        (wish.all || !step.is_shared)
            && wish.until.is_none_or(|until| step.last_used < until)
            && (wish.ids.is_empty()
                || wish.ids.iter().any(|id| hex.starts_with(id.trim_start_matches("sha256:"))))
            && !in_use.contains(&step.id)
            && containers.image_users(&step.id).is_empty()
    };
    let mut kept = 0;
    let mut unneeded = BTreeSet::new();
    for step in &steps {
        if kept + step.size <= wish.reserved && wish.reserved > 0 {
            kept += step.size;
        } else if fits(step) {
            unneeded.insert(step.id.clone());
        }
    }
    let ids = if unneeded.is_empty() { Vec::new() } else { images.forget_steps(&unneeded)? };
    Ok(ForgottenSteps { ids, bytes: before.saturating_sub(images.layers_size()) })
}
