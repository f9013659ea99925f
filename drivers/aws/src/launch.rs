//! Asks for the instance, once: whatever happens between the question and the answer, there is one instance at most, and
//! it is never forgotten.

use std::{sync::Arc, time::Duration};

use aws_sdk_ec2::types::InstanceStateName;
use machine_driver::{DriverError, ErrorKind, HostView, Progress};

use crate::{
    api::{Call, filter},
    backoff::Backoff,
    config::Config,
    error::{Answer as _, ApiError},
    region::Region,
    request::request,
    retries,
    state::{Book, INSTANCE, Launch, Made, Plan, SPOT_REQUEST},
    waiting::Waiting,
    watch::{self, Instance},
};

/// From the answer to an instance that runs; large and bare-metal types take minutes.
const START_AT_MOST: Duration = Duration::from_mins(15);

fn first_launch(config: &Config) -> Launch {
    Launch { attempt: 0, place: 0, spot: config.spot.is_some() }
}

/// The client token of a way of asking.
fn token(host: &HostView, launch: Launch) -> String {
    format!("{}-{}", host.id, launch.attempt)
}

/// Has AWS look at the request without following it; asked once for all hosts that are alike.
pub(crate) async fn rehearse(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
) -> Result<(), DriverError> {
    let (request, interface) = request(region, host, config, plan, first_launch(config))?;
    let key = format!("{config:?}");
    let ask = async {
        let answer = request
            .network_interfaces(interface)
            .dry_run(true)
            .send()
            .await
            .answer(Call::RunInstances, &region.api);
        match answer {
            Ok(_) => Ok(()),
            Err(error) if error.is("DryRunOperation") => Ok(()),
            // What is short now may be there in a moment; where to look else is decided when it is asked for.
            Err(error) if error.is_about_spot() => Ok(()),
            Err(error) => Err(error.during(attempt(config, plan, first_launch(config)))),
        }
    };
    region.rehearsals.get(key, Box::pin(ask)).await
}

fn attempt(config: &Config, plan: &Plan, launch: Launch) -> String {
    let zone = plan.places.get(launch.place).map(|place| place.zone.as_str()).unwrap_or_default();
    let market = if launch.spot { "a spot instance" } else { "an instance" };
    format!("Could not start {market} of the type {} in {zone}", config.instance_type)
}

/// Instances that were asked for with some client tokens.
async fn asked_for(
    region: &Region,
    host: &HostView,
    tokens: impl IntoIterator<Item = String>,
) -> Result<Vec<Instance>, DriverError> {
    let by = filter("client-token", tokens);
    watch::describe(&region.api, vec![by])
        .await
        .map_err(|error| error.during(format!("Could not look for the instance of `{}`", host.name)))
}

/// The instance that lives and that was asked for in one of the ways up to this one, looked for until it is found or the
/// time is up.
async fn find(
    region: &Region,
    host: &HostView,
    launch: Launch,
    within: Backoff,
) -> Result<Option<Instance>, DriverError> {
    let attempts = (0..=launch.attempt).rev().take(watch::IDS_AT_ONCE);
    let tokens: Vec<String> = attempts.map(|attempt| token(host, Launch { attempt, ..launch })).collect();
    let look = || async {
        let found = asked_for(region, host, tokens.clone()).await?;
        Ok(found.into_iter().find(|instance| !instance.is_ending()))
    };
    within.until_found(look).await
}

