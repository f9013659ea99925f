//! What the daemon and a supervising process say to each other: one JSON object a line, over a unix socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use engine_kernel::cgroup::weights::BlockWeights;
use engine_kernel::overlay::Overlay;
use engine_kernel::part::Part;
use engine_kernel::seccomp::Filter;
use engine_kernel::userns::Owners;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The socket in the supervising process's directory.
pub const SOCKET: &str = "shim.sock";
/// Its configuration, in the same directory.
pub const CONFIGURATION: &str = "shim.json";
/// The OCI configuration, in the same directory.
pub const BUNDLE: &str = "config.json";
/// What it could not say to anyone.
pub const MESSAGES: &str = "shim.log";
/// Locked from before a container's supervising process begins until all that it made is gone again; in the container's
/// directory.
pub const LOCK: &str = "shim.lock";
/// Where libcontainer keeps its state, in the directory of the container's supervising process.
pub const STATE: &str = "state";
/// Where the root file system is mounted, in the same directory.
pub const ROOTFS: &str = "rootfs";
/// Where the shared memory of another container is mounted, in the same directory.
pub const SHARED_MEMORY: &str = "shm";
/// Where parts of directories and images are mounted by their numbers, in the same directory.
pub const PARTS: &str = "parts";
/// Where things from elsewhere are mounted that the container's root could not get to, in the same directory.
pub const NEAR: &str = "near";
/// Mounts that come when the runtime has made its devices, in the same directory.
pub const LATE_MOUNTS: &str = "late-mounts.json";
/// The longest request or reply.
pub const LINE_LIMIT: usize = 64 * 1024;
/// What this program speaks. It goes up with each request or reply that comes, goes or changes its meaning; a descriptor that
/// comes along does not count, as whoever does not look for one does without.
///
/// 1 was spoken before there was a hello: whoever is asked something there that it does not know closes the connection.
/// From 2 on that is answered with [`Reply::Failed`], and the connection goes on. 3 brought [`Request::Exec`].
pub const VERSION: u32 = 3;
/// The requests of version 1, by their names.
pub const FIRST_REQUESTS: [&str; 6] = ["Start", "Wait", "Kill", "Resize", "Attach", "Follow"];
/// Those of this version.
pub const REQUESTS: [&str; 8] = ["Hello", "Start", "Wait", "Kill", "Resize", "Attach", "Follow", "Exec"];

/// Everything that one supervising process needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container's id.
    pub id: String,
    pub task: Task,
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// Whether there is a standard input at all.
    pub open_stdin: bool,
    /// Whether the first client to close its side closes the standard input.
    pub stdin_once: bool,
    pub log: Option<LogConfig>,
    /// The process that takes the output as well, or in place of a file.
    #[serde(default)]
    pub log_process: Option<LogProcess>,
    /// Where the exit is recorded.
    pub exit_file: PathBuf,
    /// `name`, `uid`, `name:group`, …; empty is root.
    pub user: String,
    /// Names or numbers of supplementary groups.
    pub groups: Vec<String>,
    /// What decides on the process's system calls.
    pub seccomp: Option<Filter>,
    /// Cgroup of the container, below the root of each hierarchy.
    pub cgroup: PathBuf,
}

/// What is supervised.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// The container itself.
    Container(Box<ContainerTask>),
    /// Another process in it.
    Exec(Box<ExecTask>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerTask {
    pub overlay: Overlay,
    pub volumes: Vec<VolumeFill>,
    /// Whose the container's files are, if its users have other numbers on the host.
    #[serde(default)]
    pub owners: Option<Owners>,
    /// It may divide its cgroup, which then has to belong to it.
    #[serde(default)]
    pub writable_cgroups: bool,
    /// What is mounted in [`PARTS`], for the runtime to find it there.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// The mount namespace of another container, whose `/dev/shm` is mounted on [`SHARED_MEMORY`].
    #[serde(default)]
    pub shared_memory: Option<PathBuf>,
    /// Where network namespaces are pinned. What its own mount namespace has of that it lets go of.
    #[serde(default)]
    pub pins: Option<PathBuf>,
    /// The device rules of a cgroup v2 container, in the OCI form.
    pub devices: serde_json::Value,
    /// Its shares of block devices.
    #[serde(default)]
    pub block_weights: BlockWeights,
    /// Whether other processes could outlive the first one.
    pub shares_pid_namespace: bool,
    /// Whether the first process only looks after the program.
    pub init: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecTask {
    /// Directory of the container's own supervising process.
    pub container_directory: PathBuf,
    /// The container's first process. Whoever supervises that knows better.
    pub init_pid: i32,
    /// The OCI `process`; its user is filled in by the supervising process.
    pub process: serde_json::Value,
}

/// A named volume that takes the image's content when it is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeFill {
    pub source: PathBuf,
    pub destination: PathBuf,
}

/// The `json-file` log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogConfig {
    pub path: PathBuf,
    pub max_size: Option<u64>,
    pub max_files: u32,
    /// Whether older files are packed by gzip.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compress: bool,
    /// What each line says of the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// A process that passes output on; see [`crate::outlet`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogProcess {
    /// What it is told first.
    pub settings: serde_json::Value,
    /// In non-blocking mode: how many bytes may wait for it before what comes is dropped. Otherwise the container waits.
    pub buffer: Option<u64>,
    /// It writes the container's log file, and whoever follows that hears of it by this process.
    pub writes_file: bool,
    /// Variables of the daemon that are its, too.
    pub environment: Vec<String>,
    /// Where it says what went wrong.
    #[serde(default)]
    pub messages: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What the daemon speaks.
    Hello {
        version: u32,
    },
    /// Lets the process begin.
    Start,
    /// Answered when the process has ended.
    Wait,
    Kill {
        signal: i32,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    /// After the reply the connection carries the streams: output as Docker's frames (bare with a terminal), input bare.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// After the reply the connection carries one byte each time the log has grown.
    Follow,
    /// To the supervising process of a container: it makes another one of itself, for the process that is described in
    /// this directory. The connection is that one's from then on, as if it had been born with it.
    Exec {
        directory: PathBuf,
    },
}

impl Request {
    /// Its name, as in [`REQUESTS`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "Hello",
            Self::Start => "Start",
            Self::Wait => "Wait",
            Self::Kill { .. } => "Kill",
            Self::Resize { .. } => "Resize",
            Self::Attach { .. } => "Attach",
            Self::Follow => "Follow",
            Self::Exec { .. } => "Exec",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To a hello: what the supervising process speaks, and the requests that it knows. Later versions may say more. With it
    /// comes a pidfd of the process, if there is one.
    Hello {
        version: u32,
        requests: Vec<String>,
    },
    /// Said once, on the connection that the process was born with. With it comes a pidfd of the process, if there is one.
    Created {
        pid: i32,
    },
    Started {
        pid: i32,
    },
    Done,
    Exited(ExitRecord),
    Failed {
        message: String,
    },
}

/// What a line is called that is not understood, if it has the shape of a request or reply.
pub fn name(line: &[u8]) -> Option<String> {
    let name = match serde_json::from_slice(line).ok()? {
        serde_json::Value::String(name) => name,
        serde_json::Value::Object(object) if object.len() == 1 => object.into_iter().next()?.0,
        _ => return None,
    };
    let is_name = |name: &str| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some(name).filter(|name| is_name(name))
}

/// How the process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 128 and the signal's number if a signal ended it.
    pub code: i32,
    pub out_of_memory: bool,
    pub finished_at: Timestamp,
}
