//! Which groups an instance is in, and what these let in, while it runs.

use machine_driver::{DriverError, HostView, Progress, Rule};

use crate::{
    api::Call,
    config::Config,
    error::Answer as _,
    groups, launch,
    region::Region,
    state::{Book, SHARED_GROUP},
};

/// Lets in what the options say and these rules, and no more what was let in for earlier ones. The members of a cluster
/// are those who have its group: a host for which no rule names the cluster any more leaves it.
pub(crate) async fn admit(
    region: &Region,
    host: &HostView,
    config: &Config,
    rules: &[Rule],
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let Some(plan) = book.made.plan.clone() else {
        return Err(DriverError::not_ready(format!("`{}` is not made yet", host.name)));
    };
    let is_settled = book.made.admitted == rules
        && !book.made.groups.is_empty()
        && groups::are_current(region, config, &plan, &book.made).await?;
    if is_settled {
        return Ok(());
    }
    progress.step("Letting in what is wanted");
    // Those of an earlier change that was cut off are in the journal only.
    let shared = book.journal.entries().into_iter().filter(|entry| entry.kind == SHARED_GROUP);
    let before: Vec<String> =
        book.made.groups.iter().cloned().chain(shared.filter_map(|entry| entry.id)).collect();
    groups::ensure(region, host, config, &plan, rules, book, progress).await?;
    if let Some(id) = book.made.instance.clone() {
        join(region, host, &id, &before, &book.made.groups).await?;
    }
    rules.clone_into(&mut book.made.admitted);
    book.save().await
}

/// Has an instance be in these groups, and no more in those that it had because of us before. Others stay.
async fn join(
    region: &Region,
    host: &HostView,
    id: &str,
    before: &[String],
    now: &[String],
) -> Result<(), DriverError> {
    let attempt = || format!("Could not change the security groups of the instance {id}");
    let found =
        region.watch.find(id, region.pace.for_absence()).await.map_err(|error| error.during(attempt()))?;
    let instance = found.filter(|instance| !instance.is_ending()).ok_or_else(|| launch::gone(host, id))?;
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
