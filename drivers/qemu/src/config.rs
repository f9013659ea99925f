//! The options of `qemu`, declared and checked.

use std::{net::Ipv4Addr, path::PathBuf};

use machine_driver::{
    DriverError, Flag, FlagKind, HostView, Options,
    local::image::{Wanted, is_image_name},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Less than this and a kernel with an initial RAM disk does not start.
const LEAST_MEMORY: i64 = 256;
const MOST_MEMORY: i64 = 4 << 20;
/// Smaller disks have no room for an image and a log.
const LEAST_DISK: i64 = 256;
const MOST_DISK: i64 = 16 << 20;
const MOST_CPUS: i64 = 255;

/// What a VM is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `None`: as many as the machine has, at most 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_count: Option<u32>,
    /// MiB.
    pub(crate) memory: u64,
    /// MiB.
    pub(crate) disk_size: u64,
    /// An image's name, or a path, which has a `/` in it.
    pub(crate) image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_user: Option<String>,
    pub(crate) accelerator: WantedAccelerator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) binary: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Ipv4Addr>,
    /// Containers may reach what listens on this machine's loopback interface.
    #[serde(default)]
    pub(crate) host_loopback: bool,
}

/// The accelerator that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WantedAccelerator {
    Auto,
    Kvm,
    Tcg,
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
    use FlagKind::{Integer, Switch, Text};
    vec![
        flag(
            "qemu-cpu-count",
            "QEMU_CPU_COUNT",
            Integer,
            None,
            "N",
            "Number of CPUs (as many as this machine has, at most 2)",
        ),
        flag("qemu-memory", "QEMU_MEMORY", Integer, Some("1024"), "MIB", "Memory in MiB"),
        flag(
            "qemu-disk-size",
            "QEMU_DISK_SIZE",
            Integer,
            Some("20000"),
            "MIB",
            "Size of the disk in MiB; room is taken as it is used",
        ),
        flag(
            "qemu-image",
            "QEMU_IMAGE",
            Text,
            Some("machineos"),
            "NAME|PATH",
            "Image to boot: `machineos`, `debian-12`, or the path of a disk image with cloud-init",
        ),
        flag("qemu-ssh-user", "QEMU_SSH_USER", Text, None, "USER", "User to log in as (the image's own)"),
        flag(
            "qemu-accelerator",
            "QEMU_ACCELERATOR",
            Text,
            Some("auto"),
            "auto|kvm|tcg",
            "How the guest's CPU is run: hardware (`kvm`), software (`tcg`), or whichever works",
        ),
        flag(
            "qemu-binary",
            "QEMU_BINARY",
            Text,
            None,
            "PATH",
            "The QEMU to run (`qemu-system-x86_64` from the PATH)",
        )
        .alias("qemu-program"),
        flag(
            "qemu-address",
            "QEMU_ADDRESS",
            Text,
            None,
            "ADDRESS",
            "Loopback address of the host (a free one from 127.0.0.0/8)",
        ),
        flag(
            "qemu-host-loopback",
            "QEMU_HOST_LOOPBACK",
            Switch,
            None,
            "",
            "Let MachineOS and its containers reach what listens on this machine's loopback, as 10.0.2.2",
        ),
    ]
}

impl Config {
    /// The image to look for in these folders.
    pub(crate) fn wanted_image<'a>(&'a self, folders: &'a [PathBuf]) -> Wanted<'a> {
        Wanted { image: &self.image, option: "qemu-image", unpacked_kernel: true, folders }
    }

    pub(crate) fn from_options(options: &Options) -> Result<Self, DriverError> {
        let image = options.text("qemu-image").unwrap_or("machineos");
        if !image.contains('/') && !is_image_name(image) {
            return Err(DriverError::invalid(format!("`{}` is no name of an image", image.escape_debug()))
                .with_hint("A path has a `/` in it: `./disk.qcow2`"));
        }
        if image.contains('\0') {
            return Err(DriverError::invalid("A path has no zero byte in it"));
        }
        let accelerator = match options.text("qemu-accelerator").unwrap_or("auto") {
            "auto" => WantedAccelerator::Auto,
            "kvm" => WantedAccelerator::Kvm,
            "tcg" => WantedAccelerator::Tcg,
            other => {
                return Err(DriverError::invalid(format!(
                    "`--qemu-accelerator` takes `auto`, `kvm` or `tcg`, not `{}`",
                    other.escape_debug()
                )));
            }
        };
        let cpu_count = match options.integer("qemu-cpu-count") {
            None => None,
            Some(_) => Some(within(options, "qemu-cpu-count", 1, MOST_CPUS)?),
        };
        Ok(Self {
            cpu_count: cpu_count.and_then(|count| u32::try_from(count).ok()),
            memory: within(options, "qemu-memory", LEAST_MEMORY, MOST_MEMORY)?,
            disk_size: within(options, "qemu-disk-size", LEAST_DISK, MOST_DISK)?,
            image: image.to_owned(),
            ssh_user: options.text("qemu-ssh-user").map(user).transpose()?,
            accelerator,
            binary: options.text("qemu-binary").map(str::to_owned),
            address: options.text("qemu-address").map(loopback).transpose()?,
            host_loopback: options.switch("qemu-host-loopback"),
        })
    }

    pub(crate) fn of(host: &HostView) -> Result<Self, DriverError> {
        serde_json::from_value(host.config.clone()).map_err(|error| {
            DriverError::failed("Could not read the driver's part of the record").with_source(error)
        })
    }

    pub(crate) fn to_value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(self)
            .map_err(|error| DriverError::failed("Could not write the configuration").with_source(error))
    }

    pub(crate) fn cpus(&self) -> usize {
        match self.cpu_count {
            Some(count) => usize::try_from(count).unwrap_or(1),
            None => std::thread::available_parallelism().map_or(1, usize::from).min(2),
        }
    }

    pub(crate) fn binary(&self) -> &str {
        self.binary.as_deref().unwrap_or("qemu-system-x86_64")
    }
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

fn loopback(text: &str) -> Result<Ipv4Addr, DriverError> {
    text.parse::<Ipv4Addr>()
        .ok()
        .filter(|address| {
            address.is_loopback() && !matches!(address.octets(), [127, 0, 0, 0] | [127, 255, 255, 255])
        })
        .ok_or_else(|| {
            DriverError::invalid(format!("`{}` is no loopback address", text.escape_debug())).with_hint(
                "VMs are reachable from this machine only: choose one of 127.0.0.1 to 127.255.255.254",
            )
        })
}
