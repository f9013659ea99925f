//! One account in one region, as seen by one run of the program: the API, and what was asked once for all hosts.

use std::{collections::HashMap, fmt::Debug, hash::Hash, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, Region as RegionName, profile::ProfileFileCredentialsProvider, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use machine_driver::DriverError;
use tokio::sync::Mutex;

use crate::{
    api::Api,
    config::{self, Scope},
    state::{Image, Plan},
    watch::Watch,
};

const CONNECT_AT_MOST: Duration = Duration::from_secs(10);
/// A reply that was lost is asked for again after this.
const ATTEMPT_AT_MOST: Duration = Duration::from_secs(30);
/// EC2's own advice is to begin with a fraction of a second; the SDK doubles it and adds jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 8;

/// What was found out, by what was asked. Whoever asks the same at the same time waits for the one answer; failures are
/// not kept.
#[derive(Debug)]
pub(crate) struct Memo<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    /// The question is boxed, because futures of the SDK's calls are large.
    pub(crate) async fn get<E>(
        &self,
        key: K,
        ask: Pin<Box<impl Future<Output = Result<V, E>>>>,
    ) -> Result<V, E> {
        let mut known = self.0.lock().await;
        if let Some(value) = known.get(&key) {
            return Ok(value.clone());
        }
        let value = ask.await?;
        known.insert(key, value.clone());
        Ok(value)
    }
}

/// An account in a region.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) api: Api,
    pub(crate) watch: Watch,
    pub(crate) architectures: Memo<String, Vec<String>>,
    pub(crate) images: Memo<(String, Option<String>, Vec<String>), Image>,
    pub(crate) plans: Memo<String, Plan>,
    pub(crate) named_groups: Memo<(Vec<String>, String), Vec<String>>,
    pub(crate) own_addresses: Memo<String, IpAddr>,
    pub(crate) rehearsals: Memo<String, ()>,
}

impl Region {
    /// Reads the SDK's configuration: environment, profiles, SSO, roles. Asks AWS nothing yet.
    pub(crate) async fn open(scope: &Scope) -> Result<Arc<Self>, DriverError> {
        let attempts = if scope.attempts == 0 { ATTEMPTS } else { scope.attempts };
        let retries = RetryConfig::standard()
            .with_max_attempts(attempts)
            .with_initial_backoff(FIRST_PAUSE)
            .with_max_backoff(LONGEST_PAUSE);
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
        Ok(Arc::new(Self {
            api: Api::new(region, scope.profile.clone(), &sdk),
            watch: Watch::default(),
            architectures: Memo::default(),
            images: Memo::default(),
            plans: Memo::default(),
            named_groups: Memo::default(),
            own_addresses: Memo::default(),
            rehearsals: Memo::default(),
        }))
    }
}
