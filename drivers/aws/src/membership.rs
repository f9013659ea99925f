//! Who is let in to a host: what its groups let in, and which groups its instance is in.

use std::collections::BTreeSet;

use machine_driver::{DriverError, HostView, Progress, Rule, Source};

use crate::{
    api::Call,
    caller,
    config::Config,
    docker_machine,
    error::Answer as _,
    groups, ingress, launch,
    region::Region,
    rules,
    state::{Book, SHARED_GROUP},
};

/// What is let in: what was asked for, and what the host's options say.
pub(crate) fn wanted(config: &Config, asked: &[Rule]) -> Vec<Rule> {
    let mut wanted = asked.to_vec();
    if config.swarm_manager {
        wanted.extend(rules::for_managers());
    }
    wanted.extend(rules::for_open_ports(&config.open_ports));
    wanted.extend(config.swarm.iter().flat_map(|swarm| rules::for_members(swarm)));
    wanted
}

/// The clusters whose members rules let in.
pub(crate) fn clusters(rules: &[Rule]) -> BTreeSet<&str> {
    rules
        .iter()
        .filter_map(|rule| match &rule.from {
            Source::Members(name) => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// Lets in what the options say and these rules, and no more what was let in for earlier ones. The members of a cluster
/// are those who have its group: a host for which no rule names the cluster any more leaves it.
pub(crate) async fn admit(
    region: &Region,
    host: &HostView,
    config: &Config,
    asked: &[Rule],
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    if docker_machine::is_its(&host.config) {
        // Its groups are not ours.
        return Ok(());
    }
    let Some(plan) = book.made.plan.clone() else {
        return Err(DriverError::not_ready(format!("`{}` is not made yet", host.name)));
    };
    let is_known = book.made.admitted.as_deref() == Some(asked) || book.made.is_of_before;
    if is_known && book.made.own_group.is_none() {
        // The user's own groups do not follow the caller.
        return Ok(());
    }
    let wanted = wanted(config, asked);
    let from_networks = if config.groups_read_only {
        BTreeSet::new()
    } else {
        match caller::networks(region, config, &plan).await {
            Ok(callers) => rules::from_networks(&wanted, &callers),
            // Nothing else is new: that this cannot be found out is no reason not to work with a host that runs.
            Err(error) if is_known => {
                progress.note(&format!("{error}; the security group stays as it is"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    };
    if is_known && book.made.opening.is_empty() && book.made.rules == from_networks {
        return Ok(());
    }
    progress.step("Letting in what is wanted");
    // Until all of it is done, nothing vouches for it.
    book.made.admitted = None;
    // Those of an earlier change that was cut off are in the journal only.
    let shared = book.journal.entries().into_iter().filter(|entry| entry.kind == SHARED_GROUP);
    let before: Vec<String> =
        book.made.groups.iter().cloned().chain(shared.filter_map(|entry| entry.id)).collect();
    let groups = groups::ensure(region, host, config, &plan, &clusters(&wanted), book, progress).await?;
    if let Some(own) = &groups.own {
        ingress::reconcile(region, own, from_networks, book).await?;
    } else if let (false, Some(first)) = (config.groups_read_only, groups.named.first()) {
        // The user's own: nothing is ever taken from it.
        ingress::allow(region, first, from_networks).await?;
    }
    for (cluster, group) in &groups.shared {
        let mut missing = rules::of_members(&wanted, cluster);
        missing.retain(|rule| !rules::has(&group.present, rule, &group.id));
        ingress::allow(region, &group.id, missing).await?;
    }
    let now: BTreeSet<String> = book.made.groups.iter().cloned().collect();
    if let Some(id) = book.made.instance.clone().filter(|_| book.made.joined != now) {
        join(region, host, &id, &before, &now).await?;
        book.made.joined = now;
    }
    book.made.admitted = Some(asked.to_vec());
    book.save().await
}

/// Has an instance be in these groups, and no more in those that it had because of us before. Others stay.
async fn join(
    region: &Region,
    host: &HostView,
    id: &str,
    before: &[String],
    now: &BTreeSet<String>,
) -> Result<(), DriverError> {
    let attempt = || format!("Could not change the security groups of the instance {id}");
    let found =
        region.watch.find(id, region.pace.for_absence()).await.map_err(|error| error.during(attempt()))?;
    let instance = launch::living(host, id, found)?;
    let mut groups = instance.groups.clone();
    groups.retain(|group| !before.contains(group));
    groups.extend(now.iter().cloned());
    if instance.groups == groups {
        return Ok(());
    }
    let answer = region
        .api
        .modify_instance_attribute()
        .instance_id(id)
        .set_groups(Some(groups.into_iter().collect()))
        .send()
        .await
        .answer(Call::ModifyInstanceAttribute, &region.api);
    answer.map(drop).map_err(|error| error.during(attempt()))
}
