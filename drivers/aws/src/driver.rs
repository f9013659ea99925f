//! The driver: each call as the steps it consists of.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_ec2::types::InstanceStateName;
use futures_util::stream::{self, BoxStream, FuturesUnordered, StreamExt as _};
use machine_driver::{
    Description, Driver, DriverError, DriverInfo, Endpoint, Features, Flag, FlagKind, Forecast,
    HostKeySource, HostView, Journal, Leftover, LoginSource, Options, Progress, Row, SshEndpoint, SshKey,
    State, parse_state,
};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    adopted,
    api::Call,
    config::{Config, HostKeys, Scope},
    console,
    error::{Answer as _, ApiError},
    flags, gc, groups, keys, launch,
    notices::heard,
    placement, policy,
    region::Region,
    rules,
    state::{Book, Made, Plan, SPOT_REQUEST},
    take_down::take_down,
    user_data,
    watch::{self, Instance},
};

/// A stop goes through the guest's own shutdown, which EC2 ends by force after some minutes.
const STOP_AT_MOST: Duration = Duration::from_secs(900);
/// How long a guest that was asked to reboot may go on answering.
const REBOOT_AT_MOST: Duration = Duration::from_secs(120);
const BANNER_AT_MOST: Duration = Duration::from_secs(2);

/// Instances of EC2.
///
/// What is the same for several hosts (images, subnets, the caller's address) is asked for once in the life of this
/// value, and instances that are waited for are asked for together.
#[derive(Debug, Clone, Default)]
pub struct Aws {
    regions: Arc<Mutex<HashMap<Scope, Arc<Region>>>>,
}

impl Aws {
    pub fn new() -> Self {
        Self::default()
    }

    /// The region that a host is in, or is to be in.
    async fn region(&self, config: &Config, plan: Option<&Plan>) -> Result<Arc<Region>, DriverError> {
        let mut scope = config.scope.clone();
        if let Some(plan) = plan {
            scope.region = Some(plan.region.clone());
        }
        self.open(&scope).await
    }

    async fn open(&self, scope: &Scope) -> Result<Arc<Region>, DriverError> {
        let mut regions = self.regions.lock().await;
        if let Some(region) = regions.get(scope) {
            return Ok(region.clone());
        }
        let region = Region::open(scope).await?;
        // A region that was found in the environment is the same as one that is named.
        let named = Scope { region: Some(region.api.region.clone()), ..scope.clone() };
        let region = regions.entry(named).or_insert(region).clone();
        regions.insert(scope.clone(), region.clone());
        Ok(region)
    }

    async fn opened(
        &self,
        host: &HostView,
        plan: Option<Plan>,
    ) -> Result<(Config, Arc<Region>), DriverError> {
        let config = Config::of(host)?;
        let region = self.region(&config, plan.as_ref()).await?;
        Ok((config, region))
    }

    async fn make(
        &self,
        host: &HostView,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (config, region) = self.opened(host, book.made.plan.clone()).await?;
        let plan = match book.made.plan.clone() {
            Some(plan) => plan,
            None => placement::plan(&region, &config).await?,
        };
        book.made.plan = Some(plan.clone());
        book.save().await?;
        // An instance that is there was made after its key and its groups.
        if book.made.instance.is_none() {
            keys::ensure(&region.api, host, &config, book, progress).await?;
            groups::ensure(&region, host, &config, &plan, book, progress).await?;
        }
        launch::ensure(&region, host, &config, &plan, book, progress).await?;
        launch::wait_running(&region, host, &config, book, progress).await
    }

    async fn power_on(
        &self,
        host: &HostView,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (config, region) = self.opened(host, book.made.plan.clone()).await?;
        let id = launch::instance_id(host, &book.made)?;
        let mut instance = known(&region, host, &id).await?;
        let began = Instant::now();
        while instance.state == InstanceStateName::Stopping {
            progress.step("Waiting until the instance has stopped");
            bounded(began, &id, "stop")?;
            instance = known(&region, host, &id).await?;
        }
        if let Some(plan) = book.made.plan.clone() {
            groups::follow_caller(&region, &config, &plan, book, progress).await?;
        }
        if instance.state == InstanceStateName::Stopped {
            progress.step("Starting the instance");
            region
                .api
                .start_instances()
                .instance_ids(&id)
                .send()
                .await
                .answer(Call::StartInstances, &region.api)
                .map_err(|error| changed(host, &id, error, "start"))?;
        }
        launch::wait_running(&region, host, &config, book, progress).await
    }

