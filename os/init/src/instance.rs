//! Makes the system the one that its seed describes: name, accounts, keys, files.

mod accounts;
mod host_keys;

use std::fs;
use std::path::Path;

use crate::data;
use crate::error::{BootError, make_folder, replace_file};
use crate::seed::cloud_config::{EntryError, FileEntry};
use accounts::Accounts;

pub(crate) use host_keys::{
    HOST_KEY_FOLDER, is_host_key, provide as provide_host_keys, tell as tell_host_keys,
};

const DEFAULT_HOST_NAME: &str = "machineos";

#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("The seed cannot be followed here")]
    Entry(#[from] EntryError),
    #[error("`{0}` is not a host name")]
    HostName(String),
    #[error("The account `{0}` belongs to the system")]
    Taken(String),
    #[error("There is no account or group `{0}`")]
    Owner(String),
    #[error("`{0}` is a link where a folder is expected")]
    Link(String),
    #[error("The seed's host key `{0}` is not of a known type; there are ed25519, ecdsa and rsa")]
    KeyType(String),
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// Names the host, or gives it the name that hosts without one have. Tells the name it has now.
pub(crate) fn name_host(wanted: Option<&str>) -> (String, Result<(), InstanceError>) {
    let (name, verdict) = match wanted {
        Some(name) if is_host_name(name) => (name, Ok(())),
        Some(name) => (DEFAULT_HOST_NAME, Err(InstanceError::HostName(name.to_owned()))),
        None => (DEFAULT_HOST_NAME, Ok(())),
    };
    (name.to_owned(), set_host_name(name).and(verdict))
}

fn set_host_name(name: &str) -> Result<(), InstanceError> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|source| BootError::HostName { name: name.to_owned(), source: source.into() })?;
    replace_file(Path::new("/etc/hostname"), format!("{name}\n").as_bytes(), 0o644, None)?;
    replace_file(Path::new("/etc/hosts"), hosts(name).as_bytes(), 0o644, None)?;
    Ok(())
}

fn hosts(name: &str) -> String {
    let short = name.split('.').next().unwrap_or(name);
    let names = if short == name { name.to_owned() } else { format!("{name} {short}") };
    format!("127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost ip6-loopback\n")
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        !label.is_empty() && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 64 && name.split('.').all(label)
}

/// Makes the seed's accounts. They are made at every boot, since /etc is memory; what is in the homes is only
/// touched when the seed is new, so that keys which were added or removed since stay so.
pub(crate) fn make_accounts(
    wanted: Vec<Result<crate::seed::cloud_config::Account, EntryError>>,
    is_new: bool,
) -> Vec<InstanceError> {
    let mut complaints = Vec::new();
    let mut accounts = match Accounts::load(Path::new("/")) {
        Ok(accounts) => accounts,
        Err(failure) => return vec![failure.into()],
    };
    let mut made = Vec::new();
    for account in wanted {
        match account
            .map_err(InstanceError::from)
            .and_then(|account| accounts.add(&account).map(|()| account))
        {
            Ok(account) => made.push(account),
            Err(failure) => complaints.push(failure),
        }
    }
    if let Err(failure) = accounts.store() {
        complaints.push(failure.into());
    }
    for account in made {
        if let Err(failure) = accounts.furnish(&account, is_new) {
            complaints.push(failure);
        }
    }
    complaints
}

/// Writes the seed's files. Those on kept folders are written once for each instance, the others at every boot.
pub(crate) fn write_files(files: &[FileEntry], is_new: bool) -> Vec<InstanceError> {
    let accounts = match Accounts::load(Path::new("/")) {
        Ok(accounts) => accounts,
        Err(failure) => return vec![failure.into()],
    };
    files.iter().filter_map(|file| write_file(file, &accounts, is_new).err()).collect()
}

fn write_file(file: &FileEntry, accounts: &Accounts, is_new: bool) -> Result<(), InstanceError> {
    let path = file.checked_path()?;
    if data::is_kept(path) && !is_new {
        return Ok(());
    }
    let mut content = file.decoded()?;
    if file.append {
        let mut all = fs::read(path).unwrap_or_default();
        all.append(&mut content);
        content = all;
    }
    let owner = file.owner.as_deref().map(|owner| accounts.owner(owner)).transpose()?;
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    Ok(replace_file(path, &content, file.mode()?, owner)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for name in ["mc1", "mc1.example.test", "A-1"] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", ".", "a..b", "-a", "a-", "a_b", "a b", "a\nb", "../x", &"x".repeat(65)] {
            assert!(!is_host_name(name), "{name}");
        }
    }

    #[test]
    fn a_long_name_is_known_by_its_short_form_too() {
        assert!(hosts("mc1.example.test").contains("127.0.1.1 mc1.example.test mc1\n"));
        assert!(hosts("mc1").contains("127.0.1.1 mc1\n"));
    }
}
