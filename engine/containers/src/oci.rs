//! The OCI configuration of a container.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::capabilities::{self, CapabilityError};
use engine_kernel::devices::{self, DeviceError, DeviceNode, DeviceRule};
use engine_kernel::process::OpenNamespace;
use engine_kernel::seccomp::{self, Filter, Filters, SeccompError};
use engine_model::spec::{ConfinementSpec, ContainerSpec, DeviceSpec, ProcessSpec, Seccomp};
use engine_model::wire::Ulimit;
use engine_shim::protocol;
use libcontainer::oci_spec::runtime::Capability;
use serde_json::{Map, Value, json};

use super::limits;
use crate::record::{MountKind, MountPoint};

/// What a program finds its friends with unless the image says otherwise.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) const MASKED_PATHS: [&str; 12] = [
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
pub(crate) const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

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
    #[error(transparent)]
    Limit(#[from] limits::LimitError),
    #[error("The rules cannot be written down")]
    Write(#[from] serde_json::Error),
}

/// A namespace of the container.
#[derive(Debug)]
pub(crate) enum Namespace {
    Own,
    Host,
    /// Its own, which is there before it: pinned to this file.
    Pinned(PathBuf),
    /// Of another container, as long as this is there.
    Shared(OpenNamespace),
}

/// What is decided outside: where things are, and whom the container shares with.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub rootfs: PathBuf,
    pub cgroup: PathBuf,
    pub hostname: String,
    /// Variables that tell of the containers that it is linked to.
    pub links: Vec<String>,
    pub network: Namespace,
    pub pid: Namespace,
    pub ipc: Namespace,
    /// The mount namespace of the container whose `/dev/shm` is this one's as well.
    pub shared_memory: Option<OpenNamespace>,
    /// `/etc/hosts` and so on: on the host, in the container.
    pub files: Vec<(PathBuf, PathBuf)>,
    pub default_ulimits: BTreeMap<String, Ulimit>,
    pub unified_cgroups: bool,
    /// Folders of the host whose files have the numbers of the container's users.
    pub own_folders: Vec<PathBuf>,
}

/// What a container is confined by; for its first process and for those that join it.
#[derive(Clone, Debug)]
pub(crate) struct Confinement {
    pub capabilities: HashSet<Capability>,
    pub seccomp: Option<Arc<Filter>>,
    pub no_new_privileges: bool,
}

/// What a process is confined by, the container's first or another one.
pub(crate) fn confinement(
    wish: &ConfinementSpec,
    privileged: bool,
    filters: &Filters,
) -> Result<Confinement, SpecError> {
    let capabilities = capabilities::resolve(&wish.add_capabilities, &wish.drop_capabilities, privileged)?;
    let seccomp = match &wish.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::Usual if privileged => None,
        Seccomp::Usual | Seccomp::Builtin => Some(filters.get(&seccomp::default_profile(&capabilities))?),
        Seccomp::Profile(json) => Some(filters.get(&seccomp::parse_profile(json, &capabilities)?)?),
    };
    Ok(Confinement { capabilities, seccomp, no_new_privileges: wish.no_new_privileges })
}

/// The container's environment; `HOME` comes when the user is known.
pub(crate) fn environment(wish: &ProcessSpec, hostname: &str, links: &[String]) -> Vec<String> {
    let mut environment = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if wish.terminal {
        environment.push("TERM=xterm".to_owned());
    }
    merge_environment(&mut environment, links);
    merge_environment(&mut environment, &wish.environment);
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
    json!({
        "terminal": terminal,
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": environment,
        "cwd": directory,
        "capabilities": { "bounding": names, "effective": names, "permitted": names },
        "noNewPrivileges": confinement.no_new_privileges,
    })
}

/// What a container is made from.
pub(crate) struct Bundle {
    /// The OCI configuration. It names no system calls: [`Bundle::seccomp`] is loaded by ourselves.
    pub configuration: Value,
    /// The rules about devices, for those who apply them themselves.
    pub devices: Value,
    pub seccomp: Option<Arc<Filter>>,
}

