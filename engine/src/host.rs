//! Facts about the host for `docker info`.

use std::fs;
use std::path::Path;

/// What the kernel and the system say about themselves.
#[derive(Clone, Debug)]
pub struct Facts {
    pub id: String,
    pub host_name: String,
    pub operating_system: String,
    pub operating_system_version: String,
    pub processors: usize,
    pub memory: u64,
    pub cgroup_version: u8,
    pub controllers: Controllers,
    pub ip_forwarding: bool,
    pub backing_filesystem: &'static str,
    pub open_files: usize,
    pub threads: usize,
}

/// Which limits can be set on containers.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a controller of its own")]
pub struct Controllers {
    pub memory: bool,
    pub swap: bool,
    pub cpu: bool,
    pub cpuset: bool,
    pub pids: bool,
}

impl Facts {
    pub fn gather(data_root: &Path) -> Self {
        let (operating_system, operating_system_version) = os_release();
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            id: engine_id(data_root),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            operating_system,
            operating_system_version,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory(),
            cgroup_version: if unified { 2 } else { 1 },
            controllers: controllers(unified),
            ip_forwarding: text("/proc/sys/net/ipv4/ip_forward") == "1",
            backing_filesystem: filesystem(data_root),
            open_files: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }
}

/// A name for the engine that stays: made once and kept in the data root.
pub fn engine_id(data_root: &Path) -> String {
    let path = data_root.join("engine-id");
    if let Ok(id) = fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return id.trim().to_owned();
    }
    let id = text("/proc/sys/kernel/random/uuid");
    if let Err(error) = fs::write(&path, &id) {
        tracing::warn!(path = %path.display(), %error, "Could not keep the engine's id");
    }
    id
}

/// As `uname -r` says.
pub fn kernel_version() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// How full a filesystem is, in percent, as `df` counts; `None` if that cannot be told.
pub fn used_percent(path: &Path) -> Option<u8> {
    let figures = rustix::fs::statvfs(path).ok()?;
    let used = figures.f_blocks.saturating_sub(figures.f_bfree);
    let usable = used.saturating_add(figures.f_bavail);
    u8::try_from((used * 100).div_ceil(usable.max(1))).ok()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

fn os_release() -> (String, String) {
    let content =
        ["/etc/os-release", "/usr/lib/os-release"].into_iter().find_map(|path| fs::read_to_string(path).ok());
    let content = content.unwrap_or_default();
    let value = |key: &str| {
        let line = content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    (value("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()), value("VERSION_ID").unwrap_or_default())
}

fn memory() -> u64 {
    let information = text("/proc/meminfo");
    let line = information.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

fn controllers(unified: bool) -> Controllers {
    if unified {
        let enabled = text("/sys/fs/cgroup/cgroup.controllers");
        let has = |name: &str| enabled.split_whitespace().any(|controller| controller == name);
        let memory = has("memory");
        return Controllers {
            memory,
            swap: memory,
            cpu: has("cpu"),
            cpuset: has("cpuset"),
            pids: has("pids"),
        };
    }
    let has = |name: &str| Path::new("/sys/fs/cgroup").join(name).is_dir();
    Controllers {
        memory: has("memory"),
        swap: Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        cpu: has("cpu"),
        cpuset: has("cpuset"),
        pids: has("pids"),
    }
}

/// The name that dockerd prints for the usual filesystems.
fn filesystem(path: &Path) -> &'static str {
    let Ok(figures) = rustix::fs::statfs(path) else { return "<unknown>" };
    match u64::try_from(figures.f_type).unwrap_or(0) {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        _ => "<unknown>",
    }
}
