//! Removes what was made at AWS, in the order in which it can go; what is gone already is a success.

use std::{sync::Arc, time::Duration};

use aws_sdk_ec2::types::{InstanceStateName, Volume, VolumeState};
use machine_driver::{DriverError, Progress};

use crate::{
    api::{Api, Call},
    error::{Answer as _, ApiError},
    groups,
    patience::Patience,
    placement::filter,
    region::Region,
    watch,
};

/// Termination takes a minute or two; an instance that shuts down slowly takes longer.
const TERMINATION_AT_MOST: Duration = Duration::from_secs(900);
/// An instance that was asked for a moment ago may not be listed yet.
pub(crate) const HIDDEN_AT_MOST: Duration = Duration::from_secs(15);
/// Network interfaces let go of their groups soon after their instance has ended.
const RELEASE_AT_MOST: Duration = Duration::from_secs(180);

/// Ends instances and waits until they have ended.
pub(crate) async fn terminate(
    region: &Arc<Region>,
    ids: &[String],
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    if ids.is_empty() {
        return Ok(());
    }
    progress.step(if ids.len() == 1 { "Terminating the instance" } else { "Terminating the instances" });
    let mut hidden = Patience::of(HIDDEN_AT_MOST);
    for id in ids {
        loop {
            let answer = region
                .api
                .terminate_instances()
                .instance_ids(id)
                .send()
                .await
                .answer(Call::TerminateInstances, &region.api);
            match answer {
                Ok(_) => break,
                // Long gone, or started a moment ago and not known everywhere yet.
                Err(error) if error.is_not_found() => {
                    if !hidden.wait().await {
                        break;
                    }
                }
                Err(error) if error.is("OperationNotPermitted") => {
                    return Err(DriverError::refused(format!("The instance {id} is protected against termination"))
                        .with_hint(format!(
                            "Switch that off with `aws ec2 modify-instance-attribute --region {} --instance-id {id} --no-disable-api-termination`, and run the same command again",
                            region.api.region
                        ))
                        .with_source(error));
                }
                Err(error) => return Err(error.during(format!("Could not terminate {id}"))),
            }
        }
    }
    let began = std::time::Instant::now();
    for id in ids {
        loop {
            let now = watch::look(region, id)
                .await
                .map_err(|error| error.during(format!("Could not look for {id}")))?;
            if now.is_none_or(|instance| instance.state == InstanceStateName::Terminated) {
                break;
            }
            if began.elapsed() > TERMINATION_AT_MOST {
                return Err(DriverError::failed(format!("The instance {id} does not end"))
                    .with_hint("Run the same command again in a while"));
            }
        }
    }
    Ok(())
}

/// Takes back requests for spot instances, open or fulfilled.
pub(crate) async fn cancel_spot_requests(api: &Api, ids: &[String]) -> Result<(), DriverError> {
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

/// The volumes that carry a tag and have not gone with their instance.
pub(crate) async fn volumes(api: &Api, by: &str, values: &[String]) -> Result<Vec<Volume>, ApiError> {
    let by = filter(by, values.iter().cloned());
    let pages = api.describe_volumes().filters(by).into_paginator().items().send();
    let found = pages.collect::<Result<Vec<_>, _>>().await.answer(Call::DescribeVolumes, api)?;
    let stays =
        |volume: &Volume| !matches!(volume.state(), Some(VolumeState::Deleting | VolumeState::Deleted));
    Ok(found.into_iter().filter(stays).collect())
}

pub(crate) async fn delete_volumes(api: &Api, ids: &[String]) -> Result<(), DriverError> {
    for id in ids {
        let mut patience = Patience::of(RELEASE_AT_MOST);
        loop {
            let answer = api.delete_volume().volume_id(id).send().await.answer(Call::DeleteVolume, api);
            match answer {
                Ok(_) => break,
                Err(error) if error.is_not_found() => break,
                Err(error) if error.is("VolumeInUse") && patience.wait().await => {}
                Err(error) => return Err(error.during(format!("Could not delete the volume {id}"))),
            }
        }
    }
    Ok(())
}

/// Deleting a key pair that is not there is a success at AWS as well.
pub(crate) async fn delete_key_pair(api: &Api, name: &str) -> Result<(), DriverError> {
    let answer = api.delete_key_pair().key_name(name).send().await.answer(Call::DeleteKeyPair, api);
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.during(format!("Could not delete the key pair {name}"))),
    }
}

/// Whether a group went, or stays because others use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupFate {
    Gone,
    UsedBy(Vec<String>),
}

/// Deletes a group as soon as nothing uses it. Others that use it are named at once: they would not go by waiting.
pub(crate) async fn delete_group(api: &Api, id: &str) -> Result<GroupFate, DriverError> {
    let mut patience = Patience::of(RELEASE_AT_MOST);
    loop {
        let answer =
            api.delete_security_group().group_id(id).send().await.answer(Call::DeleteSecurityGroup, api);
        let error = match answer {
            Ok(_) => return Ok(GroupFate::Gone),
            Err(error) if error.is_not_found() => return Ok(GroupFate::Gone),
            Err(error) => error,
        };
        let attempt = || format!("Could not delete the security group {id}");
        if !error.is_any(&["DependencyViolation", "InvalidGroup.InUse"]) {
            return Err(error.during(attempt()));
        }
        let users = users(api, id).await.map_err(|error| error.during(attempt()))?;
        if !users.is_empty() {
            return Ok(GroupFate::UsedBy(users));
        }
        if !patience.wait().await {
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

/// The ids of the groups that carry a tag.
pub(crate) async fn group_ids(api: &Api, by: &str, values: &[String]) -> Result<Vec<String>, ApiError> {
    Ok(groups::find(api, by, values).await?.into_iter().filter_map(|group| group.group_id).collect())
}