    /// The rows of hosts that are in one account and region.
    async fn describe(&self, scope: &Scope, hosts: &[(HostView, Value)], batch: Vec<Asked>) -> Vec<Row> {
        let ids: Vec<String> = batch.iter().map(|asked| asked.instance.clone()).collect();
        let answer = async {
            let region = self.open(scope).await?;
            watch::describe_ids(&region.api, &ids).await.map_err(|error| {
                error.during(format!("Could not look for the instances in {}", region.api.region))
            })
        };
        let answer = answer.await;
        let row = |mut asked: Asked| {
            let description = match &answer {
                Err(error) => Err(error.clone()),
                Ok(found) => {
                    let instance = found.get(&asked.instance);
                    if let Some(instance) = instance {
                        launch::take_addresses(&mut asked.made, instance);
                    }
                    Ok(Description {
                        state: instance.map_or(State::None, Instance::host_state),
                        endpoint: endpoint_of(&hosts[asked.index].0, &asked.config, &asked.made).ok(),
                    })
                }
            };
            (asked.index, description)
        };
        batch.into_iter().map(row).collect()
    }

    async fn power_off(
        &self,
        host: &HostView,
        book: &mut Book<'_>,
        progress: &dyn Progress,
        force: bool,
    ) -> Result<(), DriverError> {
        let (_, region) = self.opened(host, book.made.plan.clone()).await?;
        let id = launch::instance_id(host, &book.made)?;
        let mut instance = known(&region, host, &id).await?;
        if instance.state == InstanceStateName::Stopped {
            return Ok(());
        }
        if force || instance.state != InstanceStateName::Stopping {
            progress.step("Stopping the instance");
            region
                .api
                .stop_instances()
                .instance_ids(&id)
                .force(force)
                .send()
                .await
                .answer(Call::StopInstances, &region.api)
                .map_err(|error| {
                    let is_spot = error.is("UnsupportedOperation") && !book.named(SPOT_REQUEST).is_empty();
                    let error = changed(host, &id, error, "stop");
                    if is_spot {
                        error.with_hint("A spot instance of ours can be restarted and removed, not stopped")
                    } else {
                        error
                    }
                })?;
        }
        let began = Instant::now();
        while instance.state != InstanceStateName::Stopped {
            bounded(began, &id, "stop")?;
            instance = known(&region, host, &id).await?;
        }
        book.made.public_address = None;
        book.save().await
    }
}

/// A host whose instance is asked for.
struct Asked {
    /// Among the hosts that were asked about together.
    index: usize,
    config: Config,
    made: Made,
    instance: String,
}

impl Asked {
    /// The region to ask, and what is asked there; nothing for a host that has no instance.
    fn of(index: usize, host: &HostView, state: &Value) -> Result<(Scope, Option<Self>), DriverError> {
        let (config, made) = (Config::of(host)?, made_of(host, state)?);
        let mut scope = config.scope.clone();
        if let Some(plan) = &made.plan {
            scope.region = Some(plan.region.clone());
        }
        let asked = made.instance.clone().map(|instance| Self { index, config, made, instance });
        Ok((scope, asked))
    }
}

/// What was made for a host, by us or by docker-machine.
fn made_of(host: &HostView, state: &Value) -> Result<Made, DriverError> {
    if state.is_null() && adopted::is_old(&host.config) {
        return Ok(adopted::made(&host.config));
    }
    parse_state(state)
}

fn open<'a>(host: &HostView, journal: &'a mut dyn Journal) -> Result<Book<'a>, DriverError> {
    let made = made_of(host, &journal.state())?;
    Ok(Book { journal, made, place: None })
}

/// The instance of a host, of which AWS must know.
async fn known(region: &Arc<Region>, host: &HostView, id: &str) -> Result<Instance, DriverError> {
    let found = watch::look(region, id)
        .await
        .map_err(|error| error.during(format!("Could not look for the instance {id} of `{}`", &host.name)))?;
    match found {
        Some(instance) if !instance.is_ending() => Ok(instance),
        _ => Err(launch::gone(host, id)),
    }
}

fn changed(host: &HostView, id: &str, error: ApiError, what: &str) -> DriverError {
    if error.is_not_found() {
        return launch::gone(host, id);
    }
    error.during(format!("Could not {what} the instance {id} of `{}`", &host.name))
}

