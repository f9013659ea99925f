//! Security groups: the host's own, those that members of a swarm share, and those of the user.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{IpPermission, ResourceType, SecurityGroup, Tag};
use machine_driver::{DriverError, HostView, Network, Progress, Rule};

use crate::{
    api::{Api, Call, filter},
    caller,
    config::Config,
    error::{Answer as _, ApiError},
    region::Region,
    rules,
    state::{self, Book, Plan, SECURITY_GROUP, SHARED_GROUP},
    tags,
};

/// Who may reach SSH and the engine, unless it was said.
pub(crate) async fn callers(
    region: &Region,
    config: &Config,
    plan: &Plan,
) -> Result<Vec<Network>, DriverError> {
    if !config.open_to.is_empty() {
        return Ok(config.open_to.clone());
    }
    let address = if config.is_private() {
        let subnet = plan.places.first().map(|place| place.addresses.as_str()).unwrap_or_default();
        caller::towards(rules::network(subnet)?.address())?
    } else {
        let url = config.checkip_url.clone();
        region.own_addresses.get(url.clone(), Box::pin(caller::public(&url))).await?
    };
    Ok(vec![rules::network(&address.to_string())?])
}

/// What the options of a host let in, and what was asked for besides.
fn wanted(config: &Config, admitted: &[Rule]) -> Vec<Rule> {
    let mut wanted = rules::for_callers(config.ssh_port, config.swarm_manager);
    wanted.extend(rules::for_open_ports(&config.open_ports));
    wanted.extend(config.swarm.iter().flat_map(|swarm| rules::for_members(swarm)));
    wanted.extend(admitted.iter().cloned());
    wanted
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

/// The groups that a filter matches.
pub(crate) async fn find(api: &Api, by: &str, values: &[String]) -> Result<Vec<SecurityGroup>, ApiError> {
    let by = filter(by, values.iter().cloned());
    let pages = api.describe_security_groups().filters(by).into_paginator().items().send();
    pages.collect::<Result<Vec<_>, _>>().await.answer(Call::DescribeSecurityGroups, api)
}

/// Makes the host's groups, or completes them, with the rules that its options and `admitted` come to. What was let in
/// before and is not wanted any more is let in no longer.
pub(crate) async fn ensure(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    admitted: &[Rule],
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let wanted = wanted(config, admitted);
    let callers = if config.groups_read_only { Vec::new() } else { callers(region, config, plan).await? };
    let for_host = rules::from_networks(&wanted, &callers);
    let mut ids = Vec::new();
    if config.groups.is_empty() {
        let name = tags::name_of_ours(host);
        let group = if let Some(id) = &book.made.own_group {
            Made { id: id.clone(), is_new: false }
        } else {
            book.intend(SECURITY_GROUP, &name).await?;
            progress.step("Creating the security group");
            let about = format!("The host {} of machine", host.name);
            make(region, &name, &plan.vpc, &about, &tags::of_host(host, &config.tags)).await?
        };
        book.made.own_group = Some(group.id.clone());
        ids.push(group.id.clone());
        book.made(SECURITY_GROUP, &name, Some(&group.id)).await?;
        let present = if group.is_new { Vec::new() } else { permissions(region, &group.id).await? };
        reconcile(region, &group.id, for_host, &present, book).await?;
    } else {
        ids.extend(named(region, config, &plan.vpc).await?);
        if let (false, Some(first)) = (config.groups_read_only, ids.first()) {
            // The user's own: nothing is ever taken from it.
            allow(region, first, &for_host).await?;
        }
    }
    for (cluster, rules) in rules::by_cluster(&wanted) {
        let name = tags::name_of_shared(&cluster);
        book.intend(SHARED_GROUP, &name).await?;
        let about = format!("Members of the swarm {cluster} of machine");
        let group = make(region, &name, &plan.vpc, &about, &tags::of_shared(host, &name)).await?;
        allow(region, &group.id, &rules).await?;
        ids.push(group.id.clone());
        book.made(SHARED_GROUP, &name, Some(&group.id)).await?;
    }
    book.made.groups = ids;
    book.save().await
}

/// Whether what is let in is what would be let in now: people move with their laptops.
pub(crate) async fn are_current(
    region: &Region,
    config: &Config,
    plan: &Plan,
    made: &state::Made,
) -> Result<bool, DriverError> {
    if made.own_group.is_none() || !config.open_to.is_empty() {
        return Ok(true);
    }
    let callers = callers(region, config, plan).await?;
    let wanted = rules::from_networks(&wanted(config, &made.admitted), &callers);
    Ok(made.opening.is_empty() && made.rules == wanted)
}

/// A group that is there.
struct Made {
    id: String,
    /// It was made by this very call, and is empty.
    is_new: bool,
}

/// Makes a group, or finds the one of that name that an earlier run, a lost reply or another host made.
async fn make(
    region: &Region,
    name: &str,
    vpc: &str,
    about: &str,
    tags: &[Tag],
) -> Result<Made, DriverError> {
    let api = &region.api;
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
        Ok(made) => Ok(Made { id: made.group_id.unwrap_or_default(), is_new: true }),
        Err(error) if error.is("InvalidGroup.Duplicate") => {
            // It may have been made a moment ago, and not be listed yet.
            let mut backoff = region.pace.for_consistency();
            loop {
                let found = find(api, "group-name", &[name.to_owned()])
                    .await
                    .map_err(|error| error.during(attempt()))?;
                let ours = found.iter().find(|group| group.vpc_id() == Some(vpc));
                if let Some(group) = ours {
                    let is_ours = group.tags().iter().any(|tag| tag.key() == Some(tags::NAME));
                    return match group.group_id() {
                        Some(id) if is_ours => Ok(Made { id: id.to_owned(), is_new: false }),
                        _ => Err(DriverError::refused(format!(
                            "There is a security group {name} in {vpc} that `machine` did not make"
                        ))
                        .with_hint("Rename or delete it, or choose another name")),
                    };
                }
                if !backoff.wait().await {
                    return Err(error.during(attempt()));
                }
            }
        }
        Err(error) => Err(error.during(attempt())),
    }
}

