//! Finds, and removes, what carries our tags at AWS. Disks are not among it: ours go with their instances, and copies that
//! the user restored from backups carry the same tags.

use std::sync::Arc;

use aws_sdk_ec2::types::{SpotInstanceState, Tag};
use machine_driver::{DriverError, Leftover, Progress};

use crate::{
    api::{Api, Call, filter},
    delete::{self, GroupFate},
    error::{Answer as _, ApiError, printable},
    groups,
    region::Region,
    tags,
    watch::{self, Instance},
};

const INSTANCE: &str = "instance";
const KEY_PAIR: &str = "key pair";
const GROUP: &str = "security group";
const SPOT: &str = "spot request";

fn leftover(api: &Api, kind: &str, id: &str, tags: &[(&str, &str)]) -> Leftover {
    // Whoever may tag things may write anything there.
    let tag = |key: &str| tags.iter().find(|(name, _)| *name == key).map(|(_, value)| printable(value));
    Leftover {
        kind: kind.to_owned(),
        id: id.to_owned(),
        place: api.region.clone(),
        host_id: tag(tags::ID),
        host_name: tag(tags::NAME).unwrap_or_default(),
        owner: tag(tags::OWNER).unwrap_or_default(),
    }
}

fn pairs(tags: &[Tag]) -> Vec<(&str, &str)> {
    tags.iter().filter_map(|tag| Some((tag.key()?, tag.value()?))).collect()
}

/// Everything of ours in a region, whosever it is.
pub(crate) async fn find(region: &Arc<Region>) -> Result<Vec<Leftover>, DriverError> {
    let api = &region.api;
    ask(api).await.map_err(|error| error.during(format!("Could not look for what is left in {}", api.region)))
}

async fn ask(api: &Api) -> Result<Vec<Leftover>, ApiError> {
    let ours = || filter("tag-key", [tags::NAME]);
    let mut found = Vec::new();
    let is_ours = |instance: &&Instance| {
        let host = instance.tags.get(tags::ID);
        !instance.is_ending() && host.is_some_and(|host| instance.was_started_for(host))
    };
    for instance in watch::describe(api, vec![ours()]).await?.iter().filter(is_ours) {
        let tags: Vec<(&str, &str)> =
            instance.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        found.push(leftover(api, INSTANCE, &instance.id, &tags));
    }
    let spot = api
        .describe_spot_instance_requests()
        .filters(ours())
        .send()
        .await
        .answer(Call::DescribeSpotInstanceRequests, api)?;
    for request in spot.spot_instance_requests() {
        let open = matches!(request.state(), Some(SpotInstanceState::Open | SpotInstanceState::Active));
        if let (true, Some(id)) = (open, request.spot_instance_request_id()) {
            found.push(leftover(api, SPOT, id, &pairs(request.tags())));
        }
    }
    let keys = api.describe_key_pairs().filters(ours()).send().await.answer(Call::DescribeKeyPairs, api)?;
    for key in keys.key_pairs() {
        if let Some(name) = key.key_name() {
            found.push(leftover(api, KEY_PAIR, name, &pairs(key.tags())));
        }
    }
    for group in groups::find(api, vec![ours()]).await? {
        if let Some(id) = group.group_id() {
            found.push(leftover(api, GROUP, id, &pairs(group.tags())));
        }
    }
    Ok(found)
}

/// Removes what was found in this region, as far as that goes: the first thing that could not be removed is the error.
/// A group that others use stays, and is said.
pub(crate) async fn remove(
    region: &Arc<Region>,
    leftovers: &[&Leftover],
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let api = &region.api;
    let of = |kind: &str| -> Vec<String> {
        leftovers.iter().filter(|one| one.kind == kind).map(|one| one.id.clone()).collect()
    };
    let mut failed: Option<DriverError> = None;
    let mut keep = |result: Result<(), DriverError>| {
        if let Err(error) = result {
            progress.note(&error.to_string());
            failed.get_or_insert(error);
        }
    };
    // At once, because each takes its time to end.
    let instances = of(INSTANCE);
    let ended = instances.iter().map(|id| delete::instances(region, std::slice::from_ref(id), progress));
    futures_util::future::join_all(ended).await.into_iter().for_each(&mut keep);
    keep(delete::spot_requests(api, &of(SPOT)).await);
    for name in of(KEY_PAIR) {
        keep(delete::key_pair(api, &name).await);
    }
    for id in of(GROUP) {
        match delete::group(region, &id).await {
            Ok(GroupFate::Gone) => {}
            Ok(GroupFate::UsedBy(users)) => {
                progress.note(&format!("The security group {id} stays: {} uses it", users.join(", ")));
            }
            Err(error) => keep(Err(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}