/// Builds what a container is made from. `users` is its user namespace, if it has one; what is `lent` to its process is in no
/// record.
pub(crate) fn build(
    command: &[String],
    points: &[MountPoint],
    spec: &ContainerSpec,
    around: &Surroundings,
    users: Option<&OpenNamespace>,
    lent: &[String],
    filters: &Filters,
) -> Result<Bundle, SpecError> {
    let ContainerSpec { process: wish, confinement: confined, .. } = spec;
    let confinement = confinement(confined, confined.privileged, filters)?;
    let mut environment = environment(wish, &around.hostname, &around.links);
    merge_environment(&mut environment, lent);
    let directory = wish.directory.to_string_lossy();
    let mut process = process(command, &environment, &directory, wish.terminal, &confinement);
    let rlimits = limits::processes(&spec.limits, &around.default_ulimits);
    if !rlimits.is_empty() {
        process["rlimits"] = rlimits.into();
    }
    if let Some(adjustment) = limits::out_of_memory_score(spec.limits.out_of_memory_score) {
        process["oomScoreAdj"] = adjustment.into();
    }

    let (mut nodes, rules) = device_rules(confined)?;
    let mut mounts = mounts(points, spec, around);
    if users.is_some() {
        // Nobody in there may make devices: those of the host are mounted.
        for_own_users(&mut mounts, points, around);
        mounts.extend(nodes.drain(..).map(|node| node.mount()));
    }
    let nodes =
        nodes.into_iter().map(|node| serde_json::to_value(node.device)).collect::<Result<Vec<_>, _>>()?;
    let rules: Value =
        rules.into_iter().map(|rule| serde_json::to_value(rule.to_oci())).collect::<Result<_, _>>()?;
    let mut resources = limits::resources(&spec.limits, around.unified_cgroups)?;
    resources["devices"] = rules.clone();
    let mut linux = json!({
        "namespaces": namespaces(spec, around, users),
        "cgroupsPath": around.cgroup,
        "resources": resources,
        "maskedPaths": paths(confined.masked_paths.as_ref(), &MASKED_PATHS, confined.privileged),
        "readonlyPaths": paths(confined.read_only_paths.as_ref(), &READ_ONLY_PATHS, confined.privileged),
        "devices": nodes,
    });
    // The runtime passes over the propagation of single mounts: they have that of the whole. So what the host mounts later is
    // seen in all of a container's bind mounts if one of them asks for it, and in none otherwise.
    let follows_host =
        |point: &MountPoint| !matches!(point.propagation.as_str(), "" | "private" | "rprivate");
    if !points.iter().any(follows_host) {
        linux["rootfsPropagation"] = "private".into();
    }
    let sysctls = sysctls(confined, around, users.is_some());
    if !sysctls.is_empty() {
        linux["sysctl"] = sysctls.into();
    }
    let mut configuration = json!({
        "ociVersion": "1.2.0",
        "root": { "path": around.rootfs, "readonly": confined.read_only_root },
        "process": process,
        "mounts": mounts,
        "linux": linux,
    });
    if !spec.annotations.is_empty() {
        configuration["annotations"] = json!(spec.annotations);
    }
    if !spec.sharing.host_names {
        configuration["hostname"] = around.hostname.clone().into();
        if !wish.domain_name.is_empty() {
            configuration["domainname"] = wish.domain_name.clone().into();
        }
    }
    Ok(Bundle { configuration, devices: rules, seccomp: confinement.seccomp })
}

fn paths(wanted: Option<&Vec<String>>, default: &[&str], privileged: bool) -> Vec<String> {
    match wanted {
        _ if privileged => Vec::new(),
        Some(paths) => paths.clone(),
        None => default.iter().map(|&path| path.to_owned()).collect(),
    }
}

fn namespaces(spec: &ContainerSpec, around: &Surroundings, users: Option<&OpenNamespace>) -> Vec<Value> {
    let mut namespaces = vec![json!({ "type": "mount" })];
    if let Some(users) = users {
        namespaces.push(json!({ "type": "user", "path": users.path() }));
    }
    let mut add = |kind: &str, namespace: &Namespace| match namespace {
        Namespace::Own => namespaces.push(json!({ "type": kind })),
        Namespace::Pinned(path) => namespaces.push(json!({ "type": kind, "path": path })),
        Namespace::Shared(open) => namespaces.push(json!({ "type": kind, "path": open.path() })),
        Namespace::Host => {}
    };
    let private_cgroup =
        spec.sharing.private_cgroups.unwrap_or(around.unified_cgroups && !spec.confinement.privileged);
    add("network", &around.network);
    add("pid", &around.pid);
    add("ipc", &around.ipc);
    add("uts", if spec.sharing.host_names { &Namespace::Host } else { &Namespace::Own });
    add("cgroup", if private_cgroup { &Namespace::Own } else { &Namespace::Host });
    namespaces
}

fn device_rules(wish: &ConfinementSpec) -> Result<(Vec<DeviceNode>, Vec<DeviceRule>), SpecError> {
    let mut nodes = Vec::new();
    let mut rules = if wish.privileged { vec![DeviceRule::ALLOW_ALL] } else { devices::default_rules() };
    let mut wanted = Vec::new();
    if wish.privileged {
        let (on_host, inside, permissions) = ("/dev".into(), "/dev".into(), "rwm".to_owned());
        wanted.push(DeviceSpec { on_host, inside, permissions });
    }
    wanted.extend(wish.devices.iter().cloned());
    for DeviceSpec { on_host, inside, permissions } in wanted {
        let (found, more) = devices::host_device(&on_host, &inside, &permissions)?;
        nodes.extend(found);
        if !wish.privileged {
            rules.extend(more);
        }
    }
    for rule in &wish.device_rules {
        rules.push(rule.parse()?);
    }
    Ok((nodes, rules))
}

