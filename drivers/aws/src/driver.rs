//! The driver: each call as the steps it consists of.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use machine_driver::{
    Driver, DriverError, DriverInfo, Endpoint, Features, Flag, FlagKind, Forecast, HostKeySource, HostView,
    Journal, Leftover, LoginSource, Options, Place, Progress, Row, Rule, State,
};
use serde_json::Value;

use crate::{
    backoff::Pace,
    caller,
    config::{Config, HostKeys},
    console, docker_machine,
    error::ApiError,
    flags, gc, groups, keys, launch, listing, membership, placement, policy, power, record,
    regions::{Regions, scopes},
    removal::take_down,
    retries::noting_retries,
    state::{Book, Made, Plan},
    user_data, watch,
};

/// Instances of EC2.
#[derive(Debug, Clone)]
pub struct Aws {
    regions: Regions,
}

impl Aws {
    /// One that asks AWS at this pace.
    pub fn paced(pace: Pace) -> Self {
        Self { regions: Regions::paced(pace) }
    }

    async fn make(
        &self,
        host: &HostView,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (config, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        let plan = match book.made.plan.clone() {
            Some(plan) => plan,
            None => placement::plan_for(&region, &config, host).await?,
        };
        book.place = Some(plan.region.clone());
        book.made.plan = Some(plan.clone());
        book.save().await?;
        // An instance that is there was made after its key and its groups.
        if book.made.instance.is_none() {
            keys::ensure(&region.api, host, &config, book, progress).await?;
            let rules = membership::wanted(&config, book.made.admitted.as_deref().unwrap_or_default());
            let clusters = membership::clusters(&rules);
            groups::ensure(&region, host, &config, &plan, &clusters, book, progress).await?;
        }
        launch::ensure(&region, host, &config, &plan, book, progress).await?;
        launch::wait_running(&region, host, &config, book, progress).await
    }

    async fn looked_at(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        let made = record::made(host, state)?;
        let Some(id) = made.instance.clone() else { return Ok(State::None) };
        let (_, region) = self.regions.of_host(host, made.plan.as_ref()).await?;
        let failed = |error: ApiError| {
            error.during(format!("Could not look for the instance {id} of `{}`", host.name))
        };
        let found = watch::describe_ids(&region.api, std::slice::from_ref(&id)).await.map_err(failed)?;
        let found = match found.get(&id) {
            Some(instance) => Some(instance.clone()),
            // One answer without it may be older than the instance.
            None => region.watch.find(&id, region.pace.for_absence()).await.map_err(failed)?,
        };
        Ok(found.as_ref().map_or(State::None, listing::host_state))
    }
}

#[async_trait]
impl Driver for Aws {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            name: "aws".to_owned(),
            aliases: vec!["amazonec2".to_owned()],
            summary: "Runs an instance on AWS EC2".to_owned(),
            features: Features {
                provisioned: true,
                power: true,
                login: LoginSource::Generated,
                host_key: HostKeySource::DeliveredOnce,
                adopted: false,
                firewall: true,
            },
        }
    }

    fn features_of(&self, config: &Value) -> Features {
        let mut features = self.info().features;
        // Whom its group lets in is not ours to say.
        features.firewall &= !docker_machine::is_its(config);
        let config = Config::from_value(config).ok();
        if config.as_ref().is_some_and(|config| config.host_keys == HostKeys::Console) {
            features.host_key = HostKeySource::Shown;
        }
        if config.is_some_and(|config| config.key_file.is_some()) {
            features.login = LoginSource::User;
        }
        features
    }

    fn flags(&self) -> Vec<Flag> {
        flags::all()
    }

    fn scope_flags(&self) -> Vec<Flag> {
        let mut flags = flags::scope();
        for flag in flags.iter_mut().filter(|flag| flag.name == "aws-region") {
            flag.kind = FlagKind::List;
            "A region to search; may be given again [default: AWS_REGION, then the profile's]"
                .clone_into(&mut flag.help);
        }
        flags
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        Config::from_options(options)?.to_value()
    }

    /// The zones that have the type, and a subnet.
    async fn places(&self, config: &Value) -> Result<Vec<Place>, DriverError> {
        let config = Config::from_value(config).map_err(|error| {
            DriverError::failed("Could not read the options of the hosts").with_source(error)
        })?;
        let region = self.regions.open(&config.scope).await?;
        let plan = placement::plan(&region, &config).await?;
        Ok(plan.places.into_iter().map(|place| Place { name: place.zone }).collect())
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        let (config, region) = self.regions.of_host(host, None).await?;
        user_data::check(host, &config)?;
        let plan = placement::plan_for(&region, &config, host).await?;
        keys::check(&region.api, host, &config).await?;
        if !config.groups.is_empty() {
            groups::named(&region, &config, &plan.vpc).await?;
        }
        if !config.groups_read_only {
            caller::networks(&region, &config, &plan).await?;
        }
        launch::rehearse(&region, host, &config, &plan).await?;
        Ok(placement::forecast(&plan))
    }

    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = record::open(host, journal)?;
        noting_retries(progress, Box::pin(self.make(host, &mut book, progress))).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = record::open(host, journal)?;
        let (config, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        let work = Box::pin(power::start(&region, host, &config, &mut book, progress));
        noting_retries(progress, work).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = record::open(host, journal)?;
        let (_, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        noting_retries(progress, Box::pin(power::stop(&region, host, &mut book, progress, false))).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = record::open(host, journal)?;
        let (_, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        noting_retries(progress, Box::pin(power::stop(&region, host, &mut book, progress, true))).await
    }

    async fn restart(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = record::open(host, journal)?;
        let (config, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        let work = Box::pin(power::restart(&region, host, &config, &mut book, progress));
        noting_retries(progress, work).await
    }

    async fn admit(
        &self,
        host: &HostView,
        rules: &[Rule],
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = record::open(host, journal)?;
        let (config, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        let work = Box::pin(membership::admit(&region, host, &config, rules, &mut book, progress));
        noting_retries(progress, work).await
    }

    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        // A state that cannot be read is no reason to leave an instance behind: what matters is found by its tags.
        let made = record::made(host, &journal.state()).unwrap_or_default();
        let mut book = record::with(journal, made);
        if book.journal.entries().is_empty() && book.made.instance.is_none() {
            return Ok(());
        }
        let (_, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
        noting_retries(progress, Box::pin(take_down(&region, host, &mut book, progress, false))).await
    }

    async fn salvage(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (config, region) = self.regions.of_host(host, None).await?;
        let regions = match config.scope.region {
            Some(named) => vec![named],
            // The region was found in the environment then, which may be another one now.
            None => placement::regions(&region.api).await?,
        };
        progress.note(&format!(
            "The record is lost: what carries the host's id is looked for in {}",
            regions.join(", ")
        ));
        // What cannot be looked for in one region is no reason to leave the others.
        let mut failed = None;
        for name in regions {
            // All that a record would say is the region.
            let plan = Plan { region: name, ..Plan::default() };
            let mut book = record::with(&mut *journal, Made { plan: Some(plan), ..Made::default() });
            let work = async {
                let (_, region) = self.regions.of_host(host, book.made.plan.as_ref()).await?;
                take_down(&region, host, &mut book, progress, true).await
            };
            if let Err(error) = noting_retries(progress, Box::pin(work)).await {
                progress.note(&error.to_string());
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        self.looked_at(host, state).await
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        listing::endpoint(host, &record::config(host)?, &record::made(host, state)?)
    }

    fn describe_many<'a>(&'a self, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
        listing::describe(&self.regions, hosts)
    }

    async fn console(&self, host: &HostView, state: &Value, lines: usize) -> Option<String> {
        let made = record::made(host, state).ok()?;
        let (_, region) = self.regions.of_host(host, made.plan.as_ref()).await.ok()?;
        let text = console::text(&region.api, &made.instance?).await.ok()?;
        Some(console::tail(&text, lines))
    }

    async fn host_keys(&self, host: &HostView, state: &Value) -> Result<Option<Vec<String>>, DriverError> {
        let made = record::made(host, state)?;
        let (_, region) = self.regions.of_host(host, made.plan.as_ref()).await?;
        let id = launch::instance_id(host, &made)?;
        let text = console::text(&region.api, &id)
            .await
            .map_err(|error| error.during(format!("Could not read the console of the instance {id}")))?;
        Ok(console::host_keys(&text))
    }

    async fn leftovers(&self, options: &Options) -> Result<Vec<Leftover>, DriverError> {
        let mut found = Vec::new();
        for scope in scopes(options)? {
            found.extend(gc::find(&self.regions.open(&scope).await?).await?);
        }
        Ok(found)
    }

    async fn remove_leftovers(
        &self,
        options: &Options,
        leftovers: &[Leftover],
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        // What cannot be removed is no reason to leave the rest.
        let mut failed = None;
        for scope in scopes(options)? {
            let region = self.regions.open(&scope).await?;
            let here: Vec<&Leftover> =
                leftovers.iter().filter(|leftover| leftover.place == region.api.region).collect();
            let removed = noting_retries(progress, Box::pin(gc::remove(&region, &here, progress))).await;
            failed = failed.or_else(|| removed.err());
        }
        failed.map_or(Ok(()), Err)
    }

    async fn permissions(&self) -> Result<Option<Value>, DriverError> {
        Ok(Some(policy::document()))
    }
}
