//! Where an instance can be: its VPC, and the subnets whose zones have its type.

use aws_sdk_ec2::types::{Filter, LocationType, Subnet};
use machine_driver::{DriverError, Forecast, HostView};

use crate::{
    api::{Api, Call, filter},
    config::Config,
    error::{Answer as _, ApiError},
    image,
    region::Region,
    state::{Place, Plan},
};

/// Lists of choices are no longer.
const CHOICES: usize = 8;

/// Everything that has to be known before something is made; asked once for all hosts that are alike.
pub(crate) async fn plan(region: &Region, config: &Config) -> Result<Plan, DriverError> {
    let key = format!(
        "{:?}",
        (&config.image, &config.ssh_user, &config.instance_type, &config.vpc, &config.subnet, &config.zone)
    );
    region.plans.get(key, Box::pin(ask(region, config))).await
}

/// The same for one host, whose place is tried first.
pub(crate) async fn plan_for(region: &Region, config: &Config, host: &HostView) -> Result<Plan, DriverError> {
    let plan = plan(region, config).await?;
    let Some(zone) = &host.place else { return Ok(plan) };
    if !plan.places.iter().any(|place| place.zone == *zone) {
        let zones: Vec<&str> = plan.places.iter().map(|place| place.zone.as_str()).collect();
        return Err(DriverError::invalid(format!("`{}` cannot be in {zone}", host.name))
            .with_hint(format!("There is {}", zones.join(", "))));
    }
    Ok(plan.beginning_in(zone))
}

/// What a host would be.
pub(crate) fn forecast(plan: &Plan) -> Forecast {
    // In Rust's words.
    let architecture = match plan.image.architecture.as_str() {
        "arm64" => "aarch64",
        other => other,
    };
    Forecast {
        architecture: Some(architecture.to_owned()).filter(|name| !name.is_empty()),
        place: plan.places.first().map(|place| place.zone.clone()),
        notes: Vec::new(),
    }
}

async fn ask(region: &Region, config: &Config) -> Result<Plan, DriverError> {
    let architectures = region
        .architectures
        .get(config.instance_type.clone(), Box::pin(architectures(&region.api, &config.instance_type)))
        .await?;
    let image = image::resolve(region, &config.image, config.ssh_user.as_deref(), &architectures).await?;
    if config.root.size < image.root_size {
        return Err(DriverError::invalid(format!(
            "The image {} needs a root disk of {} GiB at least",
            image.id, image.root_size
        ))
        .with_hint("Give it one with `--aws-root-size`"));
    }
    let api = &region.api;
    let subnets = subnets(api, config).await?;
    let vpc = subnets.first().and_then(Subnet::vpc_id).unwrap_or_default().to_owned();
    let places = places(api, config, &subnets).await?;
    Ok(Plan { region: api.region.clone(), image, vpc, places })
}

async fn architectures(api: &Api, kind: &str) -> Result<Vec<String>, DriverError> {
    let answer = api
        .describe_instance_types()
        .instance_types(kind.into())
        .send()
        .await
        .answer(Call::DescribeInstanceTypes, api);
    let missing = || {
        DriverError::invalid(format!("There is no instance type `{kind}` in {}", api.region))
            .with_hint("Choose one with `--aws-instance-type`, such as t3.small or m7g.large")
    };
    let found = match answer {
        Ok(answer) => answer.instance_types.unwrap_or_default().into_iter().next().ok_or_else(missing)?,
        Err(error) if error.is_any(&["InvalidInstanceType", "InvalidParameterValue"]) => {
            explain_region(api).await?;
            return Err(missing());
        }
        Err(error) => {
            return Err(unreachable(api, error, format!("Could not look up the type `{kind}`")).await);
        }
    };
    let known: Vec<String> = found
        .processor_info()
        .map(|info| info.supported_architectures().iter().map(|a| a.as_str().to_owned()).collect())
        .unwrap_or_default();
    // 32 bits are no host for containers.
    Ok(known.into_iter().filter(|name| name == "x86_64" || name == "arm64").collect())
}

/// The first call in a region shows whether there is such a region.
async fn unreachable(api: &Api, error: ApiError, attempt: String) -> DriverError {
    if error.code.is_empty() || error.is_denied() {
        return error.during(attempt);
    }
    match explain_region(api).await {
        Err(explained) => explained,
        Ok(()) => error.during(attempt),
    }
}

