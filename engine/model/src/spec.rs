//! What a container is to be, understood: every wish is a value of its own type here, and what makes no sense has been refused.
//! A request of the API becomes one of these before anything is made, and all that is done with a container follows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PortRequest;
use crate::wire::{ThrottleDevice, Ulimit, WeightDevice};

/// What a container is to be, apart from its image and its mounts.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    pub process: ProcessSpec,
    pub sharing: Sharing,
    pub network: NetworkSpec,
    pub confinement: ConfinementSpec,
    pub limits: LimitSpec,
    pub log: LogSpec,
    pub restart: Restart,
    /// How it is asked whether it is well, if it is.
    pub health: Option<HealthSpec>,
    /// It goes when it ends.
    pub auto_remove: bool,
    /// For the runtime and its hooks.
    pub annotations: BTreeMap<String, String>,
    /// SIGTERM when absent.
    pub stop_signal: Option<i32>,
    /// Seconds to wait after it; negative for ever.
    pub stop_timeout: Option<i64>,
}

/// The first process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct ProcessSpec {
    /// The container's short id when absent, or the host's name where that is shared.
    pub hostname: Option<String>,
    pub domain_name: String,
    /// `name`, `uid`, `name:group`, …; empty is root.
    pub user: String,
    pub groups: Vec<String>,
    /// `NAME=value`; one without `=` takes a name away.
    pub environment: Vec<String>,
    pub directory: PathBuf,
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// There is a standard input.
    pub open_stdin: bool,
    /// The first client to leave closes it.
    pub stdin_once: bool,
    /// A small first process looks after the program.
    pub init: bool,
}

/// Whose namespace it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    Own,
    Host,
    /// Of another container, by its id.
    Of(String),
}

/// Namespaces but the network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    pub pid: Share,
    pub ipc: Share,
    /// There is a `/dev/shm`.
    pub shared_memory: bool,
    /// The host's users are the container's, even if those of others have numbers of their own.
    pub host_users: bool,
    /// The host's name is the container's.
    pub host_names: bool,
    /// Whether it sees only its own part of the cgroups; up to the host when absent.
    pub private_cgroups: Option<bool>,
}

/// Which network it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Nothing but its own loopback.
    None,
    Host,
    /// That of another container, by its id.
    Of(String),
    /// Networks of the engine.
    Joined,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    pub mode: NetworkMode,
    /// Its networks, the one for published ports first; none unless it is on networks of the engine.
    pub endpoints: Vec<EndpointSpec>,
    pub ports: Vec<PortRequest>,
    pub names: NameSpec,
}

/// How it is on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSpec {
    /// As the client named it.
    pub network: String,
    pub address: Option<Ipv4Addr>,
    pub ipv6_address: Option<Ipv6Addr>,
    pub link_local: Vec<IpAddr>,
    pub interface: Option<String>,
    /// As `EndpointRequest` has them.
    pub settings: Vec<(String, String)>,
    pub mac_address: Option<String>,
    pub aliases: Vec<String>,
    /// What it alone calls others there, and what they are called.
    pub links: Vec<(String, String)>,
    pub gw_priority: i64,
}

/// How it resolves names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameSpec {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
    /// `name:address`; the address may be `host-gateway`.
    pub extra_hosts: Vec<String>,
}

/// Which system calls are let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// The engine's profile, or all of them for a privileged process.
    Usual,
    /// The engine's profile in any case.
    Builtin,
    Unconfined,
    /// A profile, as JSON.
    Profile(String),
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    pub on_host: PathBuf,
    pub inside: PathBuf,
    /// `r`, `w` and `m`.
    pub permissions: String,
}

/// What keeps it from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfinementSpec {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub seccomp: Seccomp,
    pub no_new_privileges: bool,
    pub read_only_root: bool,
    /// The engine's own choice when absent.
    pub masked_paths: Option<Vec<String>>,
    /// The engine's own choice when absent.
    pub read_only_paths: Option<Vec<String>>,
    pub devices: Vec<DeviceSpec>,
    /// `c 1:3 rwm`.
    pub device_rules: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    /// It may change its own cgroups, where there is one hierarchy for all controllers.
    pub writable_cgroups: bool,
    /// Bytes of `/dev/shm`.
    pub shared_memory: u64,
}

/// Limits; zero and absent mean none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitSpec {
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; -1 for any amount of swap, 0 for as much as memory.
    pub memory_swap: i64,
    /// Percent.
    pub memory_swappiness: Option<i64>,
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period.
    pub cpu_quota: i64,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub pids: Option<i64>,
    /// Share of all block devices, from 10 to 1000.
    pub block_weight: u16,
    pub block_devices: BlockDevices,
    pub out_of_memory_score: i32,
    pub ulimits: Vec<Ulimit>,
}

/// Limits for single block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDevices {
    /// Shares of devices that have their own.
    pub weights: Vec<WeightDevice>,
    /// Bytes in a second.
    pub read_bytes: Vec<ThrottleDevice>,
    /// Bytes in a second.
    pub write_bytes: Vec<ThrottleDevice>,
    /// Operations in a second.
    pub read_operations: Vec<ThrottleDevice>,
    /// Operations in a second.
    pub write_operations: Vec<ThrottleDevice>,
}

/// What becomes of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSpec {
    Nowhere,
    /// A file of JSON lines.
    File {
        limits: FileLimits,
        delivery: Delivery,
    },
    /// A server, by the log driver of this name.
    Elsewhere {
        driver: String,
        /// What is kept in a file as well, for those who want to read it here.
        kept: Option<FileLimits>,
        delivery: Delivery,
    },
}

/// Of the files of a log: a full one is put behind the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Bytes.
    pub max_size: Option<u64>,
    pub max_files: u32,
    /// Whether those that are full are packed by gzip.
    pub compress: bool,
}

/// Who waits if a log does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The container.
    Blocking,
    /// Nobody: what does not fit into so many bytes is dropped.
    NonBlocking { buffer: u64 },
}

impl LogSpec {
    /// Whether there is a file here that can be read.
    pub fn has_file(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Elsewhere { kept: Some(_), .. })
    }
}

/// A program in it that says by its exit whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// From the end of one to the beginning of the next.
    pub interval: Duration,
    /// What takes longer has failed.
    pub timeout: Duration,
    /// Failures do not count so long after its start, until there is a success.
    pub start_period: Duration,
    /// Meanwhile, instead of the other interval.
    pub start_interval: Duration,
    /// Failures in a row that mean unhealthy; one at least.
    pub retries: u32,
}

/// When it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    No,
    Always,
    /// Not after a client has ended it.
    UnlessStopped,
    OnFailure {
        /// Any number when absent.
        most: Option<u32>,
    },
}
