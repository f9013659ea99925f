//! Which devices a container sees, and the program that keeps it from all others on cgroup v2.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

use libcontainer::oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

mod program;

pub use program::attach_device_program;

/// More rules than anybody writes by hand; each becomes up to eight instructions.
const MOST_RULES: usize = 1000;
/// Bound for a directory given as a device, such as `/dev/snd`.
const MOST_NODES: usize = 500;

/// Why devices could not be given or kept away.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("invalid device cgroup rule: '{rule}'")]
    Rule { rule: String },
    #[error("{count} device rules are too many (at most {MOST_RULES})")]
    TooManyRules { count: usize },
    #[error("error gathering device information while adding custom device \"{}\"", path.display())]
    Gather { path: PathBuf, source: io::Error },
    #[error("error gathering device information while adding custom device \"{}\": not a device node", path.display())]
    NotADevice { path: PathBuf },
    #[error("invalid device mapping: \"{}\" is not an absolute path", path.display())]
    Destination { path: PathBuf },
    #[error("`{}` holds more than {MOST_NODES} devices", path.display())]
    TooManyNodes { path: PathBuf },
    #[error("Could not open the cgroup `{}`", path.display())]
    OpenCgroup { path: PathBuf, source: io::Error },
    #[error("The kernel did not accept the device program for the cgroup `{}`", path.display())]
    Load { path: PathBuf, source: io::Error },
    #[error("Could not attach the device program to the cgroup `{}`", path.display())]
    Attach { path: PathBuf, source: io::Error },
}

/// Kinds of device that a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    All,
    Block,
    Character,
}

/// What may be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub make: bool,
}

impl Access {
    pub const ALL: Self = Self { read: true, write: true, make: true };
    const MAKE: Self = Self { read: false, write: false, make: true };

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 3 || !text.chars().all(|letter| "rwm".contains(letter)) {
            return None;
        }
        Some(Self { read: text.contains('r'), write: text.contains('w'), make: text.contains('m') })
    }

    fn text(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')]
            .into_iter()
            .filter_map(|(set, letter)| set.then_some(letter))
            .collect()
    }
}

/// Allows or denies access to some devices. Of several rules that match, the last one counts, for each kind of access by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    /// Any when absent.
    pub major: Option<u32>,
    /// Any when absent.
    pub minor: Option<u32>,
    pub access: Access,
}

impl DeviceRule {
    /// Everything is allowed: what a privileged container has.
    pub const ALLOW_ALL: Self =
        Self { allow: true, kind: DeviceKind::All, major: None, minor: None, access: Access::ALL };
    /// Nothing is allowed: what every other list begins with.
    pub const DENY_ALL: Self = Self { allow: false, ..Self::ALLOW_ALL };

    const fn character(major: u32, minor: Option<u32>) -> Self {
        Self { allow: true, kind: DeviceKind::Character, major: Some(major), minor, access: Access::ALL }
    }

    /// As the OCI configuration writes it (which cgroup v1 applies).
    pub fn to_oci(self) -> LinuxDeviceCgroup {
        let kind = match self.kind {
            DeviceKind::All => LinuxDeviceType::A,
            DeviceKind::Block => LinuxDeviceType::B,
            DeviceKind::Character => LinuxDeviceType::C,
        };
        let mut builder =
            LinuxDeviceCgroupBuilder::default().allow(self.allow).typ(kind).access(self.access.text());
        if let Some(major) = self.major {
            builder = builder.major(major);
        }
        if let Some(minor) = self.minor {
            builder = builder.minor(minor);
        }
        builder.build().unwrap_or_default()
    }
}

/// `c 1:3 rwm`, as `--device-cgroup-rule` takes it.
impl FromStr for DeviceRule {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let invalid = || DeviceError::Rule { rule: text.chars().take(100).collect() };
        let parts: Vec<&str> = text.split(' ').collect();
        let [kind, numbers, access] = parts[..] else { return Err(invalid()) };
        let kind = match kind {
            "a" => DeviceKind::All,
            "b" => DeviceKind::Block,
            "c" => DeviceKind::Character,
            _ => return Err(invalid()),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
        let number = |text: &str| match text {
            "*" => Ok(None),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse::<u32>().ok().filter(|number| *number <= 0xf_ffff).map(Some).ok_or_else(invalid)
            }
            _ => Err(invalid()),
        };
        Ok(Self {
            allow: true,
            kind,
            major: number(major)?,
            minor: number(minor)?,
            access: Access::parse(access).ok_or_else(invalid)?,
        })
    }
}

/// What every container may use: null, zero, full, random, urandom, tty, console, ptmx and its terminals, and making
/// any node (which is of no use without the right to open it).
///
/// The nodes themselves are made by the runtime; only further ones have to be named in the configuration.
pub fn default_rules() -> Vec<DeviceRule> {
    let make = |kind| DeviceRule { kind, access: Access::MAKE, ..DeviceRule::ALLOW_ALL };
    vec![
        DeviceRule::DENY_ALL,
        make(DeviceKind::Character),
        make(DeviceKind::Block),
        DeviceRule::character(1, Some(3)),
        DeviceRule::character(1, Some(5)),
        DeviceRule::character(1, Some(7)),
        DeviceRule::character(1, Some(8)),
        DeviceRule::character(1, Some(9)),
        DeviceRule::character(5, Some(0)),
        DeviceRule::character(5, Some(1)),
        DeviceRule::character(5, Some(2)),
        DeviceRule::character(136, None),
    ]
}

/// A device of the host that a container is given.
#[derive(Clone, Debug)]
pub struct DeviceNode {
    pub on_host: PathBuf,
    pub device: LinuxDevice,
}