/// Says so if there is no region of that name. Asked only when something else could not be found there.
async fn explain_region(api: &Api) -> Result<(), DriverError> {
    let answer = api.describe_regions().send().await.answer(Call::DescribeRegions, api);
    let Ok(answer) = answer else { return Ok(()) };
    let mut names: Vec<&str> = answer.regions().iter().filter_map(|region| region.region_name()).collect();
    if names.is_empty() || names.contains(&api.region.as_str()) {
        return Ok(());
    }
    names.sort_unstable();
    Err(DriverError::invalid(format!("There is no region `{}` in this account", api.region))
        .with_hint(format!("The regions are {}", names.join(", "))))
}

/// All regions that the account has.
pub(crate) async fn regions(api: &Api) -> Result<Vec<String>, DriverError> {
    let answer = api
        .describe_regions()
        .send()
        .await
        .answer(Call::DescribeRegions, api)
        .map_err(|error| error.during("Could not look up the regions"))?;
    Ok(answer.regions.unwrap_or_default().into_iter().filter_map(|region| region.region_name).collect())
}

/// The subnets that may be used: of one VPC, at least one.
async fn subnets(api: &Api, config: &Config) -> Result<Vec<Subnet>, DriverError> {
    if let Some(id) = &config.subnet {
        return one_subnet(api, config, id).await.map(|subnet| vec![subnet]);
    }
    let vpc = match &config.vpc {
        Some(vpc) => vpc.clone(),
        None => default_vpc(api).await?,
    };
    let mut filters = vec![filter("vpc-id", [vpc.as_str()]), filter("state", ["available"])];
    let zone = config.zone.as_deref().map(|zone| full_zone(&api.region, zone));
    if let Some(zone) = &zone {
        filters.push(filter("availability-zone", [zone.as_str()]));
    }
    let mut found = all_subnets(api, filters)
        .await
        .map_err(|error| error.during(format!("Could not look up the subnets of {vpc}")))?;
    if found.is_empty() {
        let where_ = zone.map(|zone| format!(" in the zone {zone}")).unwrap_or_default();
        let others = all_subnets(api, vec![filter("vpc-id", [vpc.as_str()])]).await.unwrap_or_default();
        let error = DriverError::invalid(format!("The VPC {vpc} has no subnet{where_}"));
        return Err(if others.is_empty() {
            error.with_hint("Name another VPC with `--aws-vpc-id`, or make a subnet")
        } else {
            error.with_hint(format!("It has {}", listed(&others)))
        });
    }
    if found.iter().any(|subnet| subnet.default_for_az() == Some(true)) {
        found.retain(|subnet| subnet.default_for_az() == Some(true));
    } else {
        let mut zones: Vec<&str> = found.iter().filter_map(Subnet::availability_zone).collect();
        zones.sort_unstable();
        let count = zones.len();
        zones.dedup();
        if zones.len() < count {
            // Which of them is the public one cannot be guessed.
            return Err(DriverError::invalid(format!("The VPC {vpc} has several subnets in a zone"))
                .with_hint(format!("Choose one with `--aws-subnet-id`: {}", listed(&found))));
        }
    }
    found.sort_by(|one, other| one.availability_zone().cmp(&other.availability_zone()));
    Ok(found)
}

async fn one_subnet(api: &Api, config: &Config, id: &str) -> Result<Subnet, DriverError> {
    let missing = || {
        DriverError::invalid(format!("There is no subnet {id} in {}", api.region))
            .with_hint("`aws ec2 describe-subnets` lists them; or leave `--aws-subnet-id` out")
    };
    let answer = api.describe_subnets().subnet_ids(id).send().await.answer(Call::DescribeSubnets, api);
    let subnet = match answer {
        Ok(answer) => answer.subnets.unwrap_or_default().into_iter().next().ok_or_else(missing)?,
        Err(error) if error.is_not_found() => return Err(missing()),
        Err(error) => return Err(error.during(format!("Could not look up the subnet {id}"))),
    };
    let (of, zone) = (subnet.vpc_id().unwrap_or_default(), subnet.availability_zone().unwrap_or_default());
    if let Some(vpc) = config.vpc.as_deref().filter(|vpc| *vpc != of) {
        return Err(DriverError::invalid(format!("The subnet {id} is in {of}, not in {vpc}"))
            .with_hint("Leave `--aws-vpc-id` out, or name a subnet of that VPC"));
    }
    if let Some(wanted) = config.zone.as_deref().map(|zone| full_zone(&api.region, zone))
        && wanted != zone
    {
        return Err(DriverError::invalid(format!("The subnet {id} is in {zone}, not in {wanted}"))
            .with_hint("Leave `--aws-zone` out, or name a subnet of that zone"));
    }
    Ok(subnet)
}

