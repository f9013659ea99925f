//! One account in one region, as seen by one run of the program: the API, and what was asked once for all hosts.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::{
    BehaviorVersion, Region as RegionName, profile::ProfileFileCredentialsProvider, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use machine_driver::DriverError;

use crate::{
    api::Api,
    backoff::Pace,
    config::{self, Scope},
    memo::Memo,
    state::{Image, Plan},
    watch::Watch,
};

const CONNECT_AT_MOST: Duration = Duration::from_secs(10);
/// A reply that was lost is asked for again after this.
const ATTEMPT_AT_MOST: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 8;

/// An account in a region.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) api: Arc<Api>,
    pub(crate) pace: Pace,
    pub(crate) watch: Watch,
    pub(crate) architectures: Memo<String, Vec<String>>,
    pub(crate) images: Memo<(String, Option<String>, Vec<String>), Image>,
    pub(crate) plans: Memo<String, Plan>,
    pub(crate) named_groups: Memo<(Vec<String>, String), Vec<String>>,
    pub(crate) own_addresses: Memo<String, IpAddr>,
    pub(crate) rehearsals: Memo<String, ()>,
    /// Security groups that were made by this very run, and that nothing was done with yet.
    new_groups: Mutex<HashSet<String>>,
}

impl Region {
    /// Reads the SDK's configuration: environment, profiles, SSO, roles. Asks AWS nothing yet.
    pub(crate) async fn open(scope: &Scope, pace: Pace) -> Result<Arc<Self>, DriverError> {
        let attempts = if scope.attempts == 0 { ATTEMPTS } else { scope.attempts };
        let retries = RetryConfig::standard()
            .with_max_attempts(attempts)
            .with_initial_backoff(pace.first_retry)
            .with_max_backoff(pace.longest_retry);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_AT_MOST)
            .operation_attempt_timeout(ATTEMPT_AT_MOST)
            .build();
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).retry_config(retries).timeout_config(timeouts);
        if let Some(profile) = &scope.profile {
            // A profile that is named wins over keys in the environment, which the SDK's own chain would take first.
            let provider = ProfileFileCredentialsProvider::builder().profile_name(profile).build();
            loader = loader.profile_name(profile).credentials_provider(provider);
        }
        if let Some(region) = &scope.region {
            loader = loader.region(RegionName::new(region.clone()));
        }
        if let Some(endpoint) = &scope.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let sdk = loader.load().await;
        let Some(region) = sdk.region().filter(|region| !region.as_ref().is_empty()) else {
            return Err(DriverError::invalid("No region is named")
                .with_hint("Name it with `--aws-region`, AWS_REGION or the profile, such as eu-west-1"));
        };
        let region = config::region(region.as_ref())?;
        let api = Arc::new(Api::new(region, scope.profile.clone(), &sdk));
        Ok(Arc::new(Self {
            watch: Watch::new(api.clone(), pace.poll),
            api,
            pace,
            architectures: Memo::default(),
            images: Memo::default(),
            plans: Memo::default(),
            named_groups: Memo::default(),
            own_addresses: Memo::default(),
            rehearsals: Memo::default(),
            new_groups: Mutex::default(),
        }))
    }

    fn new_groups(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.new_groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a security group that was made a moment ago.
    pub(crate) fn note_new_group(&self, id: &str) {
        self.new_groups().insert(id.to_owned());
    }

    /// Whether a security group is known to be there, and empty, without asking.
    pub(crate) fn is_new_group(&self, id: &str) -> bool {
        self.new_groups().contains(id)
    }

    /// From now on AWS has to be asked what a security group lets in.
    pub(crate) fn use_group(&self, id: &str) {
        self.new_groups().remove(id);
    }
}
