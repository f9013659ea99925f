//! Takes a host down: everything that its record names or that carries its id, in the order in which it can go.
//!
//! ```text
//! look ── by recorded ids and by tags, again and again until all that may be there was seen, or the time is up
//! act ─── instances ─ spot requests ─ key pairs ─ security groups; disks go with their instance
//! ```

use std::sync::Arc;

use aws_sdk_ec2::types::{InstanceStateName, SecurityGroup, SpotInstanceRequest, SpotInstanceState};
use futures_util::future::try_join4;
use machine_driver::{DriverError, HostView, Progress};

use crate::{
    api::{Api, Call, filter},
    delete::{self, GroupFate},
    docker_machine,
    error::{Answer as _, ApiError},
    groups,
    region::Region,
    state::{Book, INSTANCE, KEY_PAIR, Made, SECURITY_GROUP, SHARED_GROUP, SPOT_REQUEST},
    tags,
    watch::{self, Instance},
};

/// What there may be of a host, as far as its record knows.
#[derive(Debug, Default)]
struct Recorded {
    /// Whether an instance was asked for, and its id if that is known.
    instance: (bool, Option<String>),
    spot_requests: Vec<String>,
    key_pairs: Vec<String>,
    /// Whether a group of the host's own was asked for, and its id if that is known.
    own_group: (bool, Option<String>),
    /// Names, with ids as far as they are known.
    shared_groups: Vec<(String, Option<String>)>,
}

impl Recorded {
    fn of(host: &HostView, book: &Book<'_>) -> Self {
        let made = &book.made;
        let is_its = docker_machine::is_its(&host.config);
        let asked = |kind: &str| !book.named(kind).is_empty();
        let mut key_pairs = book.named(KEY_PAIR);
        if is_its {
            key_pairs.extend(made.key_pair.clone());
        }
        let shared = book.journal.entries().into_iter().filter(|entry| entry.kind == SHARED_GROUP);
        // What the journal does not name any more was removed already.
        let instance = made.instance.clone().filter(|_| is_its || asked(INSTANCE));
        let own_group = made.own_group.clone().filter(|_| asked(SECURITY_GROUP));
        Self {
            instance: (asked(INSTANCE) || instance.is_some(), instance),
            spot_requests: book.named(SPOT_REQUEST),
            key_pairs,
            own_group: (asked(SECURITY_GROUP), own_group),
            shared_groups: shared.map(|entry| (entry.name, entry.id)).collect(),
        }
    }
}

/// What was seen of a host at AWS.
#[derive(Debug, Default)]
struct Found {
    instances: Vec<Instance>,
    /// Those that are open or active.
    spot_requests: Vec<String>,
    key_pairs: Vec<String>,
    own_groups: Vec<String>,
    /// Names and ids; and whether they are this store's to delete.
    shared_groups: Vec<(String, String, bool)>,
}

impl Found {
    /// Whether everything that may be there was seen, so that there is nothing to wait for.
    fn has_all(&self, recorded: &Recorded) -> bool {
        let has_instance = match &recorded.instance {
            (_, Some(id)) => self.instances.iter().any(|instance| instance.id == *id),
            (asked, None) => !asked || !self.instances.is_empty(),
        };
        let has_group = match &recorded.own_group {
            (_, Some(id)) => self.own_groups.contains(id),
            (asked, None) => !asked || !self.own_groups.is_empty(),
        };
        has_instance
            && has_group
            && recorded.key_pairs.iter().all(|name| self.key_pairs.contains(name))
            && recorded
                .shared_groups
                .iter()
                .all(|(name, _)| self.shared_groups.iter().any(|(known, ..)| known == name))
    }
}

/// One look, by tags and by what is recorded: each finds what the other does not.
async fn look(api: &Api, host: &HostView, recorded: &Recorded) -> Result<Found, ApiError> {
    let by = tags::filter_name(tags::ID);
    let id = host.id.to_string();
    let instances = async {
        let mut found = watch::describe(api, vec![filter(&by, [id.as_str()])]).await?;
        found.retain(|instance| instance.was_started_for(&id));
        if let Some(known) = &recorded.instance.1
            && !found.iter().any(|instance| instance.id == *known)
        {
            found.extend(watch::describe(api, vec![filter("instance-id", [known.as_str()])]).await?);
        }
        Ok::<_, ApiError>(found)
    };
    let own_groups = async {
        let mut found = ids(groups::find(api, vec![filter(&by, [id.as_str()])]).await?);
        if let Some(known) = recorded.own_group.1.clone().filter(|known| !found.contains(known)) {
            found.extend(ids(groups::find(api, vec![filter("group-id", [known])]).await?));
        }
        Ok(found)
    };
    let shared_groups = shared_groups(api, host, recorded);
    let (instances, own_groups, shared_groups, key_pairs) =
        try_join4(instances, own_groups, shared_groups, key_pairs(api, recorded)).await?;
    let mut requests = recorded.spot_requests.clone();
    requests.extend(instances.iter().filter_map(|instance| instance.spot_request.clone()));
    let spot_requests = open_requests(api, requests).await?;
    Ok(Found { instances, spot_requests, key_pairs, own_groups, shared_groups })
}

