//! Who a container's process runs as, from the `passwd` and `group` files of its own root file system.

use std::path::Path;

use engine_kernel::confine::Root;
use engine_kernel::ids::IdMap;

/// Larger files are not believed.
const LARGEST_FILE: u64 = 1024 * 1024;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoSuchUser { name: String },
    #[error("Unable to find group {name}: no matching entries in group file")]
    NoSuchGroup { name: String },
    #[error("{what} {number} is beyond the range that `userns-remap` gives to containers")]
    NotMapped { what: &'static str, number: u32 },
}

impl User {
    /// What the user is called on the host.
    pub(crate) fn outside(&self, ids: Option<&IdMap>) -> Result<u32, UserError> {
        let Some(ids) = ids else { return Ok(self.uid) };
        for &number in &self.additional_gids {
            ids.group_outside(number).ok_or(UserError::NotMapped { what: "group", number })?;
        }
        ids.user_outside(self.uid).ok_or(UserError::NotMapped { what: "user", number: self.uid })
    }
}

/// Resolves `user`, `uid`, `user:group` and so on; an empty text is root.
pub(crate) fn resolve(root: &Root, user: &str, extra_groups: &[String]) -> Result<User, UserError> {
    let read = |path: &str| {
        let content = root.read(Path::new(path), LARGEST_FILE).unwrap_or_default();
        String::from_utf8_lossy(&content).into_owned()
    };
    resolve_in(&read("/etc/passwd"), &read("/etc/group"), user, extra_groups)
}

pub(crate) fn resolve_in(
    passwd: &str,
    group: &str,
    text: &str,
    extra_groups: &[String],
) -> Result<User, UserError> {
    let (user, primary) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok().filter(|&number| i32::try_from(number).is_ok());
    let entry = entries(passwd).find(|fields| fields.first() == Some(&user)).or_else(|| {
        let number = number?;
        entries(passwd).find(|fields| fields.get(2).and_then(|uid| uid.parse().ok()) == Some(number))
    });
    let field = |index: usize| entry.as_ref().and_then(|fields| fields.get(index).copied());
    let uid = field(2)
        .and_then(|uid| uid.parse().ok())
        .or(number)
        .ok_or_else(|| UserError::NoSuchUser { name: user.to_owned() })?;
    let name = field(0).unwrap_or_default();
    let mut additional_gids = Vec::new();
    let gid = if let Some(primary) = primary.filter(|group| !group.is_empty()) {
        group_number(group, primary)?
    } else {
        let is_ours = |fields: &Vec<&str>| {
            !name.is_empty() && fields.get(3).is_some_and(|members| is_member(members, name))
        };
        let memberships = entries(group).filter(is_ours);
        additional_gids.extend(memberships.filter_map(|fields| fields.get(2)?.parse::<u32>().ok()));
        field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0)
    };
    for extra in extra_groups {
        additional_gids.push(group_number(group, extra)?);
    }
    // The process always is in its own group; without this it would keep those of the engine.
    additional_gids.insert(0, gid);
    let mut seen = std::collections::HashSet::new();
    additional_gids.retain(|gid| seen.insert(*gid));
    let home = field(5).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
    Ok(User { uid, gid, additional_gids, home })
}

fn group_number(group: &str, wanted: &str) -> Result<u32, UserError> {
    entries(group)
        .find(|fields| fields.first() == Some(&wanted))
        .and_then(|fields| fields.get(2)?.parse().ok())
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| UserError::NoSuchGroup { name: wanted.to_owned() })
}

fn is_member(members: &str, name: &str) -> bool {
    members.split(',').any(|member| member.trim() == name)
}

fn entries(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.splitn(8, ':').collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PASSWD: &str =
        "# who\nroot:x:0:0:root:/root:/bin/sh\npostgres:x:70:71:p:/var/lib/p:/bin/sh\nbroken:x\n";
    const GROUP: &str = "root:x:0:root\npostgres:x:71:\nssl:x:80:other,postgres\ndisk:x:81:root\n";

    fn user(text: &str) -> Result<User, UserError> {
        resolve_in(PASSWD, GROUP, text, &[])
    }

    #[test]
    fn names_and_numbers() {
        let postgres = user("postgres").unwrap();
        assert_eq!((postgres.uid, postgres.gid, postgres.home.as_str()), (70, 71, "/var/lib/p"));
        assert_eq!(postgres.additional_gids, [71, 80]);
        assert_eq!(user("70").unwrap(), postgres);
        assert_eq!(user("").unwrap().additional_gids, [0, 81]);
        let unknown = user("1234").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (1234, 0, "/"));
        let pair = user("postgres:disk").unwrap();
        assert_eq!((pair.uid, pair.gid, pair.additional_gids), (70, 81, vec![81]));
        assert_eq!(user("0:99").unwrap().gid, 99);
        assert_eq!(resolve_in("", "", "", &["5".into()]).unwrap().additional_gids, [0, 5]);
    }

    #[test]
    fn unknown_ones_are_named() {
        assert_eq!(user("nobody").unwrap_err(), UserError::NoSuchUser { name: "nobody".into() });
        assert_eq!(user("root:none").unwrap_err(), UserError::NoSuchGroup { name: "none".into() });
        assert!(user("-1").is_err());
        assert!(user("4294967295").is_err());
        assert!(user("broken").is_err());
    }
}
