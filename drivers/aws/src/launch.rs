//! Asks for the instance, once: whatever happens between the question and the answer, there is one instance at most.

use std::{sync::Arc, time::Duration};

use aws_sdk_ec2::{
    operation::run_instances::builders::RunInstancesFluentBuilder,
    types::{
        BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
        InstanceMarketOptionsRequest, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest,
        InstanceNetworkInterfaceSpecification, InstanceStateName, MarketType, Placement, ResourceType,
        RunInstancesMonitoringEnabled, SpotInstanceType, SpotMarketOptions, Tenancy, VolumeType,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machine_driver::{DriverError, EntryStatus, HostView, Progress};

use crate::{
    api::Call,
    config::Config,
    error::{Answer as _, ApiError},
    patience::Patience,
    placement::filter,
    region::Region,
    state::{Book, INSTANCE, Launch, Made, Plan, SPOT_REQUEST},
    tags, user_data,
    watch::{self, Instance},
};

/// From the answer to an instance that runs; large and bare-metal types take minutes.
const START_AT_MOST: Duration = Duration::from_secs(900);

/// Containers are a hop further away than the host, and have no business with its role.
const METADATA_HOPS: i32 = 1;

/// Everything about the instance but its groups, its key and its token.
fn request(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    launch: Launch,
) -> Result<(RunInstancesFluentBuilder, InstanceNetworkInterfaceSpecification), DriverError> {
    let place = &plan.places[launch.place.min(plan.places.len().saturating_sub(1))];
    let tags = tags::of_host(host, &config.tags);
    let root = &config.root;
    let disk = EbsBlockDevice::builder()
        .delete_on_termination(true)
        .volume_size(root.size)
        .volume_type(VolumeType::from(root.kind.as_str()))
        .encrypted(root.encrypted)
        .set_iops(root.iops)
        .set_throughput(root.throughput)
        .set_kms_key_id(root.kms_key.clone());
    let device = root.device.clone().unwrap_or_else(|| plan.image.root_device.clone());
    let interface = InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(&place.subnet)
        .associate_public_ip_address(!config.private_only)
        .delete_on_termination(true)
        .set_ipv6_address_count(config.ipv6.then_some(1))
        .build();
    let mut request = region
        .api
        .run_instances()
        .min_count(1)
        .max_count(1)
        .image_id(&plan.image.id)
        .instance_type(config.instance_type.as_str().into())
        .block_device_mappings(BlockDeviceMapping::builder().device_name(device).ebs(disk.build()).build())
        .metadata_options(
            InstanceMetadataOptionsRequest::builder()
                .http_endpoint(InstanceMetadataEndpointState::Enabled)
                .http_tokens(HttpTokensState::Required)
                .http_put_response_hop_limit(METADATA_HOPS)
                .build(),
        )
        .monitoring(RunInstancesMonitoringEnabled::builder().enabled(config.monitoring).build())
        .disable_api_termination(config.termination_protection);
    for kind in [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface] {
        request = request.tag_specifications(tags::on(kind, &tags));
    }
    if launch.spot {
        let price = config.spot.as_ref().and_then(|spot| spot.price.clone());
        let spot = SpotMarketOptions::builder()
            .set_max_price(price)
            .spot_instance_type(SpotInstanceType::OneTime)
            .build();
        request = request
            .tag_specifications(tags::on(ResourceType::SpotInstancesRequest, &tags))
            .instance_market_options(
                InstanceMarketOptionsRequest::builder()
                    .market_type(MarketType::Spot)
                    .spot_options(spot)
                    .build(),
            );
    }
    if config.ebs_optimized {
        request = request.ebs_optimized(true);
    }
    if config.tenancy.is_some() || config.placement_group.is_some() {
        let placement = Placement::builder()
            .availability_zone(&place.zone)
            .set_group_name(config.placement_group.clone())
            .set_tenancy(config.tenancy.as_deref().map(Tenancy::from))
            .build();
        request = request.placement(placement);
    }
    if let Some(profile) = &config.instance_profile {
        let named = IamInstanceProfileSpecification::builder();
        let named = if profile.starts_with("arn:") { named.arn(profile) } else { named.name(profile) };
        request = request.iam_instance_profile(named.build());
    }
    if let Some(data) = user_data::of_host(host, config)? {
        request = request.user_data(STANDARD.encode(data));
    }
    Ok((request, interface))
}

fn first_launch(config: &Config) -> Launch {
    Launch { attempt: 0, place: 0, spot: config.spot.is_some() }
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

/// The instance of an earlier run, if there is one that lives.
async fn find(region: &Arc<Region>, host: &HostView) -> Result<Option<Instance>, DriverError> {
    let key = format!("tag:{}", tags::ID);
    let found = watch::describe(&region.api, vec![filter(&key, [host.id.to_string()])])
        .await
        .map_err(|error| error.during(format!("Could not look for the instance of `{}`", &host.name)))?;
    Ok(found.into_iter().find(|instance| !instance.is_ending()))
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
    let intended =
        book.journal.entries().iter().any(|entry| {
            entry.kind == INSTANCE && (entry.status == EntryStatus::Intended || entry.id.is_some())
        });
    if let Some(id) = book.made.instance.clone() {
        let known = watch::look(region, &id)
            .await
            .map_err(|error| error.during(format!("Could not look for the instance {id}")))?;
        if known.is_none_or(|instance| !instance.is_ending()) {
            return Ok(());
        }
        progress.note(&format!("The instance {id} has ended; another one is started"));
        book.made.instance = None;
        let launch = book.made.launch.unwrap_or_else(|| first_launch(config));
        book.made.launch = Some(Launch { attempt: launch.attempt + 1, ..launch });
        book.save().await?;
    } else if intended && let Some(found) = find(region, host).await? {
        return adopt(host, book, &found).await;
    }
    loop {
        let launch = book.made.launch.unwrap_or_else(|| first_launch(config));
        book.made.launch = Some(launch);
        book.save().await?;
        book.intend(INSTANCE, host.name.as_str()).await?;
        progress.step(if launch.spot { "Asking for a spot instance" } else { "Starting the instance" });
        let error = match run(region, host, config, plan, &book.made, launch).await {
            Ok(instance) => return adopt(host, book, &instance).await,
            Err(RunError::Driver(error)) => return Err(error),
            Err(RunError::Api(error)) => error,
        };
        let failed = || attempt(config, plan, launch);
        if error.is("IdempotentParameterMismatch") {
            // The options of an instance that was asked for before have changed since, in a file.
            if let Some(found) = find(region, host).await? {
                return adopt(host, book, &found).await;
            }
            book.made.launch = Some(Launch { attempt: launch.attempt + 1, ..launch });
            continue;
        }
        let Some(next) = next_launch(config, plan, launch, &error) else {
            if error.is_a_refusal() {
                book.gone(INSTANCE, host.name.as_str()).await?;
            }
            return Err(error.during(failed()));
        };
        let instead = if next.spot == launch.spot {
            format!("the zone {}", plan.places[next.place].zone)
        } else {
            "an instance on demand".to_owned()
        };
        progress.note(&format!("{}: {error}; trying {instead}", failed()));
        book.made.launch = Some(next);
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

enum RunError {
    Driver(DriverError),
    Api(ApiError),
}

/// One question, which may be asked again with the same token. What was made a moment ago is waited for.
async fn run(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    made: &Made,
    launch: Launch,
) -> Result<Instance, RunError> {
    let mut patience = Patience::for_consistency();
    loop {
        let (request, mut interface) =
            request(region, host, config, plan, launch).map_err(RunError::Driver)?;
        interface.groups = Some(made.groups.clone());
        let answer = request
            .network_interfaces(interface)
            .set_key_name(made.key_pair.clone())
            .client_token(format!("{}-{}", &host.id, launch.attempt))
            .send()
            .await
            .answer(Call::RunInstances, &region.api);
        match answer {
            Ok(answer) => {
                let instance = answer.instances().first().and_then(Instance::of);
                return instance.ok_or_else(|| {
                    RunError::Driver(DriverError::failed("AWS answers that it started no instance"))
                });
            }
            Err(error)
                if error.is_any(&["InvalidGroup.NotFound", "InvalidKeyPair.NotFound"])
                    && config.groups.is_empty()
                    && config.key_pair.is_none()
                    && patience.wait().await => {}
            Err(error) => return Err(RunError::Api(error)),
        }
    }
}

async fn adopt(host: &HostView, book: &mut Book<'_>, instance: &Instance) -> Result<(), DriverError> {
    book.made.instance = Some(instance.id.clone());
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

/// Waits until the instance runs and has its address, and records that.
pub(crate) async fn wait_running(
    region: &Arc<Region>,
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let id = instance_id(host, &book.made)?;
    progress.step("Waiting for the instance to run");
    let began = std::time::Instant::now();
    let mut unknown = Patience::for_consistency();
    loop {
        let found = watch::look(region, &id)
            .await
            .map_err(|error| error.during(format!("Could not look for the instance {id}")))?;
        let Some(instance) = found else {
            if unknown.wait().await {
                continue;
            }
            return Err(gone(host, &id));
        };
        match &instance.state {
            InstanceStateName::Running if has_its_address(config, &instance) => {
                take_addresses(&mut book.made, &instance);
                book.save().await?;
                return note_spot_request(book, &instance).await;
            }
            InstanceStateName::Running | InstanceStateName::Pending => {}
            state => {
                let reason = instance.reason.clone().unwrap_or_else(|| "AWS does not say why".into());
                return Err(DriverError::failed(format!(
                    "The instance {id} became {} while it started: {reason}",
                    state.as_str()
                ))
                .with_hint(format!(
                    "`machine create {0}` tries another one, `machine rm {0}` undoes it",
                    host.name
                )));
            }
        }
        if began.elapsed() > START_AT_MOST {
            return Err(DriverError::failed(format!(
                "The instance {id} does not run after {} minutes",
                START_AT_MOST.as_secs() / 60
            )));
        }
    }
}

/// The instance's id, or why there is none.
pub(crate) fn instance_id(host: &HostView, made: &Made) -> Result<String, DriverError> {
    made.instance.clone().ok_or_else(|| {
        DriverError::gone(format!("The instance of `{}` was never started", &host.name))
            .with_hint(format!("Run `machine create {}` again, or remove it", &host.name))
    })
}

pub(crate) fn gone(host: &HostView, id: &str) -> DriverError {
    DriverError::gone(format!("The instance {id} of `{}` is gone: it was terminated", &host.name))
        .with_hint(format!("Remove the host with `machine rm {}` and create it again", &host.name))
}
