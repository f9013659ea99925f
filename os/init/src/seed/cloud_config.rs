//! The part of `#cloud-config` that MachineOS acts on. What else a seed may hold is for other systems.

use std::fmt;

use base64::Engine as _;
use serde::Deserialize;

use super::{SeedError, Table, USER_DATA, parse_yaml};

const ALL_WITHOUT_PASSWORD: &str = "ALL=(ALL) NOPASSWD:ALL";
const HEADER: &str = "#cloud-config";
/// More accounts than a host for containers has people.
const MOST_ACCOUNTS: usize = 64;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CloudConfig {
    hostname: Option<String>,
    fqdn: Option<String>,
    /// Nothing is not the same as an empty list: that one means that there is no default account either.
    users: Option<Vec<UserEntry>>,
    ssh_authorized_keys: Vec<String>,
    /// `ed25519_private`, `ed25519_public` and so on.
    pub(crate) ssh_keys: Table<String>,
    pub(crate) write_files: Vec<FileEntry>,
    runcmd: Vec<CommandEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum UserEntry {
    Name(String),
    Account(Box<UserFields>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UserFields {
    name: String,
    gecos: Option<String>,
    sudo: Option<Sudo>,
    groups: Option<Names>,
    shell: Option<String>,
    ssh_authorized_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Sudo {
    Flag(bool),
    Rule(String),
    Rules(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    Line(String),
    List(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum CommandEntry {
    Line(String),
    Words(Vec<String>),
}

/// One entry of `write_files`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct FileEntry {
    pub(crate) path: String,
    content: String,
    encoding: String,
    permissions: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) append: bool,
}

/// A person's account, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) sudo_rules: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) shell: Option<String>,
    pub(crate) keys: Vec<String>,
}

/// A command of `runcmd`, as program and arguments.
pub(crate) type Words = Vec<String>;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EntryError {
    #[error("`{0}` is not a name for an account or group")]
    Name(String),
    #[error("`{0}` is not an absolute path without `..`")]
    Path(String),
    #[error("The content of `{path}` is not {encoding}")]
    Content { path: String, encoding: String },
    #[error("The encoding `{encoding}` of `{path}` is not supported; use `b64` or none")]
    Encoding { path: String, encoding: String },
    #[error("`{permissions}`, for `{path}`, are not permissions; write them like `0644`")]
    Permissions { path: String, permissions: String },
}

impl CloudConfig {
    pub(super) fn parse(text: &str) -> Result<CloudConfig, SeedError> {
        parse_yaml(USER_DATA, text)
    }

    /// Whether the first line says that this is one.
    pub(super) fn is_announced(text: &str) -> bool {
        text.lines().next().is_some_and(|line| line.trim_end() == HEADER)
    }

    /// Follows a later part of the same user data: its lists are appended, everything else in it replaces what was.
    pub(super) fn merge(&mut self, later: CloudConfig) {
        // All fields are named, so that a new one cannot be forgotten here.
        let CloudConfig { hostname, fqdn, users, ssh_authorized_keys, ssh_keys, write_files, runcmd } = later;
        self.hostname = hostname.or_else(|| self.hostname.take());
        self.fqdn = fqdn.or_else(|| self.fqdn.take());
        if let Some(users) = users {
            self.users.get_or_insert_default().extend(users);
        }
        self.ssh_authorized_keys.extend(ssh_authorized_keys);
        if !ssh_keys.is_empty() {
            self.ssh_keys = ssh_keys;
        }
        self.write_files.extend(write_files);
        self.runcmd.extend(runcmd);
    }

    pub(super) fn host_name(&self) -> Option<&str> {
        self.hostname.as_deref().or(self.fqdn.as_deref())
    }

    /// The accounts to make, and complaints about those that cannot be. The default account is called `default_name`,
    /// and `public_keys` are those that the provider has for it.
    pub(crate) fn accounts(
        &self,
        default_name: &str,
        public_keys: &[String],
    ) -> Vec<Result<Account, EntryError>> {
        let default = self.default_account(default_name, public_keys);
        match &self.users {
            Some(users) => {
                users.iter().take(MOST_ACCOUNTS).map(|entry| CloudConfig::account(entry, &default)).collect()
            }
            // One without keys is nobody's.
            None if default.keys.is_empty() => Vec::new(),
            None => vec![Ok(default)],
        }
    }

    /// The account that gets the keys of a seed which says of none whose they are.
    fn default_account(&self, name: &str, public_keys: &[String]) -> Account {
        let mut keys = clean_keys(public_keys);
        keys.extend(clean_keys(&self.ssh_authorized_keys));
        Account {
            name: name.to_owned(),
            title: String::new(),
            sudo_rules: vec![ALL_WITHOUT_PASSWORD.to_owned()],
            groups: Vec::new(),
            shell: None,
            keys,
        }
    }

    fn account(entry: &UserEntry, default: &Account) -> Result<Account, EntryError> {
        let fields = match entry {
            UserEntry::Name(name) if name == "default" => return Ok(default.clone()),
            UserEntry::Name(name) => &UserFields { name: name.clone(), ..UserFields::default() },
            UserEntry::Account(fields) => fields,
        };
        check_name(&fields.name)?;
        let groups: Vec<String> = match &fields.groups {
            Some(Names::Line(line)) => line.split(',').map(|name| name.trim().to_owned()).collect(),
            Some(Names::List(list)) => list.clone(),
            None => Vec::new(),
        };
        groups.iter().try_for_each(|name| check_name(name))?;
        let sudo_rules = match &fields.sudo {
            Some(Sudo::Flag(true)) => vec![ALL_WITHOUT_PASSWORD.to_owned()],
            Some(Sudo::Rule(rule)) => vec![rule.clone()],
            Some(Sudo::Rules(rules)) => rules.clone(),
            Some(Sudo::Flag(false)) | None => Vec::new(),
        };
        let plain = |text: &String| !text.contains(['\n', ':', '\r', '\0']);
        Ok(Account {
            name: fields.name.clone(),
            title: fields.gecos.clone().filter(plain).unwrap_or_default(),
            sudo_rules: sudo_rules
                .into_iter()
                .filter(|rule| !rule.contains(['\n', '\r', '\0', '\\']))
                .collect(),
            groups,
            shell: fields.shell.clone().filter(plain),
            keys: clean_keys(&fields.ssh_authorized_keys),
        })
    }

    /// The commands to run once for this instance.
    pub(crate) fn commands(&self) -> Vec<Words> {
        let words = |entry: &CommandEntry| match entry {
            CommandEntry::Line(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
            CommandEntry::Words(words) => words.clone(),
        };
        self.runcmd.iter().map(words).filter(|words| !words.is_empty()).collect()
    }
}

impl FileEntry {
    /// The path, if it can be written to without surprise.
    pub(crate) fn checked_path(&self) -> Result<&std::path::Path, EntryError> {
        let path = std::path::Path::new(&self.path);
        let climbs = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
        let names_a_file = path.file_name().is_some() && !self.path.ends_with('/');
        if !path.is_absolute() || climbs || !names_a_file || self.path.contains('\0') {
            return Err(EntryError::Path(self.path.clone()));
        }
        Ok(path)
    }

    pub(crate) fn decoded(&self) -> Result<Vec<u8>, EntryError> {
        let path = || self.path.clone();
        match self.encoding.as_str() {
            "" | "text/plain" => Ok(self.content.clone().into_bytes()),
            "b64" | "base64" => {
                let compact: String = self.content.split_whitespace().collect();
                base64::engine::general_purpose::STANDARD
                    .decode(compact)
                    .map_err(|_| EntryError::Content { path: path(), encoding: "base64".to_owned() })
            }
            other => Err(EntryError::Encoding { path: path(), encoding: other.to_owned() }),
        }
    }

    pub(crate) fn mode(&self) -> Result<u32, EntryError> {
        let Some(text) = &self.permissions else { return Ok(0o644) };
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            _ => Err(EntryError::Permissions { path: self.path.clone(), permissions: text.clone() }),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Names end up in /etc/passwd and as folders in /home.
pub(crate) fn check_name(name: &str) -> Result<(), EntryError> {
    let starts = name.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_');
    let plain =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '_' | '-');
    if starts && name.len() <= 32 && name.chars().all(plain) {
        Ok(())
    } else {
        Err(EntryError::Name(name.to_owned()))
    }
}

/// One key a line; what would smuggle in a second line is left out.
fn clean_keys(keys: &[String]) -> Vec<String> {
    keys.iter()
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty() && !key.contains(['\n', '\r', '\0']))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> CloudConfig {
        CloudConfig::parse(&format!("#cloud-config\n{text}")).unwrap()
    }

    #[test]
    fn accounts_in_every_spelling() {
        let config = parse(
            "users:\n\
             - default\n\
             - name: jo\n  sudo: 'ALL=(ALL) NOPASSWD:ALL'\n  groups: docker, wheel\n  shell: /bin/bash\n  \
             lock_passwd: true\n  ssh_authorized_keys: ['ssh-ed25519 AAAA jo', \"two\\nlines\"]\n\
             - {name: mo, sudo: false, groups: [docker]}\n\
             - {name: ko, sudo: ['ALL=(ALL) /bin/ls', 'ALL=(ALL) /bin/cat']}\n\
             ssh_authorized_keys: [' ssh-ed25519 AAAA top ']\n",
        );
        let keys = ["ssh-ed25519 AAAA pair\n".to_owned()];
        let accounts: Vec<Account> =
            config.accounts("docker", &keys).into_iter().map(Result::unwrap).collect();
        assert_eq!(accounts[0].name, "docker");
        assert_eq!(accounts[0].keys, ["ssh-ed25519 AAAA pair", "ssh-ed25519 AAAA top"]);
        assert_eq!(accounts[1].groups, ["docker", "wheel"]);
        assert_eq!(accounts[1].keys, ["ssh-ed25519 AAAA jo"]);
        assert_eq!(accounts[1].shell.as_deref(), Some("/bin/bash"));
        assert_eq!(accounts[2].sudo_rules, [""; 0]);
        assert_eq!(accounts[3].sudo_rules.len(), 2);
    }

    #[test]
    fn keys_without_users_are_for_the_default_account() {
        let keys = ["k".to_owned()];
        for (text, keys) in [("ssh_authorized_keys: [k]", &[][..]), ("hostname: x", &keys[..])] {
            let accounts = parse(text).accounts("jo", keys);
            assert_eq!(accounts.len(), 1);
            let account = accounts[0].as_ref().unwrap();
            assert_eq!((account.name.as_str(), &account.keys[..]), ("jo", &["k".to_owned()][..]));
            assert_eq!(account.sudo_rules, [ALL_WITHOUT_PASSWORD]);
        }
        assert_eq!(parse("hostname: x").accounts("jo", &[]).len(), 0);
        // The keys do not go to somebody else.
        assert_eq!(parse("users: []").accounts("jo", &keys).len(), 0);
        assert_eq!(parse("users: [mo]").accounts("jo", &keys)[0].as_ref().unwrap().keys, [""; 0]);
    }

    #[test]
    fn names_that_are_not_names_are_refused() {
        for name in ["", "..", "../x", "a/b", "Root", "a:b", "-x", "a b", "ü", &"x".repeat(33)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        let config = parse("users: [{name: '../../etc'}, {name: jo, groups: ['a:b']}]");
        assert!(config.accounts("docker", &[]).iter().all(Result::is_err));
    }

    #[test]
    fn a_rule_cannot_bring_a_second_line() {
        let config = parse("users: [{name: jo, sudo: \"ALL=(ALL) ALL\\nmo ALL=(ALL) ALL\"}]");
        assert_eq!(config.accounts("docker", &[])[0].as_ref().unwrap().sudo_rules, [""; 0]);
    }

    #[test]
    fn files() {
        let config = parse(
            "write_files:\n\
             - {path: /etc/a, content: text, permissions: '0600', owner: 'root:root'}\n\
             - {path: /etc/b, content: dGV4dA==, encoding: b64}\n\
             - {path: /etc/c, permissions: 0755, content: |\n    x\n  }\n"
                .replace(", content: |\n    x\n  }", "}")
                .as_str(),
        );
        let files = &config.write_files;
        assert_eq!((files[0].decoded().unwrap(), files[0].mode().unwrap()), (b"text".to_vec(), 0o600));
        assert_eq!((files[1].decoded().unwrap(), files[1].mode().unwrap()), (b"text".to_vec(), 0o644));
        assert_eq!(files[2].mode().unwrap(), 0o755);
    }

    #[test]
    fn bad_files_are_refused() {
        let entry = |path: &str| FileEntry { path: path.to_owned(), ..FileEntry::default() };
        for path in ["", "etc/x", "/etc/../x", "/", "/etc/", "/a\0b", "/.."] {
            assert!(entry(path).checked_path().is_err(), "{path}");
        }
        let encoded = |encoding: &str, content: &str| FileEntry {
            encoding: encoding.to_owned(),
            content: content.to_owned(),
            ..entry("/x")
        };
        assert!(encoded("b64", "***").decoded().is_err());
        assert!(encoded("gz+b64", "").decoded().is_err());
        for permissions in ["rwx", "99", "77777", "-1"] {
            let file = FileEntry { permissions: Some(permissions.to_owned()), ..entry("/x") };
            assert!(file.mode().is_err(), "{permissions}");
        }
    }

    #[test]
    fn commands() {
        let commands = parse("runcmd: ['echo a > /x', [touch, /y], []]").commands();
        assert_eq!(commands, [vec!["/bin/sh", "-c", "echo a > /x"], vec!["touch", "/y"]]);
    }

    #[test]
    fn what_is_for_other_systems_is_ignored() {
        let config = parse(
            "growpart: {mode: auto}\ndisk_setup: {}\nssh_deletekeys: true\npackages: [vim]\nhostname: x",
        );
        assert_eq!(config.host_name(), Some("x"));
    }

    #[test]
    fn the_first_line_announces_it() {
        for text in ["#cloud-config", "#cloud-config\r\n", "#cloud-config \nhostname: x"] {
            assert!(CloudConfig::is_announced(text), "{text}");
        }
        for text in ["", "#!/bin/sh\n", "#cloud-config-archive\n", "\n#cloud-config\n"] {
            assert!(!CloudConfig::is_announced(text), "{text}");
        }
    }
}
