//! The options of `hyperv`, declared and checked, and what docker-machine recorded of its own.

use std::path::PathBuf;

use machine_driver::{DriverError, Flag, FlagKind, HostView, Options};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Less than this and a kernel with an initial RAM disk does not start.
const LEAST_MEMORY: i64 = 256;
/// What a VM of generation 2 may have: 12 TiB.
const MOST_MEMORY: i64 = 12 << 20;
const LEAST_DISK: i64 = 256;
/// What a VHDX may have: 64 TiB.
const MOST_DISK: i64 = 64 << 20;
/// What a VM of generation 2 may have.
const MOST_CPUS: i64 = 240;
/// IEEE 802.1Q leaves 0 and 4095 out.
const MOST_VLAN: i64 = 4094;
const LONGEST_NAME: usize = 256;

/// What a VM is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) cpu_count: u32,
    /// MiB.
    pub(crate) memory: u64,
    /// MiB.
    pub(crate) disk_size: u64,
    /// An image's name, or a path, which has a `/`, `\` or `:` in it.
    pub(crate) image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_user: Option<String>,
    /// A switch's name; `None`: the Default Switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) switch: Option<String>,
    /// Twelve hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<u16>,
    /// The VM has all of its memory all of the time.
    #[serde(default)]
    pub(crate) static_memory: bool,
}

/// What a record of docker-machine says of its VM, in docker-machine's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Adopted {
    pub(crate) machine_name: String,
    #[serde(default, rename = "SSHUser")]
    pub(crate) ssh_user: String,
    #[serde(default, rename = "SSHPort")]
    pub(crate) ssh_port: u16,
    #[serde(default, rename = "SSHKeyPath")]
    pub(crate) ssh_key_path: PathBuf,
    #[serde(default, rename = "IPAddress")]
    pub(crate) address: String,
    /// Only its own records have it.
    #[serde(rename = "VSwitch")]
    _switch: String,
}

/// Whose VM a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Ours(Config),
    DockerMachines(Adopted),
}

fn flag(
    name: &str,
    environment: &str,
    kind: FlagKind,
    default: Option<&str>,
    value_name: &str,
    help: &str,
) -> Flag {
    let flag = Flag::new(name, kind, value_name, help).environment(environment);
    Flag { default: default.map(str::to_owned), ..flag }
}

pub(crate) fn flags() -> Vec<Flag> {
    use FlagKind::{Integer, Retired, Switch, Text};
    vec![
        flag(
            "hyperv-virtual-switch",
            "HYPERV_VIRTUAL_SWITCH",
            Text,
            None,
            "NAME",
            "Virtual switch that the host is connected to (the Default Switch)",
        ),
        flag("hyperv-cpu-count", "HYPERV_CPU_COUNT", Integer, Some("1"), "NUMBER", "Number of CPUs"),
        flag("hyperv-memory", "HYPERV_MEMORY", Integer, Some("1024"), "MIB", "Memory of the host in MiB"),
        flag(
            "hyperv-disable-dynamic-memory",
            "HYPERV_DISABLE_DYNAMIC_MEMORY",
            Switch,
            None,
            "",
            "Give the host all of its memory for as long as it runs",
        ),
        flag(
            "hyperv-disk-size",
            "HYPERV_DISK_SIZE",
            Integer,
            Some("20000"),
            "MIB",
            "Disk of the host in MiB",
        ),
        flag(
            "hyperv-image",
            "HYPERV_IMAGE",
            Text,
            Some("machineos"),
            "NAME|PATH",
            "Image to boot: `machineos`, or the path of a disk image (VHDX or raw) with UEFI boot and cloud-init",
        ),
        flag("hyperv-ssh-user", "HYPERV_SSH_USER", Text, None, "USER", "User to log in as (the image's own)"),
        flag(
            "hyperv-static-macaddress",
            "HYPERV_STATIC_MACADDRESS",
            Text,
            None,
            "MAC",
            "Hardware address of the host's network adapter (one that Hyper-V chooses)",
        ),
        flag(
            "hyperv-vlan-id",
            "HYPERV_VLAN_ID",
            Integer,
            None,
            "NUMBER",
            "VLAN that the host's network adapter is in (none)",
        ),
        flag(
            "hyperv-boot2docker-url",
            "HYPERV_BOOT2DOCKER_URL",
            Retired,
            None,
            "",
            "Nobody makes boot2docker any more: hosts boot MachineOS, or what `--hyperv-image` names",
        ),
    ]
}

