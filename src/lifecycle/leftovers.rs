//! What carries our marks at a provider and belongs to no record.

use std::collections::BTreeSet;

use machine_driver::{Driver, DriverError, Leftover, Options, Progress};

use super::Context;
use crate::store::StoreError;

/// What is left could not be found.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl LeftoversError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Driver(error) => error.hint().map(str::to_owned),
        }
    }
}

/// Everything at the provider that carries our marks, without what belongs to a host of this store. A host whose record
/// cannot be read is a host all the same.
pub async fn leftovers(
    context: &Context,
    driver: &dyn Driver,
    options: &Options,
) -> Result<Vec<Leftover>, LeftoversError> {
    let mut found = driver.leftovers(options).await?;
    // Read afterwards: whatever was made meanwhile is in a record by now.
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    let mut shared: BTreeSet<String> = BTreeSet::new();
    for (name, record) in context.store.list()? {
        if let Ok(record) = record {
            hosts.insert(record.id.to_string());
            shared.extend(record.journal.into_iter().map(|entry| entry.name));
        } else {
            let identity = name.parse().ok().and_then(|name| context.store.identity(&name));
            hosts.extend(identity.map(|identity| identity.id.to_string()));
        }
    }
    found.retain(|leftover| match &leftover.host_id {
        Some(id) => !hosts.contains(id),
        None => !shared.contains(&leftover.host_name),
    });
    Ok(found)
}

/// Removes them.
pub async fn remove_leftovers(
    driver: &dyn Driver,
    options: &Options,
    leftovers: &[Leftover],
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    driver.remove_leftovers(options, leftovers, progress).await
}
