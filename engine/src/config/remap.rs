//! `userns-remap`: which numbers of the host belong to the users of containers, by `/etc/subuid` and `/etc/subgid`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engine_containers::IdMap;

/// The user that is meant by `default`.
const DEFAULT_USER: &str = "dockremap";

/// Why nobody can be meant.
#[derive(Debug, thiserror::Error)]
pub enum RemapError {
    #[error("invalid user/group specification in `userns-remap`: {0:?}")]
    Specification(String),
    #[error("There is no user `{0}` in /etc/passwd")]
    NoUser(String),
    #[error("There is no group `{0}` in /etc/group")]
    NoGroup(String),
    #[error("There is no range for the user `{user}` in {file}")]
    NoRange { user: String, file: &'static str },
    #[error("The range `{line}` in {file} makes no sense")]
    Range { line: String, file: &'static str },
    #[error("The ranges of the user `{0}` are too long")]
    TooMany(String),
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl RemapError {
    /// What the administrator of the host can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Specification(_) => "Give `default`, a user, or USER:GROUP; both by name or by number",
            Self::NoUser(user) if user == DEFAULT_USER => {
                "Make it: `useradd --system --user-group dockremap`, and give it ranges: `usermod --add-subuids 100000-165535 \
                 --add-subgids 100000-165535 dockremap`"
            }
            Self::NoUser(_) | Self::NoGroup(_) => "Make it, or name another one in `userns-remap`",
            _ => {
                "A line is USER:FIRST:COUNT, such as dockremap:100000:65536; `usermod --add-subuids` and `--add-subgids` write it"
            }
        }
    }
}

/// What the host knows of users.
#[derive(Debug, Default)]
pub struct Databases {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Databases {
    /// The files in `/etc`.
    pub fn of_host() -> Result<Self, RemapError> {
        let read = |name: &str| {
            let path = Path::new("/etc").join(name);
            match fs::read(&path) {
                Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                Err(source) => Err(RemapError::Read { path, source }),
            }
        };
        Ok(Self {
            passwd: read("passwd")?,
            group: read("group")?,
            subuid: read("subuid")?,
            subgid: read("subgid")?,
        })
    }
}

/// Whose numbers those of containers are; nobody's if the wish is for root itself, as with dockerd.
pub fn resolve(wish: &str, known: &Databases) -> Result<Option<IdMap>, RemapError> {
    let parts: Vec<&str> = wish.split(':').collect();
    let (user, group) = match parts[..] {
        [user] => (user, None),
        [user, group] => (user, Some(group)),
        _ => return Err(RemapError::Specification(wish.to_owned())),
    };
    if user.is_empty() || group == Some("") {
        return Err(RemapError::Specification(wish.to_owned()));
    }
    let user = if user == "default" { DEFAULT_USER } else { user };
    let (name, number) = entry(&known.passwd, user).ok_or_else(|| RemapError::NoUser(user.to_owned()))?;
    // Without a group, the one that is called like the user, by name or by number, has to be there.
    let group = group.unwrap_or(user);
    entry(&known.group, group).ok_or_else(|| RemapError::NoGroup(group.to_owned()))?;
    if name == "root" {
        tracing::warn!("User namespaces: root cannot be remapped with itself; user namespaces are OFF");
        return Ok(None);
    }
    let users = ranges(&known.subuid, "/etc/subuid", name, number)?;
    let groups = ranges(&known.subgid, "/etc/subgid", name, number)?;
    match IdMap::of_ranges(&users, &groups) {
        Some(ids) => Ok(Some(ids)),
        None => Err(RemapError::TooMany(name.to_owned())),
    }
}

/// The name and the number of a line of `passwd` or `group`.
fn entry<'a>(database: &'a str, wanted: &str) -> Option<(&'a str, &'a str)> {
    database.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, number) = (*fields.first()?, *fields.get(2)?);
        (name == wanted || number == wanted).then_some((name, number))
    })
}

fn ranges(
    database: &str,
    file: &'static str,
    user: &str,
    number: &str,
) -> Result<Vec<(u32, u32)>, RemapError> {
    let mut found = Vec::new();
    for line in database.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(':').collect();
        if !matches!(fields.first(), Some(&first) if first == user || first == number) {
            continue;
        }
        let range = || -> Option<(u32, u32)> {
            let [_, first, count] = fields[..] else { return None };
            let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
            // Root of the host is nobody's, and the last number of all means nobody.
            (first > 0 && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
        };
        found.push(range().ok_or_else(|| RemapError::Range { line: line.to_owned(), file })?);
    }
    if found.is_empty() {
        return Err(RemapError::NoRange { user: user.to_owned(), file });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host() -> Databases {
        Databases {
            passwd:
                "root:x:0:0::/root:/bin/sh\ndockremap:x:105:112::/:/bin/false\napp:x:1000:1000::/:/bin/sh\n"
                    .to_owned(),
            group: "root:x:0:\ndockremap:x:112:\napp:x:1000:\nothers:x:50:\n".to_owned(),
            subuid: "# ranges\ndockremap:100000:65536\n1000:300000:10\napp:400000:5\n".to_owned(),
            subgid: "dockremap:200000:65536\napp:500000:15\n".to_owned(),
        }
    }

    #[test]
    fn who_is_meant_is_found() {
        let root = |wish: &str| resolve(wish, &host()).unwrap().map(|ids| ids.root());
        assert_eq!(root("default"), Some((100_000, 200_000)));
        for wish in ["app", "app:others", "1000", "1000:50", "app:50"] {
            assert_eq!(root(wish), Some((300_000, 500_000)), "{wish}");
        }
        assert_eq!(root("root"), None);
        let ids = resolve("app", &host()).unwrap().unwrap();
        assert_eq!((ids.user_outside(10), ids.user_outside(15)), (Some(400_000), None));
    }

    #[test]
    fn who_cannot_be_meant_is_named() {
        let refusal = |wish: &str, host: &Databases| resolve(wish, host).unwrap_err();
        let said = |wish: &str| refusal(wish, &host()).to_string();
        assert_eq!(said("a:b:c"), "invalid user/group specification in `userns-remap`: \"a:b:c\"");
        assert_eq!(said("nobody"), "There is no user `nobody` in /etc/passwd");
        assert_eq!(said("app:nobody"), "There is no group `nobody` in /etc/group");
        // The number of the user is no group's.
        assert_eq!(said("105"), "There is no group `105` in /etc/group");
        assert!(matches!(refusal(":", &host()), RemapError::Specification(_)));
        let without = Databases { subgid: "other:1:1\n".to_owned(), ..host() };
        let missing = refusal("app", &without);
        assert_eq!(missing.to_string(), "There is no range for the user `app` in /etc/subgid");
        for line in ["app:1", "app:x:1", "app:0:10", "app:4294967295:2", "app:5:0"] {
            let odd = Databases { subuid: line.to_owned(), ..host() };
            assert!(matches!(refusal("app", &odd), RemapError::Range { .. }), "{line}");
        }
        let nobody = Databases { passwd: String::new(), ..host() };
        assert!(refusal("default", &nobody).hint().contains("useradd"));
    }
}
