//! Accounts and groups in their text files, homes, authorized keys and rights through sudo.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::InstanceError;
use crate::error::{BootError, make_folder, read_text, replace_file};
use crate::seed::cloud_config::Account;

const FIRST_NUMBER: u32 = 1000;
const LAST_NUMBER: u32 = 59_999;
const SHELL: &str = "/bin/bash";
/// Whoever may become root may as well talk to the engine.
const ENGINE_GROUP: &str = "docker";

/// The account files of a system.
#[derive(Debug)]
pub(super) struct Accounts {
    root: PathBuf,
    people: Vec<Vec<String>>,
    groups: Vec<Vec<String>>,
    secrets: String,
    sudo: String,
}

impl Accounts {
    pub(super) fn load(root: &Path) -> Result<Accounts, BootError> {
        let fields = |text: String| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
        };
        Ok(Accounts {
            root: root.to_owned(),
            people: fields(read_text(&root.join("etc/passwd"))?),
            groups: fields(read_text(&root.join("etc/group"))?),
            secrets: read_text(&root.join("etc/shadow"))?,
            sudo: String::new(),
        })
    }

    /// Adds an account; root is there already and keeps what it has.
    pub(super) fn add(&mut self, account: &Account) -> Result<(), InstanceError> {
        let name = &account.name;
        if name != "root" {
            if find(&self.people, name).is_some() {
                return Err(InstanceError::Taken(name.clone()));
            }
            let number = self.free_number(name);
            let group = if let Some(group) = find(&self.groups, name) {
                group.get(2).cloned().unwrap_or_default()
            } else {
                self.groups.push(line(&[name, "x", &number.to_string(), ""]));
                number.to_string()
            };
            let shell = account.shell.as_deref().filter(|shell| self.is_program(shell)).unwrap_or(SHELL);
            let home = format!("/home/{name}");
            self.people.push(line(&[name, "x", &number.to_string(), &group, &account.title, &home, shell]));
            // No password opens it, and it is not locked either: a key is needed.
            let _ = writeln!(self.secrets, "{name}:*:19000:0:99999:7:::");
        }
        let mut groups = account.groups.clone();
        if !account.sudo_rules.is_empty() && name != "root" {
            groups.push(ENGINE_GROUP.to_owned());
        }
        for group in groups {
            self.join(name, &group);
        }
        for rule in &account.sudo_rules {
            let _ = writeln!(self.sudo, "{name} {rule}");
        }
        Ok(())
    }

    fn is_program(&self, shell: &str) -> bool {
        shell.strip_prefix('/').is_some_and(|shell| self.root.join(shell).is_file())
    }

    /// The number which the owner of a home had before, or the next one.
    fn free_number(&self, name: &str) -> u32 {
        let taken = |number: u32| {
            let number = number.to_string();
            self.people.iter().chain(&self.groups).any(|entry| entry.get(2) == Some(&number))
        };
        let homes: Vec<(String, u32)> = crate::devices::entries(self.root.join("home"))
            .iter()
            .filter_map(|home| {
                Some((home.file_name()?.to_str()?.to_owned(), fs::symlink_metadata(home).ok()?.uid()))
            })
            .collect();
        let before = homes.iter().find(|(home, _)| home == name).map(|(_, number)| *number);
        if let Some(number) =
            before.filter(|number| (FIRST_NUMBER..=LAST_NUMBER).contains(number) && !taken(*number))
        {
            return number;
        }
        let kept = |number: u32| homes.iter().any(|(_, other)| *other == number);
        (FIRST_NUMBER..=LAST_NUMBER).find(|number| !taken(*number) && !kept(*number)).unwrap_or(LAST_NUMBER)
    }

    fn join(&mut self, name: &str, group: &str) {
        if find(&self.groups, group).is_none() {
            let taken =
                |number: u32| self.groups.iter().any(|entry| entry.get(2) == Some(&number.to_string()));
            // Groups of the seed come down from the end, so that they never meet those of accounts.
            let number =
                (FIRST_NUMBER..=LAST_NUMBER).rev().find(|number| !taken(*number)).unwrap_or(LAST_NUMBER);
            self.groups.push(line(&[group, "x", &number.to_string(), ""]));
        }
        if let Some(members) =
            self.groups.iter_mut().find(|entry| entry[0] == group).and_then(|entry| entry.get_mut(3))
        {
            if members.split(',').any(|member| member == name) {
                return;
            }
            if !members.is_empty() {
                members.push(',');
            }
            members.push_str(name);
        }
    }

    pub(super) fn store(&self) -> Result<(), BootError> {
        let text = |entries: &[Vec<String>]| {
            entries.iter().fold(String::new(), |text, entry| text + &entry.join(":") + "\n")
        };
        let etc = self.root.join("etc");
        replace_file(&etc.join("group"), text(&self.groups).as_bytes(), 0o644, None)?;
        replace_file(&etc.join("shadow"), self.secrets.as_bytes(), 0o600, None)?;
        replace_file(&etc.join("passwd"), text(&self.people).as_bytes(), 0o644, None)?;
        make_folder(&etc.join("sudoers.d"))?;
        replace_file(&etc.join("sudoers.d/seed"), self.sudo.as_bytes(), 0o440, None)
    }

    /// Makes the home and puts the keys into it, unless they were put there before for this instance.
    pub(super) fn furnish(&self, account: &Account, is_new: bool) -> Result<(), InstanceError> {
        let (user, group) = self.owner(&account.name)?;
        let home =
            find(&self.people, &account.name).and_then(|entry| entry.get(5)).cloned().unwrap_or_default();
        let home = self.root.join(home.trim_start_matches('/'));
        let keys = home.join(".ssh/authorized_keys");
        own_folder(&home, 0o700, (user, group))?;
        own_folder(&home.join(".ssh"), 0o700, (user, group))?;
        if is_new || !keys.exists() {
            let content = account.keys.iter().fold(String::new(), |text, key| text + key + "\n");
            replace_file(&keys, content.as_bytes(), 0o600, Some((user, group)))?;
        }
        Ok(())
    }

    /// Numbers for `name`, `name:group` or numbers in their place.
    pub(super) fn owner(&self, owner: &str) -> Result<(u32, u32), InstanceError> {
        let (name, group) = owner.split_once(':').map_or((owner, None), |(name, group)| (name, Some(group)));
        let unknown = |name: &str| InstanceError::Owner(name.to_owned());
        let number = |entry: &Vec<String>, at: usize| entry.get(at)?.parse::<u32>().ok();
        let person = find(&self.people, name);
        let user = person
            .and_then(|entry| number(entry, 2))
            .or_else(|| name.parse().ok())
            .ok_or_else(|| unknown(name))?;
        let group = match group {
            Some(group) => find(&self.groups, group)
                .and_then(|entry| number(entry, 2))
                .or_else(|| group.parse().ok())
                .ok_or_else(|| unknown(group))?,
            None => person.and_then(|entry| number(entry, 3)).unwrap_or_default(),
        };
        Ok((user, group))
    }
}