impl DeviceNode {
    /// The node itself as a mount, in the OCI form.
    pub fn mount(&self) -> Value {
        let (inside, on_host) = (self.device.path(), &self.on_host);
        json!({ "destination": inside, "type": "bind", "source": on_host, "options": ["bind"] })
    }
}

/// Nodes and rules for a device of the host given to a container; for a directory, those of all devices in it.
pub fn host_device(
    on_host: &Path,
    in_container: &Path,
    permissions: &str,
) -> Result<(Vec<DeviceNode>, Vec<DeviceRule>), DeviceError> {
    let permissions = if permissions.is_empty() { "rwm" } else { permissions };
    let access = Access::parse(permissions)
        .ok_or_else(|| DeviceError::Rule { rule: permissions.chars().take(100).collect() })?;
    let in_container = if in_container == Path::new("") { on_host } else { in_container };
    if !in_container.is_absolute()
        || in_container
            .components()
            .any(|part| part == Component::Normal(OsStr::new("..")) || part == Component::ParentDir)
    {
        return Err(DeviceError::Destination { path: in_container.to_owned() });
    }
    let gather = |source| DeviceError::Gather { path: on_host.to_owned(), source };
    let resolved = fs::canonicalize(on_host).map_err(gather)?;
    let mut nodes = Vec::new();
    if fs::metadata(&resolved).map_err(gather)?.is_dir() {
        collect(&resolved, in_container, 0, &mut nodes).map_err(gather)?;
        if nodes.len() > MOST_NODES {
            return Err(DeviceError::TooManyNodes { path: on_host.to_owned() });
        }
    } else {
        nodes.extend(node(&resolved, in_container).map_err(gather)?);
    }
    if nodes.is_empty() {
        return Err(DeviceError::NotADevice { path: on_host.to_owned() });
    }
    let rules = nodes
        .iter()
        .map(|DeviceNode { device, .. }| DeviceRule {
            allow: true,
            kind: if device.typ() == LinuxDeviceType::B { DeviceKind::Block } else { DeviceKind::Character },
            major: u32::try_from(device.major()).ok(),
            minor: u32::try_from(device.minor()).ok(),
            access,
        })
        .collect();
    Ok((nodes, rules))
}

fn collect(folder: &Path, in_container: &Path, depth: usize, nodes: &mut Vec<DeviceNode>) -> io::Result<()> {
    // /dev itself holds views of other things, which have nothing to do with devices.
    const NOT_DEVICES: [&str; 5] = ["pts", "shm", "fd", "mqueue", ".udev"];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let inside = in_container.join(&name);
        if kind.is_dir() && depth < 8 && !NOT_DEVICES.iter().any(|not| name == *not) {
            collect(&entry.path(), &inside, depth + 1, nodes)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.extend(node(&entry.path(), &inside)?);
        }
        if nodes.len() > MOST_NODES {
            break;
        }
    }
    Ok(())
}

fn node(on_host: &Path, in_container: &Path) -> io::Result<Option<DeviceNode>> {
    let metadata = fs::metadata(on_host)?;
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => LinuxDeviceType::B,
        kind if kind.is_char_device() => LinuxDeviceType::C,
        _ => return Ok(None),
    };
    let device = LinuxDeviceBuilder::default()
        .path(in_container)
        .typ(kind)
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .file_mode(metadata.permissions().mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .map_err(io::Error::other)?;
    Ok(Some(DeviceNode { on_host: on_host.to_owned(), device }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_rule_is_read_as_the_command_line_writes_it() {
        let rule: DeviceRule = "c 42:* rmw".parse().unwrap();
        assert_eq!(rule, DeviceRule { major: Some(42), minor: None, ..DeviceRule::character(42, None) });
        assert_eq!(rule.to_oci().to_string(), "c 42:* rwm");
        let rule: DeviceRule = "a *:* r".parse().unwrap();
        assert_eq!(rule.access, Access { read: true, write: false, make: false });
        assert_eq!(rule.kind, DeviceKind::All);
    }

    #[test]
    fn nonsense_rules_are_refused() {
        for text in [
            "",
            "c",
            "c 1:3",
            "d 1:3 rwm",
            "c 1 rwm",
            "c 1:3 x",
            "c 1:3 rwmr",
            "c -1:3 r",
            "c 1:99999999 r",
            "c 1:3  r",
        ] {
            let error = text.parse::<DeviceRule>().unwrap_err();
            assert_eq!(error.to_string(), format!("invalid device cgroup rule: '{text}'"));
        }
    }

    #[test]
    fn a_host_device_brings_its_numbers() {
        let (nodes, rules) = host_device(Path::new("/dev/null"), Path::new("/dev/nothing"), "r").unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].device.path(), Path::new("/dev/nothing"));
        assert_eq!((nodes[0].device.major(), nodes[0].device.minor()), (1, 3));
        assert_eq!(nodes[0].mount()["source"], "/dev/null");
        assert_eq!(rules[0].access, Access { read: true, write: false, make: false });
        assert_eq!(
            (rules[0].major, rules[0].minor, rules[0].kind),
            (Some(1), Some(3), DeviceKind::Character)
        );
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let not = host_device(Path::new("/etc/passwd"), Path::new(""), "").unwrap_err();
        assert!(matches!(not, DeviceError::NotADevice { .. }));
        let absent = host_device(Path::new("/dev/absent"), Path::new(""), "").unwrap_err();
        assert!(matches!(absent, DeviceError::Gather { .. }));
        let outside = host_device(Path::new("/dev/null"), Path::new("/dev/../etc/x"), "").unwrap_err();
        assert!(matches!(outside, DeviceError::Destination { .. }));
    }
}
