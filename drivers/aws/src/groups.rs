//! Security groups: the host's own, those that hosts share, and those of the user.

use aws_sdk_ec2::types::{
    IpPermission, IpRange, Ipv6Range, ResourceType, SecurityGroup, Tag, UserIdGroupPair,
};
use machine_driver::{DriverError, HostView, Progress};

use crate::{
    api::{Api, Call},
    caller,
    config::Config,
    error::{Answer as _, ApiError},
    patience::Patience,
    placement::filter,
    region::Region,
    rules::{self, Cidr, Rule, Source},
    state::{Book, Plan, SECURITY_GROUP, SHARED_GROUP},
    tags,
};

/// The name of the host's own group. The id keeps two stores with a host of the same name apart.
pub(crate) fn own_name(host: &HostView) -> String {
    let id = host.id.to_string();
    format!("machine-{}-{}", &host.name, &id[..8])
}

fn shared_name(swarm: &str) -> String {
    format!("machine-swarm-{swarm}")
}

/// Who may reach SSH and the engine, unless it was said.
pub(crate) async fn callers(region: &Region, config: &Config, plan: &Plan) -> Result<Vec<Cidr>, DriverError> {
    if !config.open_to.is_empty() {
        return Ok(config.open_to.clone());
    }
    if config.is_private() {
        let subnet = plan.places.first().map(|place| place.addresses.as_str()).unwrap_or_default();
        let there: Cidr = subnet.parse()?;
        return Ok(vec![Cidr::of(caller::towards(there.address())?)]);
    }
    let url = config.checkip_url.clone();
    let address = region.own_addresses.get(url.clone(), Box::pin(caller::public(&url))).await?;
    Ok(vec![Cidr::of(address)])
}

/// The groups that the user named, by id. Those that are not there are refused.
pub(crate) async fn named(region: &Region, config: &Config, vpc: &str) -> Result<Vec<String>, DriverError> {
    let key = (config.groups.clone(), vpc.to_owned());
    region.named_groups.get(key, Box::pin(ask_named(&region.api, &config.groups, vpc))).await
}

async fn ask_named(api: &Api, names: &[String], vpc: &str) -> Result<Vec<String>, DriverError> {
    let found = find(api, "vpc-id", &[vpc.to_owned()])
        .await
        .map_err(|error| error.during(format!("Could not look up the security groups of {vpc}")))?;
    let mut ids = Vec::new();
    for name in names {
        let group = found.iter().find(|group| {
            group.group_id() == Some(name.as_str()) || group.group_name() == Some(name.as_str())
        });
        match group.and_then(SecurityGroup::group_id) {
            Some(id) => ids.push(id.to_owned()),
            None => {
                return Err(DriverError::invalid(format!("There is no security group `{name}` in {vpc}"))
                    .with_hint(
                        "Without `--aws-security-group` the host gets one of its own, which goes with it",
                    ));
            }
        }
    }
    ids.dedup();
    Ok(ids)
}

pub(crate) async fn find(api: &Api, by: &str, values: &[String]) -> Result<Vec<SecurityGroup>, ApiError> {
    let by = filter(by, values.iter().cloned());
    let pages = api.describe_security_groups().filters(by).into_paginator().items().send();
    pages.collect::<Result<Vec<_>, _>>().await.answer(Call::DescribeSecurityGroups, api)
}

/// Makes the host's groups, or completes them; ids in the order in which the instance has them.
pub(crate) async fn ensure(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let api = &region.api;
    let callers = if config.groups_read_only { Vec::new() } else { callers(region, config, plan).await? };
    let mut rules = rules::for_callers(config.ssh_port, config.swarm_manager, &callers);
    rules.extend(rules::for_open_ports(&config.open_ports));
    let rules = rules::distinct(rules);
    let mut ids = Vec::new();
    if config.groups.is_empty() {
        let name = own_name(host);
        book.intend(SECURITY_GROUP, &name).await?;
        progress.step("Creating the security group");
        let tags = tags::of_host(host, &config.tags);
        let about = format!("The host {} of machine", &host.name);
        let id = make(api, &name, &plan.vpc, &about, &tags).await?;
        allow(api, &id, &rules).await?;
        book.made.own_group = Some(id.clone());
        book.made.let_in = callers.iter().map(ToString::to_string).collect();
        ids.push(id.clone());
        book.made(SECURITY_GROUP, &name, Some(&id)).await?;
    } else {
        ids.extend(named(region, config, &plan.vpc).await?);
        if let (false, Some(first)) = (config.groups_read_only, ids.first()) {
            allow(api, first, &rules).await?;
        }
    }
    if let Some(swarm) = &config.swarm {
        let name = shared_name(swarm);
        book.intend(SHARED_GROUP, &name).await?;
        let about = format!("Members of the swarm {swarm} of machine");
        let id = make(api, &name, &plan.vpc, &about, &tags::of_shared(host, &name)).await?;
        allow(api, &id, &rules::for_members()).await?;
        ids.push(id.clone());
        book.made(SHARED_GROUP, &name, Some(&id)).await?;
    }
    book.made.groups = ids;
    book.save().await
}