/// Makes sure that there is an instance, and records its id.
pub(crate) async fn ensure(
    region: &Arc<Region>,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    // Whether an earlier question may have been followed, although nobody heard so.
    let mut unsure = !book.named(INSTANCE).is_empty() && book.made.instance.is_none();
    if let Some(id) = book.made.instance.clone() {
        let known = region
            .watch
            .find(&id, region.pace.for_consistency())
            .await
            .map_err(|error| error.during(format!("Could not look for the instance {id}")))?;
        if known.is_some_and(|instance| !instance.is_ending()) {
            return Ok(());
        }
        progress.note(&format!("The instance {id} has ended; another one is started"));
        book.made.instance = None;
        use_another_token(book, book.made.launch.unwrap_or_else(|| first_launch(config)));
        book.save().await?;
    } else if unsure {
        let launch = book.made.launch.unwrap_or_else(|| first_launch(config));
        if let Some(found) = find(region, host, launch, region.pace.up_to(Duration::ZERO)).await? {
            return adopt(host, book, &found).await;
        }
    }
    loop {
        let launch = book.made.launch.unwrap_or_else(|| first_launch(config));
        book.made.launch = Some(launch);
        book.save().await?;
        book.intend(INSTANCE, host.name.as_str()).await?;
        progress.step(if launch.spot { "Asking for a spot instance" } else { "Starting the instance" });
        let (error, is_refused) = match run(region, host, config, plan, &book.made, launch).await {
            Ok(instance) => return adopt(host, book, &instance).await,
            Err(NotRun::Driver(error)) => return Err(error),
            Err(NotRun::Api { error, is_refused }) => (error, is_refused),
        };
        if error.is_token_taken() {
            // The options of an instance that was asked for before have changed since, in a file.
            if let Some(instance) = of_token(region, host, launch).await? {
                return adopt(host, book, &instance).await;
            }
            use_another_token(book, launch);
            continue;
        }
        unsure |= !is_refused;
        let failed = || attempt(config, plan, launch);
        let Some(next) = next_launch(config, plan, launch, &error) else {
            if !unsure {
                book.gone(INSTANCE, host.name.as_str()).await?;
                return Err(error.during(failed()));
            }
            // Nobody gives up what may be there, and be listed in a moment.
            progress.step("Looking for an instance that may have been started");
            return match find(region, host, launch, region.pace.for_consistency()).await {
                Ok(Some(found)) => adopt(host, book, &found).await,
                // Why it was not started tells more than why it cannot be looked for.
                Ok(None) | Err(_) => Err(may_run(host, error, failed())),
            };
        };
        // Another token would make another instance.
        if unsure && let Some(found) = find(region, host, launch, region.pace.for_consistency()).await? {
            return adopt(host, book, &found).await;
        }
        let instead = if next.spot == launch.spot {
            format!("the zone {}", plan.places[next.place].zone)
        } else {
            "an instance on demand".to_owned()
        };
        progress.note(&format!("{}: {error}; trying {instead}", failed()));
        book.made.launch = Some(next);
    }
}

/// The error of a question of which nobody knows what came of it. The journal goes on saying that it was asked.
fn may_run(host: &HostView, error: ApiError, attempt: String) -> DriverError {
    let hint = error.hint().map(|hint| format!("{hint}. ")).unwrap_or_default();
    let kind = match error.kind() {
        // Who is told why can do something about it.
        kind @ (ErrorKind::Denied { .. } | ErrorKind::Throttled { .. }) => kind,
        _ => ErrorKind::Unknown,
    };
    let hint = format!(
        "{hint}An instance may have been started all the same: `machine create {0}` goes on with it, `machine rm {0}` removes it",
        host.name
    );
    DriverError::new(kind, attempt).with_hint(hint).with_source(error)
}

fn use_another_token(book: &mut Book<'_>, launch: Launch) {
    book.made.launch = Some(Launch { attempt: launch.attempt + 1, ..launch });
}

/// The instance for whose token AWS says that there is one: lists show it sooner or later, and no other is asked for
/// before. `None`: it has ended.
async fn of_token(region: &Region, host: &HostView, launch: Launch) -> Result<Option<Instance>, DriverError> {
    let look = || async {
        let found = asked_for(region, host, [token(host, launch)]).await?;
        Ok::<_, DriverError>(found.into_iter().next())
    };
    match region.pace.for_consistency().until_found(look).await? {
        Some(instance) => Ok(Some(instance).filter(|instance| !instance.is_ending())),
        None => Err(DriverError::unknown(format!(
            "AWS says that it has started an instance of `{}` before, and does not list it",
            host.name
        ))
        .with_hint(format!(
            "Run the same command again in some minutes, or begin anew after `machine rm {}`",
            host.name
        ))),
    }
}

/// Where to look next when there is no capacity: the other zones, then the other market.
fn next_launch(config: &Config, plan: &Plan, launch: Launch, error: &ApiError) -> Option<Launch> {
    let attempt = launch.attempt + 1;
    if error.is_about_capacity() && launch.place + 1 < plan.places.len() {
        return Some(Launch { attempt, place: launch.place + 1, ..launch });
    }
    let may_pay = config.spot.as_ref().is_some_and(|spot| !spot.only);
    (launch.spot && may_pay && error.is_about_spot()).then_some(Launch { attempt, place: 0, spot: false })
}

/// There is no answer with an instance.
enum NotRun {
    Driver(DriverError),
    Api {
        error: ApiError,
        /// There is none, for certain.
        is_refused: bool,
    },
}

