//! Security groups: the host's own, those that members of a cluster share, and those of the user. They are made and found
//! here; what they let in is told elsewhere.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{Filter, IpPermission, ResourceType, SecurityGroup, Tag};
use machine_driver::{DriverError, HostView, Progress};

use crate::{
    api::{Api, Call, filter},
    config::Config,
    error::{Answer as _, ApiError},
    region::Region,
    state::{Book, Plan, SECURITY_GROUP, SHARED_GROUP},
    tags,
};

/// A group of ours that is there.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: String,
    /// What it lets in, as far as AWS shows it yet.
    pub(crate) present: Vec<IpPermission>,
    /// Its tags say that another store made it.
    is_of_others: bool,
}

impl Group {
    fn of(group: SecurityGroup, host: &HostView) -> Option<Self> {
        let is_of_others = tags::are_of_others(group.tags(), host);
        Some(Self { id: group.group_id?, present: group.ip_permissions.unwrap_or_default(), is_of_others })
    }

    /// One that was made a moment ago.
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), present: Vec::new(), is_of_others: false }
    }
}

/// The groups of a host.
#[derive(Debug)]
pub(crate) struct Groups {
    /// `None` where the user named others.
    pub(crate) own: Option<Group>,
    /// The ids of those that the user named.
    pub(crate) named: Vec<String>,
    /// By cluster.
    pub(crate) shared: Vec<(String, Group)>,
}

impl Groups {
    /// All ids, in the order in which the instance is given them.
    fn ids(&self) -> Vec<String> {
        let ours = self.own.iter().map(|group| &group.id);
        let shared = self.shared.iter().map(|(_, group)| &group.id);
        ours.chain(&self.named).chain(shared).cloned().collect()
    }
}

/// The groups that the user named, by id. Those that are not there are refused.
pub(crate) async fn named(region: &Region, config: &Config, vpc: &str) -> Result<Vec<String>, DriverError> {
    let key = (config.groups.clone(), vpc.to_owned());
    region.named_groups.get(key, Box::pin(ask_named(&region.api, &config.groups, vpc))).await
}

