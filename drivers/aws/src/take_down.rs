//! Takes down a host: everything that its journal names or that carries its id, in the order in which it can go.

use std::{sync::Arc, time::Duration};

use machine_driver::{DriverError, HostView, Progress};

use crate::{
    adopted,
    error::ApiError,
    groups,
    patience::Patience,
    placement::filter,
    region::Region,
    removal::{self, GroupFate},
    state::{Book, INSTANCE, KEY_PAIR, Made, SECURITY_GROUP, SHARED_GROUP, SPOT_REQUEST},
    tags, watch,
};

/// Removes the host in this region. `salvaging`: the journal is lost, and only the host's id is known.
pub(crate) async fn take_down(
    region: &Arc<Region>,
    host: &HostView,
    book: &mut Book<'_>,
    progress: &dyn Progress,
    salvaging: bool,
) -> Result<(), DriverError> {
    let api = &region.api;
    remove_instance(region, host, book, progress, salvaging).await?;
    let failed =
        |error: ApiError| error.during(format!("Could not look for what is left of `{}`", &host.name));
    let by = format!("tag:{}", tags::ID);
    let id = vec![host.id.to_string()];
    let volumes = removal::volumes(api, &by, &id).await.map_err(failed)?;
    let volumes: Vec<String> = volumes.into_iter().filter_map(|volume| volume.volume_id).collect();
    removal::delete_volumes(api, &volumes).await?;
    let mut key_pairs = book.named(KEY_PAIR);
    if salvaging {
        key_pairs.push(groups::own_name(host));
    }
    if adopted::is_old(&host.config) {
        key_pairs.extend(book.made.key_pair.clone());
    }
    for name in key_pairs {
        progress.step("Deleting the key pair");
        removal::delete_key_pair(api, &name).await?;
        book.gone(KEY_PAIR, &name).await?;
    }
    remove_groups(region, host, book, progress, salvaging).await?;
    book.made = Made { plan: book.made.plan.take(), ..Made::default() };
    book.save().await
}

/// Ends every instance that carries the host's id, with its spot request.
async fn remove_instance(
    region: &Arc<Region>,
    host: &HostView,
    book: &mut Book<'_>,
    progress: &dyn Progress,
    salvaging: bool,
) -> Result<(), DriverError> {
    let names = book.named(INSTANCE);
    let mut ids: Vec<String> = book.made.instance.clone().into_iter().collect();
    let mut requests = book.named(SPOT_REQUEST);
    if ids.is_empty() && (!names.is_empty() || salvaging) {
        // It was asked for, and nobody heard the answer.
        progress.step("Looking for an instance that may have been started");
        let by = format!("tag:{}", tags::ID);
        // A record that is damaged is an old one.
        let limit = if salvaging { Duration::ZERO } else { removal::HIDDEN_AT_MOST };
        let mut patience = Patience::of(limit);
        loop {
            let found =
                watch::describe(&region.api, vec![filter(&by, [host.id.to_string()])]).await.map_err(
                    |error| error.during(format!("Could not look for the instance of `{}`", &host.name)),
                )?;
            requests.extend(found.iter().filter_map(|instance| instance.spot_request.clone()));
            ids.extend(found.into_iter().map(|instance| instance.id));
            if !ids.is_empty() || !patience.wait().await {
                break;
            }
        }
    }
    removal::terminate(region, &ids, progress).await?;
    requests.dedup();
    removal::cancel_spot_requests(&region.api, &requests).await?;
    for name in names {
        book.gone(INSTANCE, &name).await?;
    }
    for request in book.named(SPOT_REQUEST) {
        book.gone(SPOT_REQUEST, &request).await?;
    }
    Ok(())
}

async fn remove_groups(
    region: &Arc<Region>,
    host: &HostView,
    book: &mut Book<'_>,
    progress: &dyn Progress,
    salvaging: bool,
) -> Result<(), DriverError> {
    let api = &region.api;
    let entries = book.journal.entries();
    let failed = |error: ApiError| error.during(format!("Could not look for the groups of `{}`", &host.name));
    if salvaging || entries.iter().any(|entry| entry.kind == SECURITY_GROUP) {
        progress.step("Deleting the security group");
        let ids = match &book.made.own_group {
            Some(id) => vec![id.clone()],
            None => removal::group_ids(api, &format!("tag:{}", tags::ID), &[host.id.to_string()])
                .await
                .map_err(failed)?,
        };
        for id in ids {
            if let GroupFate::UsedBy(users) = removal::delete_group(api, &id).await? {
                return Err(DriverError::refused(format!(
                    "The security group {id} of `{}` is in use by {}",
                    host.name,
                    users.join(", ")
                ))
                .with_hint("Take it from there, and run the same command again; all else is removed"));
            }
        }
        for name in book.named(SECURITY_GROUP) {
            book.gone(SECURITY_GROUP, &name).await?;
        }
    }
    for entry in entries.iter().filter(|entry| entry.kind == SHARED_GROUP) {
        let ids = match &entry.id {
            Some(id) => vec![id.clone()],
            None => {
                removal::group_ids(api, &format!("tag:{}", tags::NAME), std::slice::from_ref(&entry.name))
                    .await
                    .map_err(failed)?
            }
        };
        for id in ids {
            // The last of those who share it takes it along.
            removal::delete_group(api, &id).await?;
        }
        book.gone(SHARED_GROUP, &entry.name).await?;
    }
    Ok(())
}
