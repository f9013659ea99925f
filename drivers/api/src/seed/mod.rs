//! The NoCloud seed: a small image that configures a host at its first boot.
//!
//! cloud-init's NoCloud source and MachineOS read it from any disk or CD whose filesystem label is `cidata`.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::HostKey;

mod image;

/// cloud-init reads user data of any size, providers do not: 1 MiB is far above what a host needs.
const LARGEST_USER_DATA: usize = 1 << 20;

/// What a host is told at its first boot.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// Changes when the host is to be configured anew.
    pub instance_id: String,
    pub hostname: String,
    /// The login user, who may use `sudo` without a password.
    pub user: String,
    /// The login user's shell; the distribution's own where `None`.
    pub shell: Option<String>,
    /// Public keys that may log in, one line each.
    pub authorized_keys: Vec<String>,
    /// The SSH host key to show; others are deleted. `None`: the host makes its own.
    pub host_key: Option<HostKey>,
    pub write_files: Vec<SeedFile>,
    /// Commands run once, at the end of the first boot.
    pub runcmd: Vec<Vec<String>>,
    /// `None`: DHCP on every Ethernet interface.
    pub network: Option<Network>,
}

/// A file to be written at the first boot, owned by root.
#[derive(Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Absolute.
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
}

impl fmt::Debug for SeedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, content, mode } = self;
        formatter
            .debug_struct("SeedFile")
            .field("path", path)
            .field("bytes", &content.len())
            .field("mode", &format_args!("{mode:04o}"))
            .finish()
    }
}

/// The network configuration, version 2 of NoCloud's format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    pub interfaces: Vec<Interface>,
}

/// One Ethernet interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name, or any word where `mac` says which one is meant.
    pub name: String,
    pub mac: Option<String>,
    pub dhcp: bool,
    /// With prefix length: `192.168.56.10/24`.
    pub addresses: Vec<String>,
    pub gateway: Option<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// Why a seed could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("`{value}` cannot be used as {what} in a first-boot configuration")]
    Value { what: &'static str, value: String },
    #[error("The first-boot configuration has {size} bytes, more than {LARGEST_USER_DATA}")]
    TooLarge { size: usize },
    #[error("Could not write the first-boot configuration as YAML")]
    Yaml { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("Could not write the first-boot image `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Serialize)]
struct UserData<'a> {
    hostname: &'a str,
    manage_etc_hosts: &'static str,
    ssh_deletekeys: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_keys: Option<HostKeys<'a>>,
    users: [User<'a>; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    write_files: Vec<WriteFile<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    runcmd: &'a [Vec<String>],
}

#[derive(Serialize)]
struct HostKeys<'a> {
    ed25519_private: &'a str,
    ed25519_public: &'a str,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    lock_passwd: bool,
    sudo: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<&'a str>,
    ssh_authorized_keys: &'a [String],
}

#[derive(Serialize)]
struct WriteFile<'a> {
    path: &'a str,
    permissions: String,
    owner: &'static str,
    encoding: &'static str,
    content: String,
}

#[derive(Serialize)]
struct MetaData<'a> {
    #[serde(rename = "instance-id")]
    instance_id: &'a str,
    #[serde(rename = "local-hostname")]
    local_hostname: &'a str,
}

#[derive(Serialize)]
struct NetworkConfig<'a> {
    version: u8,
    ethernets: BTreeMap<&'a str, Ethernet<'a>>,
}

#[derive(Serialize)]
struct Ethernet<'a> {
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    by: Option<BTreeMap<&'static str, &'a str>>,
    dhcp4: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    addresses: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<BTreeMap<&'static str, &'a [IpAddr]>>,
}