fn find<'a>(entries: &'a [Vec<String>], name: &str) -> Option<&'a Vec<String>> {
    entries.iter().find(|entry| entry.first().is_some_and(|first| first == name))
}

fn line(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|&field| field.to_owned()).collect()
}

/// Makes a folder and gives it to its owner. The folder above may be the owner's: a link there is not followed.
fn own_folder(path: &Path, mode: u32, (user, group): (u32, u32)) -> Result<(), InstanceError> {
    let failed = |source| BootError::Write { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => return Ok(()),
        Ok(_) => return Err(InstanceError::Link(path.display().to_string())),
        Err(_) => fs::create_dir_all(path).map_err(failed)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    chown(path, Some(user), Some(group)).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn system() -> (tempfile::TempDir, Accounts) {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        fs::create_dir_all(&etc).unwrap();
        fs::create_dir_all(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/bash"), "").unwrap();
        fs::write(
            etc.join("passwd"),
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n",
        )
        .unwrap();
        fs::write(etc.join("group"), "root:x:0:\ndocker:x:998:\n").unwrap();
        fs::write(etc.join("shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
        let accounts = Accounts::load(folder.path()).unwrap();
        (folder, accounts)
    }

    fn account(name: &str) -> Account {
        Account {
            name: name.to_owned(),
            title: String::new(),
            sudo_rules: vec!["ALL=(ALL) NOPASSWD:ALL".to_owned()],
            groups: vec!["build".to_owned()],
            shell: Some("/bin/bash".to_owned()),
            keys: vec!["ssh-ed25519 AAAA".to_owned()],
        }
    }

    #[test]
    fn an_account_is_in_all_files() {
        let (folder, mut accounts) = system();
        accounts.add(&account("jo")).unwrap();
        accounts.add(&Account { shell: Some("/bin/zsh".to_owned()), ..account("mo") }).unwrap();
        accounts.store().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join("etc").join(name)).unwrap();
        assert!(read("passwd").contains("\njo:x:1000:1000::/home/jo:/bin/bash\n"), "{}", read("passwd"));
        assert!(read("passwd").contains("\nmo:x:1001:1001::/home/mo:/bin/bash\n"), "{}", read("passwd"));
        assert!(read("group").contains("docker:x:998:jo,mo\n"), "{}", read("group"));
        assert!(read("group").contains("build:x:59999:jo,mo\n"), "{}", read("group"));
        assert!(read("shadow").ends_with("mo:*:19000:0:99999:7:::\n"));
        assert_eq!(read("sudoers.d/seed"), "jo ALL=(ALL) NOPASSWD:ALL\nmo ALL=(ALL) NOPASSWD:ALL\n");
    }

    #[test]
    fn accounts_of_the_system_are_not_for_people() {
        let (_folder, mut accounts) = system();
        assert!(matches!(accounts.add(&account("sshd")), Err(InstanceError::Taken(_))));
        accounts.add(&account("jo")).unwrap();
        assert!(matches!(accounts.add(&account("jo")), Err(InstanceError::Taken(_))));
    }

    #[test]
    fn an_account_may_be_called_like_a_group() {
        let (_folder, mut accounts) = system();
        accounts.add(&account("docker")).unwrap();
        assert_eq!(accounts.owner("docker").unwrap(), (1000, 998));
    }

    #[test]
    fn owners() {
        let (_folder, accounts) = system();
        assert_eq!(accounts.owner("root").unwrap(), (0, 0));
        assert_eq!(accounts.owner("root:docker").unwrap(), (0, 998));
        assert_eq!(accounts.owner("5:6").unwrap(), (5, 6));
        assert!(matches!(accounts.owner("nobody:docker"), Err(InstanceError::Owner(_))));
        assert!(matches!(accounts.owner("root:none"), Err(InstanceError::Owner(_))));
    }

    #[test]
    fn a_link_in_place_of_a_home_is_not_followed() {
        let (folder, _) = system();
        let home = folder.path().join("home");
        std::os::unix::fs::symlink("/etc", &home).unwrap();
        assert!(matches!(own_folder(&home, 0o755, (0, 0)), Err(InstanceError::Link(_))));
    }
}
