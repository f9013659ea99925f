//! The OCI configuration of a container.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use engine_kernel::capabilities::{self, CapabilityError};
use engine_kernel::devices::{self, DeviceError, DeviceRule};
use engine_kernel::seccomp::{self, SeccompError};
use engine_model::wire::HostConfig;
use engine_model::wire::Ulimit;
use libcontainer::oci_spec::runtime::Capability;
use serde_json::{Map, Value, json};

use super::limits;
use crate::record::{Identity, MountKind};

/// What a program finds its friends with unless the image says otherwise.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("invalid --security-opt 2: {0:?}")]
    SecurityOption(String),
    #[error("The rules cannot be written down")]
    Write(#[from] serde_json::Error),
}

/// A namespace of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    Own,
    Host,
    /// Of another process, by the namespace's path.
    Shared(PathBuf),
}

/// What is decided outside: where things are, and whom the container shares with.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub rootfs: PathBuf,
    pub cgroup: PathBuf,
    pub hostname: String,
    pub network: Namespace,
    pub pid: Namespace,
    pub ipc: Namespace,
    /// The other container's `/dev/shm` when the namespace for it is shared.
    pub shared_memory: Option<PathBuf>,
    /// `/etc/hosts` and so on: on the host, in the container.
    pub files: Vec<(PathBuf, PathBuf)>,
    pub default_ulimits: BTreeMap<String, Ulimit>,
    pub unified_cgroups: bool,
}

/// What a container is confined by; for its first process and for those that join it.
#[derive(Clone, Debug)]
pub(crate) struct Confinement {
    pub capabilities: HashSet<Capability>,
    pub seccomp: Option<Value>,
    pub no_new_privileges: bool,
}

/// Reads the wishes about capabilities and `--security-opt`.
pub(crate) fn confinement(host: &HostConfig, privileged: bool) -> Result<Confinement, SpecError> {
    let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();
    let capabilities = capabilities::resolve(&list(&host.cap_add), &list(&host.cap_drop), privileged)?;
    let mut profile = if privileged { "unconfined" } else { "builtin" };
    let mut no_new_privileges = false;
    let options = list(&host.security_opt);
    for option in &options {
        let (key, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (key, value) {
            ("seccomp", value) if !value.is_empty() => profile = value,
            ("no-new-privileges", "" | "true") => no_new_privileges = true,
            ("no-new-privileges", "false") => no_new_privileges = false,
            // Neither is there on the hosts that this engine knows.
            ("apparmor" | "label" | "systempaths" | "writable-cgroups", _) => {}
            _ => return Err(SpecError::SecurityOption(option.clone())),
        }
    }
    let seccomp = match profile {
        "unconfined" => None,
        "builtin" => Some(serde_json::to_value(seccomp::default_profile(&capabilities))?),
        json => Some(serde_json::to_value(seccomp::parse_profile(json, &capabilities)?)?),
    };
    Ok(Confinement { capabilities, seccomp, no_new_privileges })
}

/// The container's environment; `HOME` comes when the user is known.
pub(crate) fn environment(identity: &Identity, hostname: &str) -> Vec<String> {
    let mut environment = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if identity.config.tty {
        environment.push("TERM=xterm".to_owned());
    }
    merge_environment(&mut environment, &identity.config.env);
    environment
}

/// Adds `NAME=value` entries; one without `=` takes the name away. Entries that no program could read are left out.
pub(crate) fn merge_environment(environment: &mut Vec<String>, entries: &[String]) {
    for entry in entries {
        let name = entry.split('=').next().unwrap_or_default();
        if name.is_empty() || entry.contains('\0') {
            continue;
        }
        let prefix = format!("{name}=");
        let place = environment.iter().position(|known| known.starts_with(&prefix));
        match (place, entry.contains('=')) {
            (Some(place), true) => environment[place].clone_from(entry),
            (Some(place), false) => drop(environment.remove(place)),
            (None, true) => environment.push(entry.clone()),
            (None, false) => {}
        }
    }
}

/// The OCI `process`, without its user.
pub(crate) fn process(
    arguments: &[String],
    environment: &[String],
    directory: &str,
    terminal: bool,
    confinement: &Confinement,
) -> Value {
    let mut names: Vec<&str> =
        confinement.capabilities.iter().map(|&name| capabilities::name(name)).collect();
    names.sort_unstable();
    let mut process = json!({
        "terminal": terminal,
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": environment,
        "cwd": directory,
        "capabilities": { "bounding": names, "effective": names, "permitted": names },
    });
    // Its absence, not `false`, makes libcontainer load the filter while it may.
    if confinement.no_new_privileges {
        process["noNewPrivileges"] = true.into();
    }
    process
}

/// Builds the configuration, and the rules about devices for those who apply them themselves.
pub(crate) fn build(identity: &Identity, around: &Surroundings) -> Result<(Value, Value), SpecError> {
    let (config, host) = (&identity.config, &identity.host);
    let confinement = confinement(host, host.privileged)?;
    let directory = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let directory = engine_kernel::confine::clean(Path::new(directory));
    let environment = environment(identity, &around.hostname);
    let mut process =
        process(&identity.command, &environment, &directory.to_string_lossy(), config.tty, &confinement);
    let rlimits = limits::processes(host, &around.default_ulimits);
    if !rlimits.is_empty() {
        process["rlimits"] = rlimits.into();
    }
    if let Some(adjustment) = limits::out_of_memory_score(host.oom_score_adj) {
        process["oomScoreAdj"] = adjustment.into();
    }

    let (nodes, rules) = device_rules(host)?;
    let rules: Value =
        rules.into_iter().map(|rule| serde_json::to_value(rule.to_oci())).collect::<Result<_, _>>()?;
    let mut resources = limits::resources(host, around.unified_cgroups);
    resources["devices"] = rules.clone();
    let mut linux = json!({
        "namespaces": namespaces(host, around),
        "cgroupsPath": around.cgroup,
        "resources": resources,
        "maskedPaths": paths(host.masked_paths.as_ref(), &MASKED_PATHS, host.privileged),
        "readonlyPaths": paths(host.readonly_paths.as_ref(), &READ_ONLY_PATHS, host.privileged),
        "devices": nodes,
    });
    if let Some(filter) = confinement.seccomp {
        linux["seccomp"] = filter;
    }
    let sysctls = sysctls(host, around);
    if !sysctls.is_empty() {
        linux["sysctl"] = sysctls.into();
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "root": { "path": around.rootfs, "readonly": host.readonly_rootfs },
        "process": process,
        "mounts": mounts(identity, around),
        "linux": linux,
    });
    if host.uts_mode != "host" {
        spec["hostname"] = around.hostname.clone().into();
        if !config.domainname.is_empty() {
            spec["domainname"] = config.domainname.clone().into();
        }
    }
    Ok((spec, rules))
}

