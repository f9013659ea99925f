//! The options of `virtualbox`, declared and checked.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use machine_driver::{
    DriverError, Flag, FlagKind, HostView, Options,
    local::image::{Wanted, is_image_name},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const LEAST_MEMORY: i64 = 256;
const MOST_MEMORY: i64 = 2 << 20;
const LEAST_DISK: i64 = 256;
const MOST_DISK: i64 = 2_097_152;
/// docker-machine's bound, which is also that of older versions of VirtualBox.
const MOST_CPUS: i64 = 32;
const NIC_TYPES: [&str; 6] = ["82540EM", "82543GC", "82545EM", "Am79C970A", "Am79C973", "virtio"];
const UI_TYPES: [&str; 4] = ["headless", "gui", "sdl", "separate"];
/// The option that names an image.
pub(crate) const IMAGE: &str = "virtualbox-image";
const URL: &str = "virtualbox-boot2docker-url";

/// What a VM is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) cpu_count: u32,
    /// MiB.
    pub(crate) memory: u64,
    /// MiB.
    pub(crate) disk_size: u64,
    /// An image's name, or a path, which has a `/` or a `\` in it.
    pub(crate) image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) nic_type: String,
    pub(crate) ui_type: String,
    #[serde(default)]
    pub(crate) host_dns_resolver: bool,
    #[serde(default)]
    pub(crate) no_dns_proxy: bool,
    /// The VM may reach what listens on this machine's loopback interface.
    #[serde(default)]
    pub(crate) host_loopback: bool,
}

pub(crate) fn flags() -> Vec<Flag> {
    use FlagKind::{Integer, Retired, Switch, Text};
    let flag = |name: &str, variable: &str, kind, value: &str, help: &str| {
        Flag::new(name, kind, value, help).environment(variable)
    };
    vec![
        flag("virtualbox-cpu-count", "VIRTUALBOX_CPU_COUNT", Integer, "N", "Number of CPUs; less than 1: as many as this machine has, at most 32")
            .default("1"),
        flag("virtualbox-memory", "VIRTUALBOX_MEMORY_SIZE", Integer, "MIB", "Memory in MiB").default("1024"),
        flag("virtualbox-disk-size", "VIRTUALBOX_DISK_SIZE", Integer, "MIB", "Size of the disk in MiB; room is taken as it is used")
            .default("20000"),
        flag(IMAGE, "VIRTUALBOX_IMAGE", Text, "NAME|PATH", "Image to boot: `machineos`, or the path of a disk (VDI, VMDK, VHD, raw) or a disc (ISO) with cloud-init")
            .default("machineos"),
        flag(URL, "VIRTUALBOX_BOOT2DOCKER_URL", Text, "URL", "A disc (ISO) with cloud-init to boot, as `file:///…`"),
        flag("virtualbox-ssh-user", "VIRTUALBOX_SSH_USER", Text, "USER", "User to log in as (the image's own)"),
        flag("virtualbox-address", "VIRTUALBOX_ADDRESS", Text, "ADDRESS", "Loopback address of the host (a free one from 127.0.0.0/8)"),
        flag("virtualbox-nat-nictype", "VIRTUALBOX_NAT_NICTYPE", Text, "TYPE", "Type of the network cards").default("82540EM"),
        flag("virtualbox-ui-type", "VIRTUALBOX_UI_TYPE", Text, "TYPE", "How the VM is shown: `headless`, `gui`, `sdl` or `separate`")
            .default("headless"),
        flag("virtualbox-host-dns-resolver", "VIRTUALBOX_HOST_DNS_RESOLVER", Switch, "", "Let the VM ask this machine's resolver for names"),
        flag("virtualbox-no-dns-proxy", "VIRTUALBOX_NO_DNS_PROXY", Switch, "", "Give the VM the name servers of this machine instead of a proxy to them"),
        flag("virtualbox-host-loopback", "VIRTUALBOX_HOST_LOOPBACK", Switch, "", "Let the VM and its containers reach what listens on this machine's loopback, as 10.0.2.2"),
        flag("virtualbox-no-vtx-check", "VIRTUALBOX_NO_VTX_CHECK", Switch, "", "Taken for old scripts: what the processor lacks is said by VirtualBox itself"),
        flag("virtualbox-no-share", "VIRTUALBOX_NO_SHARE", Switch, "", "Taken for old scripts: no folder of this machine is shared with the VM"),
        flag("virtualbox-share-folder", "VIRTUALBOX_SHARE_FOLDER", Retired, "", "No folder of this machine is shared with the VM; `machine mount` and `machine scp` bring files"),
        flag("virtualbox-import-boot2docker-vm", "VIRTUALBOX_BOOT2DOCKER_IMPORT_VM", Retired, "", "What a VM of boot2docker has on its disk is not read; `docker save` and `docker load` bring images over"),
        flag("virtualbox-hostonly-cidr", "VIRTUALBOX_HOSTONLY_CIDR", Retired, "", HOST_ONLY),
        flag("virtualbox-hostonly-nictype", "VIRTUALBOX_HOSTONLY_NIC_TYPE", Retired, "", HOST_ONLY),
        flag("virtualbox-hostonly-nicpromisc", "VIRTUALBOX_HOSTONLY_NIC_PROMISC", Retired, "", HOST_ONLY),
        flag("virtualbox-hostonly-no-dhcp", "VIRTUALBOX_HOSTONLY_NO_DHCP", Retired, "", HOST_ONLY),
    ]
}

