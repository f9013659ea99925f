//! The tags on everything that is made: whose it is, so that nothing is ever lost.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use machine_driver::HostView;

/// The host's identity; what is left over is found by it.
pub(crate) const ID: &str = "machine:id";
/// The host's name, or the shared group's. Whatever carries it was made by `machine`.
pub(crate) const NAME: &str = "machine:name";
/// The id of the store that made it, so that colleagues with the same account do not clean up one another's hosts.
pub(crate) const OWNER: &str = "machine:owner";
/// On a group of several hosts.
pub(crate) const SHARED: &str = "machine:shared";

/// The filter for what has a tag.
pub(crate) fn filter_name(tag: &str) -> String {
    format!("tag:{tag}")
}

/// What the host's key pair and its own security group are called. The id keeps two stores with a host of the same name
/// apart.
pub(crate) fn name_of_ours(host: &HostView) -> String {
    let id = host.id.to_string();
    format!("machine-{}-{}", host.name, &id[..8])
}

/// What the security group of a swarm's members is called. The store's id keeps two stores with a swarm of the same name
/// apart: members of the one have no business with those of the other.
pub(crate) fn name_of_shared(swarm: &str, owner: &str) -> String {
    let owner: String = owner.chars().take(8).collect();
    format!("{}-{owner}", old_name_of_shared(swarm))
}

/// What earlier versions called it.
pub(crate) fn old_name_of_shared(swarm: &str) -> String {
    format!("machine-swarm-{swarm}")
}

/// The tags of what is made for one host: the user's, `Name` for people, ours.
pub(crate) fn of_host(host: &HostView, user: &BTreeMap<String, String>) -> Vec<Tag> {
    let mut tags = BTreeMap::from([("Name".to_owned(), host.name.to_string())]);
    tags.extend(user.clone());
    tags.insert(ID.to_owned(), host.id.to_string());
    tags.insert(NAME.to_owned(), host.name.to_string());
    tags.insert(OWNER.to_owned(), host.owner.clone());
    listed(tags)
}

/// The tags of a group that several hosts share.
pub(crate) fn of_shared(host: &HostView, name: &str) -> Vec<Tag> {
    listed(BTreeMap::from([
        (NAME.to_owned(), name.to_owned()),
        (SHARED.to_owned(), "true".to_owned()),
        (OWNER.to_owned(), host.owner.clone()),
    ]))
}

/// The value of a tag among those of a resource.
pub(crate) fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key))?.value()
}

/// Whether these are the tags of something that a host has for itself.
pub(crate) fn are_of_host(tags: &[Tag], host: &HostView) -> bool {
    value(tags, ID) == Some(host.id.to_string().as_str())
}

/// Whether these are the tags of something that hosts of this host's store share.
pub(crate) fn are_of_shared(tags: &[Tag], host: &HostView) -> bool {
    value(tags, SHARED).is_some() && value(tags, OWNER) == Some(host.owner.as_str())
}

/// Whether these are the tags of something that another store made. What has none says nothing.
pub(crate) fn are_of_others(tags: &[Tag], host: &HostView) -> bool {
    value(tags, OWNER).is_some_and(|owner| owner != host.owner)
}

fn listed(tags: BTreeMap<String, String>) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// Puts tags on a new resource of a kind.
pub(crate) fn on(kind: ResourceType, tags: &[Tag]) -> TagSpecification {
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.to_vec())).build()
}
