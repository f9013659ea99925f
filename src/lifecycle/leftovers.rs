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
    #[error("Nothing was removed: what of it belongs to `{host}` cannot be told without its record")]
    Unreadable { host: String, source: StoreError },
}

impl LeftoversError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Driver(error) => error.hint().map(str::to_owned),
            Self::Unreadable { host, .. } => {
                Some(format!("Repair that record, or remove the host with `machine rm -f {host}`"))
            }
        }
    }
}

/// What was found, and what stands in the way of believing it.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// What belongs to no host whose record could be read.
    pub found: Vec<Leftover>,
    /// Hosts whose record cannot be read: whatever was found may be theirs.
    pub unreadable: Vec<(String, StoreError)>,
}

/// Everything at the provider that carries our marks, without what belongs to a host of this store.
pub async fn leftovers(
    context: &Context,
    driver: &dyn Driver,
    options: &Options,
) -> Result<Leftovers, LeftoversError> {
    let mut found = driver.leftovers(options).await?;
    // Read afterwards: whatever was made meanwhile is in a record by now.
    let mut unreadable = Vec::new();
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    let mut shared: BTreeSet<String> = BTreeSet::new();
    for (name, record) in context.store.list()? {
        match record {
            Ok(record) => {
                hosts.insert(record.id.to_string());
                shared.extend(record.journal.into_iter().map(|entry| entry.name));
            }
            Err(error) => {
                let identity =
                    name.parse().ok().and_then(|name| context.store.identity(&name).ok().flatten());
                hosts.extend(identity.map(|identity| identity.id.to_string()));
                unreadable.push((name, error));
            }
        }
    }
    found.retain(|leftover| match &leftover.host_id {
        Some(id) => !hosts.contains(id),
        None => !shared.contains(&leftover.host_name),
    });
    Ok(Leftovers { found, unreadable })
}

/// Removes them. Refuses as long as there are hosts of which nobody can say what belongs to them.
pub async fn remove_leftovers(
    driver: &dyn Driver,
    options: &Options,
    unreadable: Vec<(String, StoreError)>,
    chosen: &[Leftover],
    progress: &dyn Progress,
) -> Result<(), LeftoversError> {
    if let Some((host, source)) = unreadable.into_iter().next() {
        return Err(LeftoversError::Unreadable { host, source });
    }
    Ok(driver.remove_leftovers(options, chosen, progress).await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use machine_driver::Silent;
    use machine_driver_none::NoDriver;

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn nothing_is_removed_as_long_as_a_record_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        std::fs::create_dir_all(folder.path().join("machines/bad")).unwrap();
        std::fs::write(folder.path().join("machines/bad/config.json"), "{").unwrap();
        let unreadable: Vec<_> = store
            .list()
            .unwrap()
            .into_iter()
            .filter_map(|(name, record)| Some((name, record.err()?)))
            .collect();
        let (driver, options) = (NoDriver::new(), Options::default());
        let refused = remove_leftovers(&driver, &options, unreadable, &[], &Silent).await.unwrap_err();
        assert!(matches!(&refused, LeftoversError::Unreadable { host, .. } if host == "bad"), "{refused}");
        assert!(refused.hint().unwrap().contains("rm -f bad"));
        // The driver would have been asked otherwise.
        let asked = remove_leftovers(&driver, &options, Vec::new(), &[], &Silent).await.unwrap_err();
        assert!(matches!(asked, LeftoversError::Driver(_)), "{asked}");
    }
}