impl Seed {
    /// The `user-data` file: a `#cloud-config` document.
    pub fn user_data(&self) -> Result<String, SeedError> {
        self.verify()?;
        let data = UserData {
            hostname: &self.hostname,
            manage_etc_hosts: "localhost",
            ssh_deletekeys: true,
            ssh_keys: self
                .host_key
                .as_ref()
                .map(|key| HostKeys { ed25519_private: &key.private, ed25519_public: &key.public }),
            users: [User {
                name: &self.user,
                lock_passwd: true,
                sudo: "ALL=(ALL) NOPASSWD:ALL",
                shell: self.shell.as_deref(),
                ssh_authorized_keys: &self.authorized_keys,
            }],
            write_files: self
                .write_files
                .iter()
                .map(|file| WriteFile {
                    path: &file.path,
                    permissions: format!("{:04o}", file.mode),
                    owner: "root:root",
                    encoding: "b64",
                    content: STANDARD.encode(&file.content),
                })
                .collect(),
            runcmd: &self.runcmd,
        };
        let text = format!("#cloud-config\n{}", yaml(&data)?);
        if text.len() > LARGEST_USER_DATA {
            return Err(SeedError::TooLarge { size: text.len() });
        }
        Ok(text)
    }

    /// The `meta-data` file.
    pub fn meta_data(&self) -> Result<String, SeedError> {
        self.verify()?;
        yaml(&MetaData { instance_id: &self.instance_id, local_hostname: &self.hostname })
    }

    /// The `network-config` file, where one is wanted.
    pub fn network_config(&self) -> Result<Option<String>, SeedError> {
        let Some(network) = &self.network else { return Ok(None) };
        let ethernets = network
            .interfaces
            .iter()
            .map(|interface| {
                let ethernet = Ethernet {
                    by: interface.mac.as_deref().map(|mac| BTreeMap::from([("macaddress", mac)])),
                    dhcp4: interface.dhcp,
                    addresses: &interface.addresses,
                    gateway4: interface.gateway,
                    nameservers: (!interface.nameservers.is_empty())
                        .then(|| BTreeMap::from([("addresses", interface.nameservers.as_slice())])),
                };
                (interface.name.as_str(), ethernet)
            })
            .collect();
        yaml(&NetworkConfig { version: 2, ethernets }).map(Some)
    }

    /// The whole seed as an image that works as a CD and as a disk. The same seed always gives the same bytes.
    pub fn image(&self) -> Result<Vec<u8>, SeedError> {
        let mut files = vec![("meta-data", self.meta_data()?), ("user-data", self.user_data()?)];
        if let Some(network) = self.network_config()? {
            files.push(("network-config", network));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        Ok(image::iso9660("cidata", &files))
    }

    /// Writes the image with mode 0600, all of it or nothing. Leaves a file alone that is the same already.
    pub fn write(&self, path: &Path) -> Result<(), SeedError> {
        let image = self.image()?;
        if fs::read(path).is_ok_and(|present| present == image) {
            return Ok(());
        }
        write_private(path, &image).map_err(|source| SeedError::Write { path: path.to_owned(), source })
    }

    fn verify(&self) -> Result<(), SeedError> {
        let refuse =
            |what, value: &str| Err(SeedError::Value { what, value: value.escape_debug().to_string() });
        let word = |text: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        if !word(&self.instance_id) {
            return refuse("an instance id", &self.instance_id);
        }
        if !word(&self.hostname) {
            return refuse("a host name", &self.hostname);
        }
        if !word(&self.user) || self.user.len() > 32 || self.user.starts_with(|c: char| c.is_ascii_digit()) {
            return refuse("a user name", &self.user);
        }
        for key in &self.authorized_keys {
            if key.is_empty() || key.contains(char::is_control) {
                return refuse("an authorized key", key);
            }
        }
        for file in &self.write_files {
            let climbs = file.path.split('/').any(|part| part == "..");
            if !file.path.starts_with('/') || climbs || file.path.contains(char::is_control) {
                return refuse("a file's path", &file.path);
            }
        }
        match &self.host_key {
            Some(key) if key.public.contains(['\n', '\0']) => refuse("a host key", &key.public),
            _ => Ok(()),
        }
    }
}

/// Every string is quoted, so that no reader, of YAML 1.1 or 1.2, takes one for a number, a date or a boolean.
fn yaml(value: &impl Serialize) -> Result<String, SeedError> {
    serde_yaml::to_string_with_options(value, serde_yaml::ser_options! { quote_all: true })
        .map_err(|error| SeedError::Yaml { source: error.to_string().into() })
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file: File = options.open(&partial)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests;
