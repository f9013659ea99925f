//! Deletes one thing at AWS, whoever asks; what is gone already is a success.
//!
//! Our policy allows it only on what carries our tags, and what is gone has none: a refusal is looked into before it is
//! believed.

use std::{sync::Arc, time::Duration};

use aws_sdk_ec2::types::InstanceStateName;
use machine_driver::{DriverError, Progress};

use crate::{
    api::{Api, Call, filter},
    error::{Answer as _, ApiError},
    groups,
    region::Region,
    waiting::Waiting,
    watch::{self, Instance},
};

/// Termination takes a minute or two; an instance that shuts down slowly takes longer.
const TERMINATION_AT_MOST: Duration = Duration::from_mins(15);
/// Network interfaces let go of their groups soon after their instance has ended.
const RELEASE_AT_MOST: Duration = Duration::from_mins(3);

/// Ends instances and waits until they have ended.
pub(crate) async fn instances(
    region: &Arc<Region>,
    ids: &[String],
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    if ids.is_empty() {
        return Ok(());
    }
    progress.step(if ids.len() == 1 { "Terminating the instance" } else { "Terminating the instances" });
    for id in ids {
        terminate(region, id).await?;
    }
    let has_ended = |seen: Option<Instance>| {
        Ok(seen.is_none_or(|instance| instance.state == InstanceStateName::Terminated).then_some(()))
    };
    for id in ids {
        Waiting::new(region, id, "end", TERMINATION_AT_MOST)
            .for_one_that_goes()
            .with_hint("Run the same command again in a while")
            .until(has_ended)
            .await?;
    }
    Ok(())
}

async fn terminate(region: &Arc<Region>, id: &str) -> Result<(), DriverError> {
    let attempt = || format!("Could not terminate {id}");
    let mut hidden = region.pace.for_absence();
    loop {
        let answer = region
            .api
            .terminate_instances()
            .instance_ids(id)
            .send()
            .await
            .answer(Call::TerminateInstances, &region.api);
        let Err(error) = answer else { return Ok(()) };
        if error.is("OperationNotPermitted") {
            return Err(DriverError::refused(format!("The instance {id} is protected against termination"))
                .with_hint(format!(
                    "Switch that off with `aws ec2 modify-instance-attribute --region {} --instance-id {id} --no-disable-api-termination`, and run the same command again",
                    region.api.region
                ))
                .with_source(error));
        }
        if !error.is_not_found() && !error.is_denied() {
            return Err(error.during(attempt()));
        }
        // Started a moment ago and not known everywhere yet; or gone by now, and its tags with it.
        let now = region.watch.next(id).await.map_err(|error| error.during(attempt()))?;
        if now.as_ref().is_some_and(Instance::is_ending) {
            return Ok(());
        }
        if now.is_some() && error.is_denied() {
            return Err(error.during(attempt()));
        }
        if !hidden.wait().await {
            return if now.is_none() { Ok(()) } else { Err(error.during(attempt())) };
        }
    }
}

/// Takes back requests for spot instances, open or fulfilled.
pub(crate) async fn spot_requests(api: &Api, ids: &[String]) -> Result<(), DriverError> {
    if ids.is_empty() {
        return Ok(());
    }
    let answer = api
        .cancel_spot_instance_requests()
        .set_spot_instance_request_ids(Some(ids.to_vec()))
        .send()
        .await
        .answer(Call::CancelSpotInstanceRequests, api);
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.during(format!("Could not cancel the spot request {}", ids.join(", ")))),
    }
}

/// Deletes a key pair; one that is not there is a success at AWS as well.
pub(crate) async fn key_pair(api: &Api, name: &str) -> Result<(), DriverError> {
    let attempt = || format!("Could not delete the key pair {name}");
    let answer = api.delete_key_pair().key_name(name).send().await.answer(Call::DeleteKeyPair, api);
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) if error.is_denied() => match has_key_pair(api, name).await {
            Ok(false) => Ok(()),
            _ => Err(error.during(attempt())),
        },
        Err(error) => Err(error.during(attempt())),
    }
}

/// Whether there is a key pair of that name, as far as AWS shows it yet.
pub(crate) async fn has_key_pair(api: &Api, name: &str) -> Result<bool, ApiError> {
    let by = filter("key-name", [name]);
    let answer = api.describe_key_pairs().filters(by).send().await.answer(Call::DescribeKeyPairs, api)?;
    Ok(!answer.key_pairs().is_empty())
}

/// Whether a group went, or stays because others use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupFate {
    Gone,
    UsedBy(Vec<String>),
}

/// Deletes a group as soon as nothing uses it. Others that use it are named at once: they would not go by waiting.
pub(crate) async fn group(region: &Region, id: &str) -> Result<GroupFate, DriverError> {
    let api = &region.api;
    let mut backoff = region.pace.up_to(RELEASE_AT_MOST);
    loop {
        let answer =
            api.delete_security_group().group_id(id).send().await.answer(Call::DeleteSecurityGroup, api);
        let error = match answer {
            Ok(_) => return Ok(GroupFate::Gone),
            Err(error) if error.is_not_found() => return Ok(GroupFate::Gone),
            Err(error) => error,
        };
        let attempt = || format!("Could not delete the security group {id}");
        if error.is_denied() && is_unknown(api, id).await? {
            return Ok(GroupFate::Gone);
        }
        if !error.is_any(&["DependencyViolation", "InvalidGroup.InUse"]) {
            return Err(error.during(attempt()));
        }
        let users = users(api, id).await.map_err(|error| error.during(attempt()))?;
        if !users.is_empty() {
            return Ok(GroupFate::UsedBy(users));
        }
        if !backoff.wait().await {
            return Err(error.during(attempt()));
        }
    }
}

/// The instances that live and have a group, and interfaces of other things.
async fn users(api: &Api, group: &str) -> Result<Vec<String>, ApiError> {
    let mut users: Vec<String> = watch::describe(api, vec![filter("instance.group-id", [group])])
        .await?
        .into_iter()
        .filter(|instance| !instance.is_ending())
        .map(|instance| instance.id)
        .collect();
    let answer = api
        .describe_network_interfaces()
        .filters(filter("group-id", [group]))
        .send()
        .await
        .answer(Call::DescribeNetworkInterfaces, api)?;
    // An interface of an instance comes and goes with it; it is the others that stay.
    for interface in answer.network_interfaces() {
        let of_instance = interface.attachment().is_some_and(|attachment| attachment.instance_id().is_some());
        if !of_instance {
            users.extend(interface.network_interface_id().map(str::to_owned));
        }
    }
    Ok(users)
}

async fn is_unknown(api: &Api, group: &str) -> Result<bool, DriverError> {
    let found = groups::find(api, vec![filter("group-id", [group])]).await;
    found.map(|found| found.is_empty()).map_err(|error| error.during(format!("Could not look for {group}")))
}