/// What has to be different where the container's users are not the host's.
fn for_own_users(mounts: &mut Vec<Value>, points: &[MountPoint], around: &Surroundings) {
    if matches!(around.ipc, Namespace::Host) {
        // It belongs to the host's users, so that it cannot be mounted anew.
        let queues = Path::new("/dev/mqueue");
        mounts.retain(|mount| mount["type"] != "mqueue");
        if queues.exists() {
            mounts.push(
                json!({ "destination": queues, "type": "bind", "source": queues, "options": ["rbind"] }),
            );
        }
    }
    let is_own = |source: &Path| around.own_folders.iter().any(|folder| source.starts_with(folder));
    let own = points.iter().filter(|point| point.kind == MountKind::Bind && is_own(&point.source));
    for point in own {
        let place = mounts.iter_mut().find(|mount| mount["destination"] == json!(point.destination));
        if let Some(options) = place.and_then(|mount| mount["options"].as_array_mut()) {
            options.push(engine_shim::OWN_FILES.into());
        }
    }
}

fn sysctls(wish: &ConfinementSpec, around: &Surroundings, own_users: bool) -> Map<String, Value> {
    let mut sysctls = Map::new();
    if matches!(around.network, Namespace::Pinned(_)) && !wish.privileged {
        // Programs that are not root may use low ports and ping: in here it harms nobody.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".into());
        // Where that many are not mapped, the kernel takes no such range.
        if !own_users {
            sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".into());
        }
    }
    for (name, value) in &wish.sysctls {
        sysctls.insert(name.clone(), value.clone().into());
    }
    sysctls
}

/// The mount points of which something else is mounted than their sources: parts of these, by their numbers.
pub(crate) fn parts(points: &[MountPoint]) -> impl Iterator<Item = &MountPoint> {
    points.iter().filter(|point| point.is_part())
}

fn mounts(points: &[MountPoint], spec: &ContainerSpec, around: &Surroundings) -> Vec<Value> {
    let confined = &spec.confinement;
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let read_only = if confined.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", confined.shared_memory);
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
    if around.unified_cgroups || confined.privileged {
        let access = if confined.writable_cgroups { "rw" } else { read_only };
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]));
    }
    let shared_memory = match (&around.shared_memory, &around.ipc) {
        (Some(_), _) => {
            let brought = around.rootfs.with_file_name(protocol::SHARED_MEMORY);
            mount("/dev/shm", "bind", &brought.to_string_lossy(), &["rbind"])
        }
        (None, Namespace::Host) => mount("/dev/shm", "bind", "/dev/shm", &["rbind"]),
        _ => mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]),
    };
    if spec.sharing.shared_memory {
        mounts.push(shared_memory);
    }
    for (on_host, inside) in &around.files {
        let covered = points.iter().any(|point| &point.destination == inside);
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
    let mut wanted: Vec<_> = points.iter().collect();
    wanted.sort_by_key(|point| point.destination.components().count());
    for point in wanted {
        let source = match parts(points).position(|part| std::ptr::eq(part, point)) {
            Some(number) => around.rootfs.with_file_name(protocol::PARTS).join(number.to_string()),
            None => point.source.clone(),
        };
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
            if point.read_only && point.recursive && !point.writable_below {
                options.push("rro");
            }
            mount(&destination, "bind", &source.to_string_lossy(), &options)
        });
    }
    mounts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use engine_model::wire::Config;

    use super::*;

    #[test]
    fn later_entries_of_the_environment_win() {
        let mut environment = vec!["A=1".to_owned(), "B=2".to_owned()];
        let entries = ["B=3", "C=4=5", "A", "=x", "D", "E=\0"].map(str::to_owned);
        merge_environment(&mut environment, &entries);
        assert_eq!(environment, ["B=3", "C=4=5"]);
    }

    #[test]
    fn security_options() {
        let filters = Filters::default();
        let confined = |options: Value, privileged: bool| {
            let host = json!({ "SecurityOpt": options, "LogConfig": { "Type": "none" } });
            let host = serde_json::from_value(host).unwrap();
            let spec = crate::understand::request(&Config::default(), &host, &BTreeMap::new(), false).ok()?;
            confinement(&spec.confinement, privileged, &filters).ok()
        };
        let default = confined(json!([]), false).unwrap();
        assert!(default.seccomp.is_some() && !default.no_new_privileges);
        assert!(confined(json!([]), true).unwrap().seccomp.is_none());
        assert!(confined(json!(["seccomp=builtin"]), true).unwrap().seccomp.is_some());
        let free = confined(json!(["no-new-privileges", "seccomp=unconfined"]), false).unwrap();
        assert!(free.seccomp.is_none() && free.no_new_privileges);
        let own = confined(json!(["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]), false).unwrap();
        assert_ne!(own.seccomp, default.seccomp);
        assert!(confined(json!(["seccomp={"]), false).is_none());
        assert!(confined(json!(["nonsense=1"]), false).is_none());
    }
}