const HOST_ONLY: &str = "The host has a loopback address of its own and no host-only adapter, which needs privileges and a driver; choose it with `--virtualbox-address`";

fn one_of(options: &Options, name: &str, words: &[&str]) -> Result<String, DriverError> {
    let given = options.text(name).unwrap_or(words[0]);
    words.iter().find(|word| word.eq_ignore_ascii_case(given)).map(|word| (*word).to_owned()).ok_or_else(
        || {
            DriverError::invalid(format!(
                "`--{name}` takes one of {}, not `{}`",
                words.join(", "),
                given.escape_debug()
            ))
        },
    )
}

fn within(options: &Options, name: &str, least: i64, most: i64) -> Result<u64, DriverError> {
    let number = options.integer(name).unwrap_or_default();
    u64::try_from(number).ok().filter(|_| (least..=most).contains(&number)).ok_or_else(|| {
        DriverError::invalid(format!("`--{name}` takes a number from {least} to {most}, not {number}"))
    })
}

/// Whether a word is a path and no image's name.
fn is_path(image: &str) -> bool {
    image.contains(['/', '\\'])
}

/// The path in `file:///…`; other places are not fetched from.
fn disc_of(url: &str) -> Result<String, DriverError> {
    let path = match url.strip_prefix("file://") {
        Some(path) => path,
        None if url.contains("://") => {
            return Err(DriverError::invalid(format!(
                "`--{URL}` takes a file, not `{}`: nothing says what an image from there should be",
                url.escape_debug()
            ))
            .with_hint(format!("Download it, and give its path with `--{IMAGE}`; boot2docker itself is no more, and has no cloud-init")));
        }
        None => url,
    };
    let is_disc = Path::new(path).extension().is_some_and(|end| end.eq_ignore_ascii_case("iso"));
    if is_path(path) && is_disc {
        return Ok(path.to_owned());
    }
    Err(DriverError::invalid(format!("`{}` is no path of a disc", url.escape_debug()))
        .with_hint(format!("`--{URL}` takes `file:///…/NAME.iso`")))
}

impl Config {
    pub(crate) fn from_options(options: &Options) -> Result<Self, DriverError> {
        let image = match options.text(URL) {
            Some(url) => disc_of(url)?,
            None => options.text(IMAGE).unwrap_or("machineos").to_owned(),
        };
        if !is_path(&image) && !is_image_name(&image) {
            return Err(DriverError::invalid(format!("`{}` is no name of an image", image.escape_debug()))
                .with_hint("A path has a `/` in it: `./disk.vdi`"));
        }
        if image.contains(char::is_control) {
            return Err(DriverError::invalid("The path of an image has no control characters in it"));
        }
        let address = options.text("virtualbox-address").map(address).transpose()?;
        let ssh_user = options.text("virtualbox-ssh-user").map(user).transpose()?;
        let cpus = options.integer("virtualbox-cpu-count").unwrap_or(1);
        let cpu_count = if cpus < 1 { 0 } else { within(options, "virtualbox-cpu-count", 1, MOST_CPUS)? };
        Ok(Self {
            cpu_count: u32::try_from(cpu_count).unwrap_or_default(),
            memory: within(options, "virtualbox-memory", LEAST_MEMORY, MOST_MEMORY)?,
            disk_size: within(options, "virtualbox-disk-size", LEAST_DISK, MOST_DISK)?,
            image,
            ssh_user,
            address,
            nic_type: one_of(options, "virtualbox-nat-nictype", &NIC_TYPES)?,
            ui_type: one_of(options, "virtualbox-ui-type", &UI_TYPES)?,
            host_dns_resolver: options.switch("virtualbox-host-dns-resolver"),
            no_dns_proxy: options.switch("virtualbox-no-dns-proxy"),
            host_loopback: options.switch("virtualbox-host-loopback"),
        })
    }

    pub(crate) fn of(host: &HostView) -> Result<Self, DriverError> {
        serde_json::from_value(host.config.clone()).map_err(|error| {
            DriverError::failed(format!("Could not read the options of `{}` in its record", host.name))
                .with_source(error)
        })
    }