fn bounded(began: Instant, id: &str, what: &str) -> Result<(), DriverError> {
    if began.elapsed() < STOP_AT_MOST {
        return Ok(());
    }
    Err(DriverError::failed(format!(
        "The instance {id} does not {what} after {} minutes",
        STOP_AT_MOST.as_secs() / 60
    ))
    .with_hint("`machine kill` stops it by force"))
}

/// Waits until nobody answers on the SSH port, so that whoever waits for SSH next does not meet the old boot.
async fn wait_until_down(host: &str, port: u16) {
    let began = Instant::now();
    while began.elapsed() < REBOOT_AT_MOST {
        let banner = async {
            let mut stream = TcpStream::connect((host, port)).await.ok()?;
            let mut start = [0; 4];
            stream.read_exact(&mut start).await.ok()?;
            (start == *b"SSH-").then_some(())
        };
        if !matches!(timeout(BANNER_AT_MOST, banner).await, Ok(Some(()))) {
            return;
        }
        sleep(Duration::from_millis(300)).await;
    }
}

fn endpoint_of(host: &HostView, config: &Config, made: &Made) -> Result<Endpoint, DriverError> {
    let address = launch::address(config, made)
        .ok_or_else(|| DriverError::not_ready(format!("`{}` has no address yet", &host.name)))?;
    let user = made.plan.as_ref().map(|plan| plan.image.user.clone()).unwrap_or_default();
    Ok(Endpoint {
        engine_port: rules::ENGINE_PORT,
        url: None,
        ssh: Some(SshEndpoint {
            host: address.clone(),
            port: config.ssh_port,
            user,
            key: config.key_file.clone().map_or(SshKey::Generated, SshKey::File),
        }),
        inside: None,
        address,
    })
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
        let config: Option<Config> = serde_json::from_value(config.clone()).ok();
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
            flag.help =
                "A region to search; may be given again [default: AWS_REGION, then the profile's]".to_owned();
        }
        flags
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        Config::from_options(options)?.to_value()
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        let config = Config::of(host)?;
        let region = self.region(&config, None).await?;
        user_data::check(host, &config)?;
        let plan = placement::plan(&region, &config).await?;
        keys::check(&region.api, host, &config).await?;
        if !config.groups.is_empty() {
            groups::named(&region, &config, &plan.vpc).await?;
        }
        if !config.groups_read_only {
            groups::callers(&region, &config, &plan).await?;
        }
        launch::rehearse(&region, host, &config, &plan).await?;
        Ok(Forecast::default())
    }

    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = open(host, journal)?;
        heard(progress, Box::pin(self.make(host, &mut book, progress))).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = open(host, journal)?;
        heard(progress, Box::pin(self.power_on(host, &mut book, progress))).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = open(host, journal)?;
        heard(progress, Box::pin(self.power_off(host, &mut book, progress, false))).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = open(host, journal)?;
        heard(progress, Box::pin(self.power_off(host, &mut book, progress, true))).await
    }

    /// A reboot keeps the address, unlike a stop and a start.
    async fn restart(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = open(host, journal)?;
        let work = async {
            let (config, region) = self.opened(host, book.made.plan.clone()).await?;
            let id = launch::instance_id(host, &book.made)?;
            if known(&region, host, &id).await?.state != InstanceStateName::Running {
                return self.power_on(host, &mut book, progress).await;
            }
            if let Some(plan) = book.made.plan.clone() {
                groups::follow_caller(&region, &config, &plan, &mut book, progress).await?;
            }
            progress.step("Rebooting the instance");
            region
                .api
                .reboot_instances()
                .instance_ids(&id)
                .send()
                .await
                .answer(Call::RebootInstances, &region.api)
                .map_err(|error| changed(host, &id, error, "reboot"))?;
            if let Some(address) = launch::address(&config, &book.made) {
                wait_until_down(&address, config.ssh_port).await;
            }
            launch::wait_running(&region, host, &config, &mut book, progress).await
        };
        heard(progress, Box::pin(work)).await
    }

    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        // A state that cannot be read is no reason to leave an instance behind: what matters is found by its tags.
        let made = made_of(host, &journal.state()).unwrap_or_default();
        let mut book = Book { journal, made, place: None };
        if book.journal.entries().is_empty() && book.made.instance.is_none() {
            return Ok(());
        }
        let (_, region) = self.opened(host, book.made.plan.clone()).await?;
        heard(progress, Box::pin(take_down(&region, host, &mut book, progress, false))).await
    }

    async fn salvage(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let config = Config::of(host)?;
        let region = self.region(&config, None).await?;
        let regions = match config.scope.region {
            Some(named) => vec![named],
            // The region was found in the environment then, which may be another one now.
            None => placement::regions(&region.api).await?,
        };
        progress.note(&format!(
            "The record is lost: what carries the host's id is looked for in {}",
            regions.join(", ")
        ));
        for name in regions {
            // All that a record would say is the region.
            let plan = Plan { region: name, ..Plan::default() };
            let mut book = Book {
                journal: &mut *journal,
                made: Made { plan: Some(plan), ..Made::default() },
                place: None,
            };
            let (_, region) = self.opened(host, book.made.plan.clone()).await?;
            heard(progress, Box::pin(take_down(&region, host, &mut book, progress, true))).await?;
        }
        Ok(())
    }

    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        let made = made_of(host, state)?;
        let Some(id) = made.instance.clone() else { return Ok(State::None) };
        let region = self.region(&Config::of(host)?, made.plan.as_ref()).await?;
        let found = watch::describe_ids(&region.api, std::slice::from_ref(&id)).await.map_err(|error| {
            error.during(format!("Could not look for the instance {id} of `{}`", &host.name))
        })?;
        Ok(found.get(&id).map_or(State::None, Instance::host_state))
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        endpoint_of(host, &Config::of(host)?, &made_of(host, state)?)
    }

    /// One question for each account and region; whoever answers first is told first.
    fn describe_many<'a>(&'a self, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
        let mut known: Vec<Row> = Vec::new();
        let mut batches: HashMap<Scope, Vec<Asked>> = HashMap::new();
        for (index, (host, state)) in hosts.iter().enumerate() {
            match Asked::of(index, host, state) {
                Ok((scope, Some(asked))) => batches.entry(scope).or_default().push(asked),
                Ok((_, None)) => {
                    known.push((index, Ok(Description { state: State::None, endpoint: None })));
                }
                Err(error) => known.push((index, Err(error))),
            }
        }
        let asked: FuturesUnordered<_> = batches
            .into_iter()
            .map(async move |(scope, batch)| {
                let rows = self.describe(&scope, hosts, batch).await;
                stream::iter(rows)
            })
            .collect();
        stream::iter(known).chain(asked.flatten()).boxed()
    }

    async fn console(&self, host: &HostView, state: &Value, lines: usize) -> Option<String> {
        let made = made_of(host, state).ok()?;
        let region = self.region(&Config::of(host).ok()?, made.plan.as_ref()).await.ok()?;
        let text = console::text(&region.api, &made.instance?).await.ok()?;
        Some(console::tail(&text, lines))
    }

    async fn host_keys(&self, host: &HostView, state: &Value) -> Result<Option<Vec<String>>, DriverError> {
        let made = made_of(host, state)?;
        let region = self.region(&Config::of(host)?, made.plan.as_ref()).await?;
        let id = launch::instance_id(host, &made)?;
        let text = console::text(&region.api, &id)
            .await
            .map_err(|error| error.during(format!("Could not read the console of the instance {id}")))?;
        Ok(console::host_keys(&text))
    }

    async fn leftovers(&self, options: &Options) -> Result<Vec<Leftover>, DriverError> {
        let mut found = Vec::new();
        for scope in scopes(options)? {
            found.extend(gc::find(&self.open(&scope).await?).await?);
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
            let region = self.open(&scope).await?;
            let here: Vec<&Leftover> =
                leftovers.iter().filter(|leftover| leftover.place == region.api.region).collect();
            let removed = heard(progress, Box::pin(gc::remove(&region, &here, progress))).await;
            failed = failed.or_else(|| removed.err());
        }
        failed.map_or(Ok(()), Err)
    }

    async fn permissions(&self) -> Result<Option<Value>, DriverError> {
        Ok(Some(policy::document()))
    }
}

/// One scope for each region that is named; the SDK's own region if none is.
fn scopes(options: &Options) -> Result<Vec<Scope>, DriverError> {
    let scope = Scope::from_options(options)?;
    let regions = options.list("aws-region");
    if regions.is_empty() {
        return Ok(vec![scope]);
    }
    let mut scopes: Vec<Scope> = Vec::new();
    for region in regions {
        let named = Scope { region: Some(crate::config::region(region)?), ..scope.clone() };
        if !scopes.contains(&named) {
            scopes.push(named);
        }
    }
    Ok(scopes)
}