/// One question, which may be asked again with the same token. What was made a moment ago is waited for.
async fn run(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    made: &Made,
    launch: Launch,
) -> Result<Instance, NotRun> {
    let mut backoff = region.pace.for_consistency();
    let mut is_refused = true;
    loop {
        let (request, mut interface) = request(region, host, config, plan, launch).map_err(NotRun::Driver)?;
        interface.groups = Some(made.groups.clone());
        let call = request
            .network_interfaces(interface)
            .set_key_name(made.key_pair.clone())
            .client_token(token(host, launch))
            .send();
        let (answer, sent) = retries::counted(Box::pin(call)).await;
        match answer.answer(Call::RunInstances, &region.api) {
            Ok(answer) => {
                let instance = answer.instances().first().and_then(Instance::of);
                return instance.ok_or_else(|| {
                    NotRun::Driver(DriverError::unknown("AWS answers that it started no instance"))
                });
            }
            Err(error) => {
                is_refused &= error.is_a_refusal(sent);
                let is_new = error.is_any(&["InvalidGroup.NotFound", "InvalidKeyPair.NotFound"])
                    && config.groups.is_empty()
                    && config.key_pair.is_none();
                if !is_new || !backoff.wait().await {
                    return Err(NotRun::Api { error, is_refused });
                }
            }
        }
    }
}

async fn adopt(host: &HostView, book: &mut Book<'_>, instance: &Instance) -> Result<(), DriverError> {
    book.made.instance = Some(instance.id.clone());
    book.made.joined.clone_from(&instance.groups);
    book.made(INSTANCE, host.name.as_str(), Some(&instance.id)).await?;
    note_spot_request(book, instance).await
}

/// A spot request is an object of its own, which outlives its instance.
async fn note_spot_request(book: &mut Book<'_>, instance: &Instance) -> Result<(), DriverError> {
    match &instance.spot_request {
        Some(request) if !book.named(SPOT_REQUEST).contains(request) => {
            book.made(SPOT_REQUEST, request, Some(request)).await
        }
        _ => Ok(()),
    }
}

/// The address that the host is reached at.
pub(crate) fn address(config: &Config, made: &Made) -> Option<String> {
    if config.is_private() {
        return made.private_address.clone();
    }
    made.public_address
        .clone()
        .or_else(|| made.ipv6_address.clone().filter(|_| config.ipv6))
        .or_else(|| made.private_address.clone())
}

/// Takes over where an instance is now.
pub(crate) fn take_addresses(made: &mut Made, instance: &Instance) {
    made.public_address.clone_from(&instance.public_address);
    made.private_address.clone_from(&instance.private_address);
    made.ipv6_address.clone_from(&instance.ipv6_address);
}

fn has_its_address(config: &Config, instance: &Instance) -> bool {
    if config.is_private() {
        instance.private_address.is_some()
    } else {
        instance.public_address.is_some() || (config.ipv6 && instance.ipv6_address.is_some())
    }
}

/// Waits until the instance, which was started, runs and has its address, and records that.
pub(crate) async fn wait_running(
    region: &Arc<Region>,
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let id = instance_id(host, &book.made)?;
    progress.step("Waiting for the instance to run");
    let waiting = Waiting::new(region, &id, "run", START_AT_MOST).for_a_new_one();
    let judge = |seen: Option<Instance>| {
        let instance = seen.ok_or_else(|| gone(host, &id))?;
        match &instance.state {
            InstanceStateName::Running if has_its_address(config, &instance) => Ok(Some(instance)),
            InstanceStateName::Running | InstanceStateName::Pending => Ok(None),
            // An answer may be older than the start; nothing comes back from an end.
            InstanceStateName::Stopped | InstanceStateName::Stopping
                if waiting.lasts() < region.pace.consistency =>
            {
                Ok(None)
            }
            state => {
                let reason = instance.reason.clone().unwrap_or_else(|| "AWS does not say why".into());
                Err(DriverError::failed(format!(
                    "The instance {id} became {} while it started: {reason}",
                    state.as_str()
                ))
                .with_hint(format!(
                    "`machine create {0}` tries another one, `machine rm {0}` undoes it",
                    host.name
                )))
            }
        }
    };
    let instance = waiting.until(judge).await?;
    take_addresses(&mut book.made, &instance);
    book.save().await?;
    note_spot_request(book, &instance).await
}

/// The instance's id, or why there is none.
pub(crate) fn instance_id(host: &HostView, made: &Made) -> Result<String, DriverError> {
    made.instance.clone().ok_or_else(|| {
        DriverError::not_ready(format!("The instance of `{}` was never started", host.name))
            .with_hint(format!("Run `machine create {}` again, or remove it", host.name))
    })
}

/// An instance that was looked for, if it lives.
pub(crate) fn living(host: &HostView, id: &str, found: Option<Instance>) -> Result<Instance, DriverError> {
    found.filter(|instance| !instance.is_ending()).ok_or_else(|| gone(host, id))
}

fn gone(host: &HostView, id: &str) -> DriverError {
    DriverError::gone(format!("The instance {id} of `{}` is gone: it was terminated", host.name))
        .with_hint(format!("Remove the host with `machine rm {}` and create it again", host.name))
}