    pub(crate) fn to_value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(self)
            .map_err(|error| DriverError::failed("Could not write the driver's options").with_source(error))
    }

    /// As many processors as were asked for, or as there are.
    pub(crate) fn cpus(&self) -> usize {
        match self.cpu_count {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(32),
            count => usize::try_from(count).unwrap_or(1),
        }
    }

    /// The path of the user's own image.
    pub(crate) fn own_image(&self) -> Option<&Path> {
        is_path(&self.image).then(|| Path::new(&self.image))
    }

    /// The image to look for in these folders, by its name.
    pub(crate) fn wanted_image<'a>(&'a self, folders: &'a [PathBuf]) -> Wanted<'a> {
        Wanted { image: &self.image, option: IMAGE, unpacked_kernel: false, folders }
    }
}

fn address(text: &str) -> Result<Ipv4Addr, DriverError> {
    let address: Option<Ipv4Addr> = text.parse().ok();
    let last = Ipv4Addr::new(127, 255, 255, 255);
    address
        .filter(|address| address.is_loopback() && *address != last && address.octets() != [127, 0, 0, 0])
        .ok_or_else(|| {
            DriverError::invalid(format!(
                "`--virtualbox-address` takes a loopback address, not `{}`",
                text.escape_debug()
            ))
            .with_hint(
                "The host is reachable from this machine only: choose one of 127.0.0.1 to 127.255.255.254",
            )
        })
}

fn user(text: &str) -> Result<String, DriverError> {
    let good = text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
    if good {
        return Ok(text.to_owned());
    }
    Err(DriverError::invalid(format!("`{}` is no name of a user", text.escape_debug())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    fn config(given: &[(&str, &str)]) -> Result<Config, DriverError> {
        let given: BTreeMap<String, Vec<String>> =
            given.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
        let options =
            Options::resolve(&flags(), &given).map_err(|error| DriverError::invalid(error.to_string()))?;
        Config::from_options(&options)
    }

    #[test]
    fn the_defaults_are_docker_machines() {
        let config = config(&[]).unwrap();
        assert_eq!((config.cpu_count, config.memory, config.disk_size), (1, 1024, 20_000));
        assert_eq!((config.nic_type.as_str(), config.ui_type.as_str()), ("82540EM", "headless"));
        assert_eq!(config.image, "machineos");
    }

    #[test]
    fn a_count_below_one_means_all_processors() {
        assert!(config(&[("virtualbox-cpu-count", "-1")]).unwrap().cpus() >= 1);
        assert!(config(&[("virtualbox-cpu-count", "33")]).is_err());
    }

    #[test]
    fn every_flag_of_docker_machine_is_taken_or_refused_with_a_reason() {
        let known: Vec<(String, Option<String>)> =
            flags().into_iter().map(|flag| (flag.name, flag.environment)).collect();
        for (name, variable) in [
            ("memory", "MEMORY_SIZE"),
            ("cpu-count", "CPU_COUNT"),
            ("disk-size", "DISK_SIZE"),
            ("boot2docker-url", "BOOT2DOCKER_URL"),
            ("import-boot2docker-vm", "BOOT2DOCKER_IMPORT_VM"),
            ("host-dns-resolver", "HOST_DNS_RESOLVER"),
            ("nat-nictype", "NAT_NICTYPE"),
            ("hostonly-cidr", "HOSTONLY_CIDR"),
            ("hostonly-nictype", "HOSTONLY_NIC_TYPE"),
            ("hostonly-nicpromisc", "HOSTONLY_NIC_PROMISC"),
            ("ui-type", "UI_TYPE"),
            ("hostonly-no-dhcp", "HOSTONLY_NO_DHCP"),
            ("no-share", "NO_SHARE"),
            ("no-dns-proxy", "NO_DNS_PROXY"),
            ("no-vtx-check", "NO_VTX_CHECK"),
            ("share-folder", "SHARE_FOLDER"),
        ] {
            let flag = (format!("virtualbox-{name}"), Some(format!("VIRTUALBOX_{variable}")));
            assert!(known.contains(&flag), "{flag:?}");
        }
        let error = config(&[("virtualbox-hostonly-cidr", "192.168.99.1/24")]).unwrap_err();
        assert!(error.to_string().contains("is not taken: The host has a loopback address"), "{error}");
    }

    #[test]
    fn a_disc_is_taken_from_a_file_and_from_nowhere_else() {
        let image = |url: &str| config(&[(URL, url)]).map(|config| config.image);
        assert_eq!(image("file:///srv/a b.iso").unwrap(), "/srv/a b.iso");
        assert_eq!(image("./boot.ISO").unwrap(), "./boot.ISO");
        for url in ["https://example.org/boot.iso", "boot.iso", "file:///srv/disk.vdi", "ftp://x/y.iso"] {
            assert!(image(url).is_err(), "{url}");
        }
    }
}