/// Makes a group, or finds the one of that name that an earlier run, a lost reply or another host made.
async fn make(api: &Api, name: &str, vpc: &str, about: &str, tags: &[Tag]) -> Result<String, DriverError> {
    let attempt = || format!("Could not create the security group {name}");
    let made = api
        .create_security_group()
        .group_name(name)
        .description(about)
        .vpc_id(vpc)
        .tag_specifications(tags::on(ResourceType::SecurityGroup, tags))
        .send()
        .await
        .answer(Call::CreateSecurityGroup, api);
    match made {
        Ok(made) => Ok(made.group_id.unwrap_or_default()),
        Err(error) if error.is("InvalidGroup.Duplicate") => {
            // It may have been made a moment ago, and not be listed yet.
            let mut patience = Patience::for_consistency();
            loop {
                let found = find(api, "group-name", &[name.to_owned()])
                    .await
                    .map_err(|error| error.during(attempt()))?;
                let ours = found.iter().find(|group| group.vpc_id() == Some(vpc));
                if let Some(group) = ours {
                    let is_ours = group.tags().iter().any(|tag| tag.key() == Some(tags::NAME));
                    return match group.group_id() {
                        Some(id) if is_ours => Ok(id.to_owned()),
                        _ => Err(DriverError::refused(format!(
                            "There is a security group {name} in {vpc} that `machine` did not make"
                        ))
                        .with_hint("Rename or delete it, or choose another name")),
                    };
                }
                if !patience.wait().await {
                    return Err(error.during(attempt()));
                }
            }
        }
        Err(error) => Err(error.during(attempt())),
    }
}

/// Adds the rules that are missing.
pub(crate) async fn allow(api: &Api, group: &str, rules: &[Rule]) -> Result<(), DriverError> {
    if rules.is_empty() {
        return Ok(());
    }
    let attempt = || format!("Could not add rules to the security group {group}");
    let mut patience = Patience::for_consistency();
    let mut one_by_one = false;
    loop {
        match authorize(api, group, rules, one_by_one).await {
            Ok(()) => return Ok(()),
            // One that is there already refuses all that came with it.
            Err(error) if error.is("InvalidPermission.Duplicate") && !one_by_one => one_by_one = true,
            Err(error) if error.is_not_found() && patience.wait().await => {}
            Err(error) => return Err(error.during(attempt())),
        }
    }
}

async fn authorize(api: &Api, group: &str, rules: &[Rule], one_by_one: bool) -> Result<(), ApiError> {
    let size = if one_by_one { 1 } else { rules.len() };
    for rules in rules.chunks(size) {
        let permissions = rules.iter().map(|rule| permission(rule, group)).collect();
        let answer = api
            .authorize_security_group_ingress()
            .group_id(group)
            .set_ip_permissions(Some(permissions))
            .send()
            .await
            .answer(Call::AuthorizeSecurityGroupIngress, api);
        match answer {
            Ok(_) => {}
            Err(error) if one_by_one && error.is("InvalidPermission.Duplicate") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn permission(rule: &Rule, group: &str) -> IpPermission {
    let has_ports = matches!(rule.protocol.as_str(), "tcp" | "udp");
    let port = |port: u16| if has_ports { i32::from(port) } else { -1 };
    let permission = IpPermission::builder()
        .ip_protocol(&rule.protocol)
        .from_port(port(rule.first))
        .to_port(port(rule.last));
    match &rule.source {
        Source::Network(network) if network.is_ipv4() => permission
            .ip_ranges(IpRange::builder().cidr_ip(network.to_string()).description(rule.why).build()),
        Source::Network(network) => permission
            .ipv6_ranges(Ipv6Range::builder().cidr_ipv6(network.to_string()).description(rule.why).build()),
        Source::Members => permission
            .user_id_group_pairs(UserIdGroupPair::builder().group_id(group).description(rule.why).build()),
    }
    .build()
}

/// Lets the caller in from where it is now, and no more from where it was: people move with their laptops.
pub(crate) async fn follow_caller(
    region: &Region,
    config: &Config,
    plan: &Plan,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    if !config.open_to.is_empty() || config.groups_read_only {
        return Ok(());
    }
    let Some(group) = book.made.own_group.clone() else {
        // A group of the user's may hold rules that look like ours: nothing is taken from it.
        return Ok(());
    };
    let now = match callers(region, config, plan).await {
        Ok(now) => now,
        Err(error) => {
            progress.note(&format!("{error}; the security group stays as it is"));
            return Ok(());
        }
    };
    let texts: Vec<String> = now.iter().map(ToString::to_string).collect();
    if texts == book.made.let_in {
        return Ok(());
    }
    progress.step(&format!("Letting {} in", texts.join(" and ")));
    let rules = |sources: &[Cidr]| rules::for_callers(config.ssh_port, config.swarm_manager, sources);
    allow(&region.api, &group, &rules(&now)).await?;
    let before: Vec<Cidr> = book.made.let_in.iter().filter_map(|text| text.parse().ok()).collect();
    let permissions: Vec<IpPermission> = rules(&before).iter().map(|rule| permission(rule, &group)).collect();
    book.made.let_in = texts;
    book.save().await?;
    if permissions.is_empty() {
        return Ok(());
    }
    let answer = region
        .api
        .revoke_security_group_ingress()
        .group_id(&group)
        .set_ip_permissions(Some(permissions))
        .send()
        .await
        .answer(Call::RevokeSecurityGroupIngress, &region.api);
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.during(format!("Could not take rules from the security group {group}"))),
    }
}