/// The groups that the host shares: those that are recorded, and those of their names that its store made. One of
/// another store may have the same name.
async fn shared_groups(
    api: &Api,
    host: &HostView,
    recorded: &Recorded,
) -> Result<Vec<(String, String, bool)>, ApiError> {
    if recorded.shared_groups.is_empty() {
        return Ok(Vec::new());
    }
    let names = recorded.shared_groups.iter().map(|(name, _)| name.as_str());
    let known: Vec<&str> = recorded.shared_groups.iter().filter_map(|(_, id)| id.as_deref()).collect();
    let mut found = groups::find(api, vec![filter(&tags::filter_name(tags::NAME), names)]).await?;
    found.retain(|group| {
        tags::are_of_shared(group.tags(), host) || group.group_id().is_some_and(|id| known.contains(&id))
    });
    let missing = known.iter().filter(|id| !found.iter().any(|group| group.group_id() == Some(**id)));
    let missing: Vec<&str> = missing.copied().collect();
    if !missing.is_empty() {
        found.extend(groups::find(api, vec![filter("group-id", missing)]).await?);
    }
    let told = |group: SecurityGroup| {
        // An earlier version may have recorded one that another store made.
        let is_ours = !tags::are_of_others(group.tags(), host);
        Some((group.group_name?, group.group_id?, is_ours))
    };
    Ok(found.into_iter().filter_map(told).collect())
}

fn ids(groups: Vec<SecurityGroup>) -> Vec<String> {
    groups.into_iter().filter_map(|group| group.group_id).collect()
}

async fn key_pairs(api: &Api, recorded: &Recorded) -> Result<Vec<String>, ApiError> {
    if recorded.key_pairs.is_empty() {
        return Ok(Vec::new());
    }
    let by = filter("key-name", recorded.key_pairs.clone());
    let answer = api.describe_key_pairs().filters(by).send().await.answer(Call::DescribeKeyPairs, api)?;
    Ok(answer.key_pairs().iter().filter_map(|pair| pair.key_name().map(str::to_owned)).collect())
}

/// Those of some spot requests that are open or active.
async fn open_requests(api: &Api, ids: Vec<String>) -> Result<Vec<String>, ApiError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let answer = api
        .describe_spot_instance_requests()
        .filters(filter("spot-instance-request-id", ids))
        .send()
        .await
        .answer(Call::DescribeSpotInstanceRequests, api)?;
    let is_open = |request: &&SpotInstanceRequest| {
        matches!(request.state(), Some(SpotInstanceState::Open | SpotInstanceState::Active))
    };
    let open = answer.spot_instance_requests().iter().filter(is_open);
    Ok(open.filter_map(|request| request.spot_instance_request_id().map(str::to_owned)).collect())
}

/// Removes the host in this region. `salvaging`: the journal is lost, and only the host's id is known.
pub(crate) async fn take_down(
    region: &Arc<Region>,
    host: &HostView,
    book: &mut Book<'_>,
    progress: &dyn Progress,
    salvaging: bool,
) -> Result<(), DriverError> {
    let found = if salvaging {
        // Whatever is older than the loss of a record is listed by now.
        let named = Recorded { key_pairs: vec![tags::name_of_ours(host)], ..Recorded::default() };
        look(&region.api, host, &named).await.map_err(|error| not_looked_for(host, error))?
    } else {
        find(region, host, &Recorded::of(host, book), progress).await?
    };
    let living: Vec<String> = found
        .instances
        .iter()
        .filter(|instance| instance.state != InstanceStateName::Terminated)
        .map(|instance| instance.id.clone())
        .collect();
    delete::instances(region, &living, progress).await?;
    delete::spot_requests(&region.api, &found.spot_requests).await?;
    for kind in [INSTANCE, SPOT_REQUEST] {
        forget(book, kind).await?;
    }
    for name in &found.key_pairs {
        progress.step("Deleting the key pair");
        delete::key_pair(&region.api, name).await?;
    }
    forget(book, KEY_PAIR).await?;
    for id in &found.own_groups {
        progress.step("Deleting the security group");
        if let GroupFate::UsedBy(users) = delete::group(region, id).await? {
            return Err(DriverError::refused(format!(
                "The security group {id} of `{}` is in use by {}",
                host.name,
                users.join(", ")
            ))
            .with_hint("Take it from there, and run the same command again; all else is removed"));
        }
    }
    forget(book, SECURITY_GROUP).await?;
    for (_, id, _) in found.shared_groups.iter().filter(|(_, _, is_ours)| *is_ours) {
        // The last of those who share it takes it along.
        delete::group(region, id).await?;
    }
    forget(book, SHARED_GROUP).await?;
    book.made = Made { plan: book.made.plan.take(), ..Made::default() };
    book.save().await
}

/// Looks until all that may be there was seen, or for as long as something that was made may be hidden: it was asked
/// for, and nobody heard the answer; or the answers are older than it is; or it has been gone for long.
async fn find(
    region: &Region,
    host: &HostView,
    recorded: &Recorded,
    progress: &dyn Progress,
) -> Result<Found, DriverError> {
    // An instance that was asked for, without an answer, may be there and hidden for as long as anything.
    let mut backoff = match &recorded.instance {
        (true, None) => region.pace.for_consistency(),
        _ => region.pace.for_absence(),
    };
    let mut is_first = true;
    loop {
        let found = look(&region.api, host, recorded).await.map_err(|error| not_looked_for(host, error))?;
        if found.has_all(recorded) {
            return Ok(found);
        }
        if std::mem::take(&mut is_first) {
            progress.step("Looking for what may have been made");
        }
        if !backoff.wait().await {
            return Ok(found);
        }
    }
}

fn not_looked_for(host: &HostView, error: ApiError) -> DriverError {
    error.during(format!("Could not look for what there is of `{}`", host.name))
}

/// All that there was of a kind is gone.
async fn forget(book: &mut Book<'_>, kind: &str) -> Result<(), DriverError> {
    for name in book.named(kind) {
        book.gone(kind, &name).await?;
    }
    Ok(())
}