fn paths(wanted: Option<&Vec<String>>, default: &[&str], privileged: bool) -> Vec<String> {
    match wanted {
        _ if privileged => Vec::new(),
        Some(paths) => paths.clone(),
        None => default.iter().map(|&path| path.to_owned()).collect(),
    }
}

fn namespaces(host: &HostConfig, around: &Surroundings) -> Vec<Value> {
    let mut namespaces = vec![json!({ "type": "mount" })];
    let mut add = |kind: &str, namespace: &Namespace| match namespace {
        Namespace::Own => namespaces.push(json!({ "type": kind })),
        Namespace::Shared(path) => namespaces.push(json!({ "type": kind, "path": path })),
        Namespace::Host => {}
    };
    let private_cgroup = match host.cgroupns_mode.as_str() {
        "private" => true,
        "host" => false,
        _ => around.unified_cgroups && !host.privileged,
    };
    add("network", &around.network);
    add("pid", &around.pid);
    add("ipc", &around.ipc);
    add("uts", if host.uts_mode == "host" { &Namespace::Host } else { &Namespace::Own });
    add("cgroup", if private_cgroup { &Namespace::Own } else { &Namespace::Host });
    namespaces
}

fn device_rules(host: &HostConfig) -> Result<(Vec<Value>, Vec<DeviceRule>), SpecError> {
    let mut nodes = Vec::new();
    let mut rules = if host.privileged { vec![DeviceRule::ALLOW_ALL] } else { devices::default_rules() };
    let mut wanted: Vec<(PathBuf, PathBuf, String)> = Vec::new();
    if host.privileged {
        wanted.push(("/dev".into(), "/dev".into(), "rwm".into()));
    }
    for device in host.devices.iter().flatten() {
        let (on_host, inside) = (device.path_on_host.clone().into(), device.path_in_container.clone().into());
        wanted.push((on_host, inside, device.cgroup_permissions.clone()));
    }
    for (on_host, inside, permissions) in wanted {
        let (found, more) = devices::host_device(&on_host, &inside, &permissions)?;
        for node in found {
            nodes.push(serde_json::to_value(node)?);
        }
        if !host.privileged {
            rules.extend(more);
        }
    }
    for rule in host.device_cgroup_rules.iter().flatten() {
        rules.push(rule.parse()?);
    }
    Ok((nodes, rules))
}

