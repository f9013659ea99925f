//! The tags on everything that is made: whose it is, so that nothing is ever lost.

use std::{collections::BTreeMap, path::Path};

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use machine_driver::HostView;

/// The host's identity; what is left over is found by it.
pub(crate) const ID: &str = "machine:id";
/// The host's name, or the shared group's. Whatever carries it was made by `machine`.
pub(crate) const NAME: &str = "machine:name";
/// Who made it, so that colleagues with the same account do not clean up one another's hosts.
pub(crate) const OWNER: &str = "machine:owner";
/// On a group of several hosts.
pub(crate) const SHARED: &str = "machine:shared";

/// `user@computer:store`, in the characters that tags take.
pub(crate) fn owner(store: &Path) -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let computer = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let user = if user.is_empty() { "unknown" } else { &user };
    let text = format!("{user}@{}:{}", computer.trim(), store.display());
    text.chars()
        .map(|c| if c.is_alphanumeric() || "._-@+=:/ ".contains(c) { c } else { '_' })
        .take(256)
        .collect()
}

/// The store: a host's folder is `machines/NAME` in it.
fn store<'a>(host: &HostView<'a>) -> &'a Path {
    host.folder.parent().and_then(Path::parent).unwrap_or(host.folder)
}

/// The tags of what is made for one host: the user's, `Name` for people, ours.
pub(crate) fn of_host(host: &HostView<'_>, user: &BTreeMap<String, String>) -> Vec<Tag> {
    let mut tags = BTreeMap::from([("Name".to_owned(), host.name.to_string())]);
    tags.extend(user.clone());
    tags.insert(ID.to_owned(), host.id.to_string());
    tags.insert(NAME.to_owned(), host.name.to_string());
    tags.insert(OWNER.to_owned(), owner(store(host)));
    listed(tags)
}

/// The tags of a group that several hosts share.
pub(crate) fn of_shared(host: &HostView<'_>, name: &str) -> Vec<Tag> {
    listed(BTreeMap::from([
        (NAME.to_owned(), name.to_owned()),
        (SHARED.to_owned(), "true".to_owned()),
        (OWNER.to_owned(), owner(store(host))),
    ]))
}

fn listed(tags: BTreeMap<String, String>) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// Puts tags on a new resource of a kind.
pub(crate) fn on(kind: ResourceType, tags: &[Tag]) -> TagSpecification {
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.to_vec())).build()
}
