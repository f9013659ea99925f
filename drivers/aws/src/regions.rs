//! The accounts and regions that one run of the program has to do with, each opened once.

use std::{collections::HashMap, sync::Arc};

use machine_driver::{DriverError, HostView, Options};
use tokio::sync::Mutex;

use crate::{
    backoff::Pace,
    config::{self, Config, Scope},
    record,
    region::Region,
    state::Plan,
};

/// What is the same for several hosts (images, subnets, the caller's address) is asked for once in the life of this
/// value, and instances that are waited for are asked for together.
#[derive(Debug, Clone)]
pub(crate) struct Regions {
    pace: Pace,
    opened: Arc<Mutex<HashMap<Scope, Arc<Region>>>>,
}

impl Regions {
    pub(crate) fn paced(pace: Pace) -> Self {
        Self { pace, opened: Arc::default() }
    }

    pub(crate) async fn open(&self, scope: &Scope) -> Result<Arc<Region>, DriverError> {
        let mut opened = self.opened.lock().await;
        if let Some(region) = opened.get(scope) {
            return Ok(region.clone());
        }
        let region = Region::open(scope, self.pace).await?;
        // A region that was found in the environment is the same as one that is named.
        let named = Scope { region: Some(region.api.region.clone()), ..scope.clone() };
        let region = opened.entry(named).or_insert(region).clone();
        opened.insert(scope.clone(), region.clone());
        Ok(region)
    }

    /// The region that a host is in, or is to be in, with its options.
    pub(crate) async fn of_host(
        &self,
        host: &HostView,
        plan: Option<&Plan>,
    ) -> Result<(Config, Arc<Region>), DriverError> {
        let config = record::config(host)?;
        let mut scope = config.scope.clone();
        if let Some(plan) = plan {
            scope.region = Some(plan.region.clone());
        }
        let region = self.open(&scope).await?;
        Ok((config, region))
    }
}

/// One scope for each region that is named; the SDK's own region if none is.
pub(crate) fn scopes(options: &Options) -> Result<Vec<Scope>, DriverError> {
    let scope = Scope::from_options(options)?;
    let regions = options.list("aws-region");
    if regions.is_empty() {
        return Ok(vec![scope]);
    }
    let mut scopes: Vec<Scope> = Vec::new();
    for region in regions {
        let named = Scope { region: Some(config::region(region)?), ..scope.clone() };
        if !scopes.contains(&named) {
            scopes.push(named);
        }
    }
    Ok(scopes)
}