fn sysctls(host: &HostConfig, around: &Surroundings) -> Map<String, Value> {
    let mut sysctls = Map::new();
    if around.network == Namespace::Own && !host.privileged {
        // Programs that are not root may use low ports and ping: in here it harms nobody.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".into());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".into());
    }
    for (name, value) in host.sysctls.iter().flatten() {
        sysctls.insert(name.clone(), value.clone().into());
    }
    sysctls
}

fn mounts(identity: &Identity, around: &Surroundings) -> Vec<Value> {
    let host = &identity.host;
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let read_only = if host.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", if host.shm_size > 0 { host.shm_size } else { 64 * 1024 * 1024 });
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", read_only]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    // On the older hierarchy libcontainer would mount it writable, and a container could lift its own limits.
    if around.unified_cgroups || host.privileged {
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", read_only]));
    }
    mounts.push(match (&around.shared_memory, &around.ipc) {
        (Some(path), _) => mount("/dev/shm", "bind", &path.to_string_lossy(), &["rbind"]),
        (None, Namespace::Host) => mount("/dev/shm", "bind", "/dev/shm", &["rbind"]),
        _ => mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]),
    });
    for (on_host, inside) in &around.files {
        let covered = identity.mounts.iter().any(|point| &point.destination == inside);
        if !covered {
            mounts.push(mount(
                &inside.to_string_lossy(),
                "bind",
                &on_host.to_string_lossy(),
                &["rbind", "rprivate"],
            ));
        }
    }
    // Parents before what is mounted in them.
    let mut wanted: Vec<_> = identity.mounts.iter().collect();
    wanted.sort_by_key(|point| point.destination.components().count());
    for point in wanted {
        let destination = point.destination.to_string_lossy();
        let access = if point.read_only { "ro" } else { "rw" };
        mounts.push(if point.kind == MountKind::Tmpfs {
            let mut options = vec!["nosuid", "nodev", "noexec", access];
            let given: Vec<&str> = point.options.iter().map(String::as_str).collect();
            options.retain(|option| !given.contains(&option.strip_prefix("no").unwrap_or(option)));
            options.extend(given.iter().filter(|option| !matches!(**option, "exec" | "suid" | "dev")));
            mount(&destination, "tmpfs", "tmpfs", &options)
        } else {
            let bind = if point.recursive { "rbind" } else { "bind" };
            let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
            let mut options = vec![bind, access, propagation];
            // What is mounted below is read-only, too.
            if point.read_only && point.recursive {
                options.push("rro");
            }
            mount(&destination, "bind", &point.source.to_string_lossy(), &options)
        });
    }
    mounts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(json: Value) -> HostConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn later_entries_of_the_environment_win() {
        let mut environment = vec!["A=1".to_owned(), "B=2".to_owned()];
        let entries = ["B=3", "C=4=5", "A", "=x", "D", "E=\0"].map(str::to_owned);
        merge_environment(&mut environment, &entries);
        assert_eq!(environment, ["B=3", "C=4=5"]);
    }

    #[test]
    fn security_options() {
        let default = confinement(&host(json!({})), false).unwrap();
        assert!(default.seccomp.is_some() && !default.no_new_privileges);
        let options = json!({ "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"] });
        let free = confinement(&host(options), false).unwrap();
        assert!(free.seccomp.is_none() && free.no_new_privileges);
        let own = json!({ "SecurityOpt": ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"] });
        assert_eq!(
            confinement(&host(own), false).unwrap().seccomp.unwrap()["defaultAction"],
            "SCMP_ACT_ALLOW"
        );
        assert!(confinement(&host(json!({ "SecurityOpt": ["seccomp={"] })), false).is_err());
        assert!(confinement(&host(json!({ "SecurityOpt": ["nonsense=1"] })), false).is_err());
    }
}
