//! What builds keep for the next one, and names for what they make: the engine as clients of BuildKit see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine_build::{Builder, Outside};
use engine_buildkit::{House, PruneWish, Record};
use engine_containers::Containers;
use engine_images::ImageStore;
use engine_model::event::EventBus;
use engine_model::{Failure, ImageId, Kind};
use engine_network::Network;

use crate::building::{CacheWish, ForBuilds, forget_steps};

/// By this id the caches of commands are known, which are one to whoever asks.
const CACHES: &str = "caches";

/// What it takes to say and to prune what is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kept {
    pub images: ImageStore,
    pub containers: Containers,
    pub builder: Builder,
    pub events: EventBus,
    pub network: Network,
    pub for_builds: std::sync::Arc<ForBuilds>,
}

/// Everything that builds keep. Blocks.
pub fn records(images: &ImageStore, builder: &Builder) -> Vec<Record> {
    let steps = images.steps().into_iter().map(|step| Record {
        id: step.id.hex().to_owned(),
        parent: step.parent.as_ref().map(|id| id.hex().to_owned()),
        kind: "regular".to_owned(),
        description: step.description,
        is_shared: step.is_shared,
        size: step.size,
        created: step.created,
        last_used: Some(step.last_used),
        uses: step.uses,
    });
    let mut records: Vec<Record> = steps.collect();
    let size = builder.size_of_caches();
    if size > 0 {
        records.push(Record {
            id: CACHES.to_owned(),
            kind: "exec.cachemount".to_owned(),
            description: "caches of `RUN --mount=type=cache`".to_owned(),
            size,
            ..Record::default()
        });
    }
    records
}

/// What a pruning has removed.
#[derive(Debug, Default)]
pub struct Pruned {
    pub ids: Vec<ImageId>,
    /// Bytes of the caches of commands.
    pub caches: u64,
    /// Bytes of all.
    pub bytes: u64,
}

/// Forgets steps, and the caches of commands if everything is to go; and tells of it. Blocks.
pub fn prune(
    images: &ImageStore,
    containers: &Containers,
    builder: &Builder,
    events: &EventBus,
    wish: &CacheWish,
) -> Result<Pruned, Failure> {
    let is_everything = wish.all && wish.until.is_none() && wish.ids.is_empty() && wish.reserved == 0;
    let forgotten = forget_steps(images, containers, builder, wish)?;
    let mut pruned = Pruned { ids: forgotten.ids, caches: 0, bytes: forgotten.bytes };
    if is_everything {
        pruned.caches = builder.remove_caches().map_err(|error| Failure::of(Kind::Internal, &error))?;
        pruned.bytes += pruned.caches;
    }
    events.publish("builder", "prune", "", &[("reclaimed", &pruned.bytes.to_string())]);
    Ok(pruned)
}

impl House for Kept {
    fn tag(&self, id: &ImageId, name: &str) -> Result<String, Failure> {
        self.for_builds.tag(id, name)?;
        Ok(self.for_builds.whole_name(name))
    }

    fn records(&self) -> Result<Vec<Record>, Failure> {
        Ok(records(&self.images, &self.builder))
    }

    fn prune(&self, wish: &PruneWish) -> Result<Vec<Record>, Failure> {
        let known = records(&self.images, &self.builder).into_iter();
        let mut known: BTreeMap<String, Record> = known.map(|record| (record.id.clone(), record)).collect();
        let wish =
            CacheWish { all: wish.all, until: wish.until, ids: wish.ids.clone(), reserved: wish.reserved };
        let pruned = prune(&self.images, &self.containers, &self.builder, &self.events, &wish)?;
        let caches = (pruned.caches > 0).then_some(CACHES);
        let ids = pruned.ids.iter().map(ImageId::hex).chain(caches);
        Ok(ids.filter_map(|id| known.remove(id)).collect())
    }

    fn host_gateway(&self) -> Option<IpAddr> {
        self.network.host_gateways().first().copied()
    }
}