async fn default_vpc(api: &Api) -> Result<String, DriverError> {
    let answer = api
        .describe_vpcs()
        .send()
        .await
        .answer(Call::DescribeVpcs, api)
        .map_err(|error| error.during("Could not look up the default VPC"))?;
    if let Some(vpc) = answer.vpcs().iter().find(|vpc| vpc.is_default() == Some(true)) {
        return Ok(vpc.vpc_id().unwrap_or_default().to_owned());
    }
    explain_region(api).await?;
    let others: Vec<String> = answer
        .vpcs()
        .iter()
        .take(CHOICES)
        .map(|vpc| format!("{} ({})", vpc.vpc_id().unwrap_or_default(), vpc.cidr_block().unwrap_or_default()))
        .collect();
    let error = DriverError::invalid(format!("The account has no default VPC in {}", api.region));
    Err(if others.is_empty() {
        error.with_hint("`aws ec2 create-default-vpc` makes one")
    } else {
        error.with_hint(format!("Choose a VPC with `--aws-vpc-id`: {}", others.join(", ")))
    })
}

async fn all_subnets(api: &Api, filters: Vec<Filter>) -> Result<Vec<Subnet>, ApiError> {
    let pages = api.describe_subnets().set_filters(Some(filters)).into_paginator().items().send();
    pages.collect::<Result<Vec<_>, _>>().await.answer(Call::DescribeSubnets, api)
}

/// The subnets whose zones have the type.
async fn places(api: &Api, config: &Config, subnets: &[Subnet]) -> Result<Vec<Place>, DriverError> {
    let kind = config.instance_type.as_str();
    let answer = api
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(filter("instance-type", [kind]))
        .send()
        .await
        .answer(Call::DescribeInstanceTypeOfferings, api)
        .map_err(|error| error.during(format!("Could not look up which zones have the type `{kind}`")))?;
    let zones: Vec<&str> =
        answer.instance_type_offerings().iter().filter_map(|offering| offering.location()).collect();
    let places: Vec<Place> = subnets
        .iter()
        .filter(|subnet| subnet.availability_zone().is_some_and(|zone| zones.contains(&zone)))
        .map(|subnet| Place {
            subnet: subnet.subnet_id().unwrap_or_default().to_owned(),
            zone: subnet.availability_zone().unwrap_or_default().to_owned(),
            addresses: subnet.cidr_block().unwrap_or_default().to_owned(),
        })
        .collect();
    if places.is_empty() {
        let mut tried: Vec<&str> = subnets.iter().filter_map(Subnet::availability_zone).collect();
        tried.dedup();
        let error = DriverError::invalid(format!("The type `{kind}` does not exist in {}", tried.join(", ")));
        return Err(if zones.is_empty() {
            error.with_hint("Choose another type with `--aws-instance-type`, or another region")
        } else {
            error.with_hint(format!("It exists in {}", zones.join(", ")))
        });
    }
    Ok(places)
}

/// `b` is `eu-west-1b`.
fn full_zone(region: &str, zone: &str) -> String {
    if zone.len() == 1 { format!("{region}{zone}") } else { zone.to_owned() }
}

fn listed(subnets: &[Subnet]) -> String {
    let mut texts: Vec<String> = subnets
        .iter()
        .take(CHOICES)
        .map(|subnet| {
            let public = if subnet.map_public_ip_on_launch() == Some(true) { ", public" } else { "" };
            format!(
                "{} ({}, {}{public})",
                subnet.subnet_id().unwrap_or_default(),
                subnet.availability_zone().unwrap_or_default(),
                subnet.cidr_block().unwrap_or_default()
            )
        })
        .collect();
    if subnets.len() > CHOICES {
        texts.push(format!("and {} more", subnets.len() - CHOICES));
    }
    texts.join(", ")
}