async fn ask_named(api: &Api, names: &[String], vpc: &str) -> Result<Vec<String>, DriverError> {
    let found = find(api, vec![filter("vpc-id", [vpc])])
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

/// The groups that all of some filters match.
pub(crate) async fn find(api: &Api, filters: Vec<Filter>) -> Result<Vec<SecurityGroup>, ApiError> {
    let pages = api.describe_security_groups().set_filters(Some(filters)).into_paginator().items().send();
    pages.collect::<Result<Vec<_>, _>>().await.answer(Call::DescribeSecurityGroups, api)
}

/// Sees to it that the host's groups are there: its own, or the user's, and one for each of these clusters. Their ids are
/// recorded.
pub(crate) async fn ensure(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    clusters: &BTreeSet<&str>,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<Groups, DriverError> {
    let mut groups = Groups { own: None, named: Vec::new(), shared: Vec::new() };
    if config.groups.is_empty() {
        groups.own = Some(own(region, host, config, plan, book, progress).await?);
    } else {
        groups.named = named(region, config, &plan.vpc).await?;
    }
    for cluster in clusters {
        groups.shared.push(((*cluster).to_owned(), shared(region, host, cluster, plan, book).await?));
    }
    book.made.groups = groups.ids();
    book.save().await?;
    Ok(groups)
}

/// The host's own group: the recorded one, or one that is made.
async fn own(
    region: &Region,
    host: &HostView,
    config: &Config,
    plan: &Plan,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<Group, DriverError> {
    if let Some(id) = book.made.own_group.clone() {
        if let Some(group) = look(region, host, &id).await? {
            return Ok(group);
        }
        // Somebody deleted it, and its rules with it.
        book.made.own_group = None;
        book.made.admitted = None;
        book.made.rules.clear();
        book.made.opening.clear();
        book.made.closed.clear();
    }
    let name = tags::name_of_ours(host);
    book.intend(SECURITY_GROUP, &name).await?;
    progress.step("Creating the security group");
    let about = format!("The host {} of machine", host.name);
    let tags = tags::of_host(host, &config.tags);
    let group =
        make(region, host, &name, &plan.vpc, &about, &tags, |group| tags::are_of_host(group.tags(), host))
            .await?;
    book.made.own_group = Some(group.id.clone());
    book.made(SECURITY_GROUP, &name, Some(&group.id)).await?;
    Ok(group)
}

/// The group of a cluster's members: the recorded one; or one that this store made before, for another member; or one
/// that is made. A group of another store is not ours to use, whatever it is called.
async fn shared(
    region: &Region,
    host: &HostView,
    cluster: &str,
    plan: &Plan,
    book: &mut Book<'_>,
) -> Result<Group, DriverError> {
    // Members that an earlier version made share the group that it made.
    let names = [tags::old_name_of_shared(cluster), tags::name_of_shared(cluster, &host.owner)];
    for entry in book.journal.entries() {
        if entry.kind == SHARED_GROUP
            && names.contains(&entry.name)
            && let Some(id) = entry.id
            && let Some(group) = look(region, host, &id).await?
            // Earlier versions took over whatever had the name.
            && !group.is_of_others
        {
            return Ok(group);
        }
    }
    let by_name = filter(&tags::filter_name(tags::NAME), names.clone());
    let mut found = find(&region.api, vec![by_name, filter("vpc-id", [plan.vpc.as_str()])])
        .await
        .map_err(|error| error.during(format!("Could not look for the security group of {cluster}")))?;
    found.retain(|group| tags::are_of_shared(group.tags(), host));
    found.sort_by_key(|group| names.iter().position(|name| group.group_name() == Some(name.as_str())));
    let named = |group: SecurityGroup| Some((group.group_name.clone()?, Group::of(group, host)?));
    let (name, group) = if let Some(known) = found.into_iter().find_map(named) {
        known
    } else {
        let [_, name] = names;
        book.made.admitted = None;
        book.save().await?;
        book.intend(SHARED_GROUP, &name).await?;
        let about = format!("Members of the swarm {cluster} of machine");
        let tags = tags::of_shared(host, &name);
        let group = make(region, host, &name, &plan.vpc, &about, &tags, |group| {
            tags::are_of_shared(group.tags(), host)
        })
        .await?;
        (name, group)
    };
    book.made(SHARED_GROUP, &name, Some(&group.id)).await?;
    Ok(group)
}

/// A group by its recorded id. `None` only if it is in none of the answers of a while.
async fn look(region: &Region, host: &HostView, id: &str) -> Result<Option<Group>, DriverError> {
    if region.is_new_group(id) {
        return Ok(Some(Group::new(id)));
    }
    let look = || async {
        let found = find(&region.api, vec![filter("group-id", [id])]).await?;
        Ok(found.into_iter().find_map(|group| Group::of(group, host)))
    };
    let found: Result<_, ApiError> = region.pace.for_absence().until_found(look).await;
    found.map_err(|error| error.during(format!("Could not look for the security group {id}")))
}

/// Makes a group, or finds the one of that name that an earlier run, a lost reply or another host made. One that is not
/// ours is refused.
async fn make(
    region: &Region,
    host: &HostView,
    name: &str,
    vpc: &str,
    about: &str,
    tags: &[Tag],
    is_ours: impl Fn(&SecurityGroup) -> bool,
) -> Result<Group, DriverError> {
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
    let error = match made {
        Ok(made) => {
            let id = made.group_id.unwrap_or_default();
            region.note_new_group(&id);
            return Ok(Group::new(&id));
        }
        Err(error) if error.is("InvalidGroup.Duplicate") => error,
        Err(error) => return Err(error.during(attempt())),
    };
    // It may have been made a moment ago, and not be listed yet.
    let look = || async {
        let filters = vec![filter("group-name", [name]), filter("vpc-id", [vpc])];
        Ok(find(api, filters).await?.into_iter().next())
    };
    let found: Result<_, ApiError> = region.pace.for_consistency().until_found(look).await;
    let Some(group) = found.map_err(|error| error.during(attempt()))? else {
        return Err(error.during(attempt()));
    };
    let is_ours = is_ours(&group);
    Group::of(group, host).filter(|_| is_ours).ok_or_else(|| {
        DriverError::refused(format!(
            "There is a security group {name} in {vpc} that was not made for this host"
        ))
        .with_hint("Rename or delete it, or choose another name for the host or its swarm")
    })
}