/// What a group of ours lets in now, as far as AWS shows it yet.
async fn permissions(region: &Region, group: &str) -> Result<Vec<IpPermission>, DriverError> {
    let found = find(&region.api, "group-id", &[group.to_owned()]).await.map_err(|error| {
        error.during(format!("Could not look up the rules of the security group {group}"))
    })?;
    Ok(found.into_iter().flat_map(|group| group.ip_permissions.unwrap_or_default()).collect())
}

/// Has the host's own group let in what is wanted, and no more what we let in before. Rules of others are neither
/// counted as ours nor taken away. The record knows of each rule of ours from before it exists until after it is gone.
async fn reconcile(
    region: &Region,
    group: &str,
    wanted: BTreeSet<Rule>,
    present: &[IpPermission],
    book: &mut Book<'_>,
) -> Result<(), DriverError> {
    let mut ours: BTreeSet<Rule> = book.made.rules.union(&book.made.opening).cloned().collect();
    let is_there = |rule: &Rule| rules::has(present, rule, group);
    let is_theirs = |rule: &Rule| is_there(rule) && !ours.contains(rule);
    let wanted: BTreeSet<Rule> = wanted.into_iter().filter(|rule| !is_theirs(rule)).collect();
    let opening: BTreeSet<Rule> = wanted.iter().filter(|rule| !is_there(rule)).cloned().collect();
    let closing: Vec<Rule> = ours.difference(&wanted).cloned().collect();
    if opening.is_empty() && closing.is_empty() && book.made.rules == wanted {
        book.made.opening.clear();
        return book.save().await;
    }
    ours.extend(opening.iter().cloned());
    book.made.opening = ours.difference(&book.made.rules).cloned().collect();
    book.save().await?;
    allow(region, group, &opening).await?;
    revoke(&region.api, group, &closing).await?;
    book.made.rules = wanted;
    book.made.opening.clear();
    book.save().await
}

/// Adds the rules that are missing.
async fn allow(region: &Region, group: &str, rules: &BTreeSet<Rule>) -> Result<(), DriverError> {
    if rules.is_empty() {
        return Ok(());
    }
    let rules: Vec<Rule> = rules.iter().cloned().collect();
    let attempt = || format!("Could not add rules to the security group {group}");
    let mut backoff = region.pace.for_consistency();
    let mut one_by_one = false;
    loop {
        match authorize(&region.api, group, &rules, one_by_one).await {
            Ok(()) => return Ok(()),
            // One that is there already refuses all that came with it.
            Err(error) if error.is("InvalidPermission.Duplicate") && !one_by_one => one_by_one = true,
            Err(error) if error.is_not_found() && backoff.wait().await => {}
            Err(error) => return Err(error.during(attempt())),
        }
    }
}

async fn authorize(api: &Api, group: &str, rules: &[Rule], one_by_one: bool) -> Result<(), ApiError> {
    let size = if one_by_one { 1 } else { rules.len() };
    for rules in rules.chunks(size) {
        let permissions = rules.iter().map(|rule| rules::permission(rule, group)).collect();
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

/// Takes rules away. One by one: one that is gone already refuses all that come with it.
async fn revoke(api: &Api, group: &str, rules: &[Rule]) -> Result<(), DriverError> {
    for rule in rules {
        let answer = api
            .revoke_security_group_ingress()
            .group_id(group)
            .ip_permissions(rules::permission(rule, group))
            .send()
            .await
            .answer(Call::RevokeSecurityGroupIngress, api);
        match answer {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                return Err(error.during(format!("Could not take rules from the security group {group}")));
            }
        }
    }
    Ok(())
}