impl Config {
    pub(crate) fn from_options(options: &Options) -> Result<Self, DriverError> {
        let image = options.text("hyperv-image").unwrap_or("machineos");
        if !is_path(image) && !is_image_name(image) {
            return Err(DriverError::invalid(format!("`{}` is no name of an image", image.escape_debug()))
                .with_hint("A path has a `/` or `\\` in it: `./disk.vhdx`"));
        }
        if image.contains('\0') {
            return Err(DriverError::invalid("A path has no zero byte in it"));
        }
        let vlan = match options.integer("hyperv-vlan-id") {
            None | Some(0) => None,
            Some(_) => u16::try_from(within(options, "hyperv-vlan-id", 1, MOST_VLAN)?).ok(),
        };
        Ok(Self {
            cpu_count: u32::try_from(within(options, "hyperv-cpu-count", 1, MOST_CPUS)?).unwrap_or(1),
            memory: within(options, "hyperv-memory", LEAST_MEMORY, MOST_MEMORY)?,
            disk_size: within(options, "hyperv-disk-size", LEAST_DISK, MOST_DISK)?,
            image: image.to_owned(),
            ssh_user: options.text("hyperv-ssh-user").map(user).transpose()?,
            switch: options.text("hyperv-virtual-switch").map(switch).transpose()?,
            mac: options.text("hyperv-static-macaddress").map(mac).transpose()?,
            vlan,
            static_memory: options.switch("hyperv-disable-dynamic-memory"),
        })
    }

    pub(crate) fn to_value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(self)
            .map_err(|error| DriverError::failed("Could not write the configuration").with_source(error))
    }

    /// Of a host that is to be made.
    pub(crate) fn of(host: &HostView) -> Result<Self, DriverError> {
        match Stored::of(host)? {
            Stored::Ours(config) => Ok(config),
            Stored::DockerMachines(_) => Err(DriverError::unsupported(format!(
                "`{}` is a VM that docker-machine made, and cannot be made again",
                host.name
            ))),
        }
    }
}

impl Stored {
    pub(crate) fn of(host: &HostView) -> Result<Self, DriverError> {
        if host.config.get("MachineName").is_some()
            && let Ok(adopted) = serde_json::from_value(host.config.clone())
        {
            return Ok(Self::DockerMachines(adopted));
        }
        serde_json::from_value(host.config.clone()).map(Self::Ours).map_err(|error| {
            DriverError::failed("Could not read the driver's part of the record").with_source(error)
        })
    }
}

/// A path, as opposed to a name.
pub(crate) fn is_path(image: &str) -> bool {
    image.contains(['/', '\\', ':'])
}

/// One path component, which never climbs.
pub(crate) fn is_image_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn within(options: &Options, name: &str, least: i64, most: i64) -> Result<u64, DriverError> {
    let number = options.integer(name).unwrap_or_default();
    u64::try_from(number).ok().filter(|_| (least..=most).contains(&number)).ok_or_else(|| {
        DriverError::invalid(format!("`--{name}` takes a number from {least} to {most}, not `{number}`"))
    })
}

fn user(text: &str) -> Result<String, DriverError> {
    let good = text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
    if good {
        Ok(text.to_owned())
    } else {
        Err(DriverError::invalid(format!("`{}` is no name of a user", text.escape_debug())))
    }
}

/// Any name: it is handed to PowerShell as a value, whatever is in it.
fn switch(text: &str) -> Result<String, DriverError> {
    if text.chars().count() <= LONGEST_NAME && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(DriverError::invalid(format!("`{}` is no name of a virtual switch", text.escape_debug())))
    }
}

/// As people write it, with `:`, `-` or nothing between the pairs; never a group's address.
fn mac(text: &str) -> Result<String, DriverError> {
    let digits: String = text.chars().filter(|c| !":-".contains(*c)).collect::<String>().to_ascii_uppercase();
    let first = digits.get(..2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let good = digits.len() == 12
        && digits.chars().all(|c| c.is_ascii_hexdigit())
        && first.is_some_and(|byte| byte & 1 == 0)
        && digits != "000000000000";
    if good {
        Ok(digits)
    } else {
        Err(DriverError::invalid(format!("`{}` is no hardware address of one adapter", text.escape_debug()))
            .with_hint("Such as `00:15:5d:01:02:03`"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hardware_addresses_are_taken_as_people_write_them() {
        for text in ["00:15:5d:0A:02:03", "00155d0a0203", "00-15-5d-0a-02-03"] {
            assert_eq!(mac(text).unwrap(), "00155D0A0203");
        }
        for text in [
            "",
            "00:15:5d:01:02",
            "01:15:5d:01:02:03",
            "00:00:00:00:00:00",
            "zz:15:5d:01:02:03",
            "é0155d0102",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_docker_machine_recorded_is_understood() {
        let config = serde_json::json!({
            "IPAddress": "192.168.1.30", "MachineName": "old", "SSHUser": "docker", "SSHPort": 22,
            "SSHKeyPath": "C:\\Users\\x\\.docker\\machine\\machines\\old\\id_rsa", "StorePath": "C:\\Users\\x\\.docker\\machine",
            "SwarmMaster": false, "SwarmHost": "", "SwarmDiscovery": "", "Boot2DockerURL": "", "VSwitch": "ext",
            "DiskSize": 20000, "MemSize": 1024, "CPU": 1, "MacAddr": "", "VLanID": 0, "DisableDynamicMemory": false,
        });
        let adopted: Adopted = serde_json::from_value(config).unwrap();
        assert_eq!((adopted.machine_name.as_str(), adopted.ssh_user.as_str()), ("old", "docker"));
    }
}
