//! The options of `run` and `create`.

use clap::Args;

/// What a container is made from.
#[derive(Args, Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "Each is a flag of the stock client")]
pub(crate) struct Options {
    /// Add a custom host-to-address mapping (host:ip)
    #[arg(long, value_name = "list")]
    pub(crate) add_host: Vec<String>,
    /// Add an annotation for the runtime
    #[arg(long, value_name = "map")]
    pub(crate) annotation: Vec<String>,
    /// Attach to stdin, stdout or stderr
    #[arg(long, short, value_name = "list")]
    pub(crate) attach: Vec<String>,
    /// Block IO weight, 10 to 1000, or 0 for none
    #[arg(long, value_name = "uint16", default_value_t = 0)]
    pub(crate) blkio_weight: u16,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    pub(crate) cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    pub(crate) cap_drop: Vec<String>,
    /// Parent cgroup of the container
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) cgroup_parent: String,
    /// Cgroup namespace to use (host|private)
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) cgroupns: String,
    /// Write the container's ID to this file
    #[arg(long, value_name = "string")]
    pub(crate) cidfile: Option<String>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub(crate) cpu_period: i64,
    /// CPU quota in microseconds
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub(crate) cpu_quota: i64,
    /// CPU shares (relative weight)
    #[arg(long, short, value_name = "int", default_value_t = 0)]
    pub(crate) cpu_shares: i64,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    pub(crate) cpus: Option<String>,
    /// CPUs on which to run (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) cpuset_cpus: String,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) cpuset_mems: String,
    /// Add a host device to the container
    #[arg(long, value_name = "list")]
    pub(crate) device: Vec<String>,
    /// Add a rule to the list of allowed devices
    #[arg(long, value_name = "list")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Set DNS servers
    #[arg(long, value_name = "list")]
    pub(crate) dns: Vec<String>,
    /// Set DNS options
    #[arg(long, value_name = "list")]
    pub(crate) dns_option: Vec<String>,
    /// Set DNS search domains
    #[arg(long, value_name = "list")]
    pub(crate) dns_search: Vec<String>,
    /// NIS domain name of the container
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) domainname: String,
    /// Use another ENTRYPOINT than the image's
    #[arg(long, value_name = "string")]
    pub(crate) entrypoint: Option<String>,
    /// Set environment variables
    #[arg(long, short, value_name = "list")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    pub(crate) env_file: Vec<String>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "list")]
    pub(crate) expose: Vec<String>,
    /// Join additional groups
    #[arg(long, value_name = "list")]
    pub(crate) group_add: Vec<String>,
    /// Command that checks the container's health
    #[arg(long, value_name = "string")]
    pub(crate) health_cmd: Option<String>,
    /// Time between checks
    #[arg(long, value_name = "duration")]
    pub(crate) health_interval: Option<String>,
    /// Failures in a row that mean unhealthy
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub(crate) health_retries: i64,
    /// Time between checks while the container starts
    #[arg(long, value_name = "duration")]
    pub(crate) health_start_interval: Option<String>,
    /// Time that the container has to start
    #[arg(long, value_name = "duration")]
    pub(crate) health_start_period: Option<String>,
    /// Longest time of one check
    #[arg(long, value_name = "duration")]
    pub(crate) health_timeout: Option<String>,
    /// Print usage
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Host name of the container
    #[arg(long, short = 'h', value_name = "string", default_value = "")]
    pub(crate) hostname: String,
    /// Run an init that forwards signals and reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// Keep stdin open even if not attached
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// IPv4 address
    #[arg(long, value_name = "string")]
    pub(crate) ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "string")]
    pub(crate) ip6: Option<String>,
    /// IPC mode to use
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) ipc: String,
    /// Set a label
    #[arg(long, short, value_name = "list")]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "list")]
    pub(crate) label_file: Vec<String>,
    /// Add a link to another container
    #[arg(long, value_name = "list")]
    pub(crate) link: Vec<String>,
    /// Logging driver
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) log_driver: String,
    /// Options of the logging driver
    #[arg(long, value_name = "list")]
    pub(crate) log_opt: Vec<String>,
    /// MAC address
    #[arg(long, value_name = "string")]
    pub(crate) mac_address: Option<String>,
    /// Memory limit
    #[arg(long, short, value_name = "bytes")]
    pub(crate) memory: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "bytes")]
    pub(crate) memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "bytes")]
    pub(crate) memory_swap: Option<String>,
    /// Memory swappiness, 0 to 100
    #[arg(long, value_name = "int", default_value_t = -1)]
    pub(crate) memory_swappiness: i64,
    /// Attach a filesystem mount
    #[arg(long, value_name = "mount")]
    pub(crate) mount: Vec<String>,
    /// Name of the container
    #[arg(long, value_name = "string")]
    pub(crate) name: Option<String>,
    /// Connect the container to a network
    #[arg(long, alias = "net", value_name = "network")]
    pub(crate) network: Vec<String>,
    /// Add a name of the container in the network
    #[arg(long, alias = "net-alias", value_name = "list")]
    pub(crate) network_alias: Vec<String>,
    /// Switch off the image's health check
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Never kill the container when memory is out
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// Preference of the kernel to kill it when memory is out (-1000 to 1000)
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub(crate) oom_score_adj: i64,
    /// PID namespace to use
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) pid: String,
    /// Limit of processes (-1 for none)
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub(crate) pids_limit: i64,
    /// Platform, if the daemon has more than one
    #[arg(long, value_name = "string")]
    pub(crate) platform: Option<String>,
    /// Give all privileges to the container
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Publish a container's port to the host
    #[arg(long, short, value_name = "list")]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports to free ports of the host
    #[arg(long, short = 'P')]
    pub(crate) publish_all: bool,
    /// Whether to pull the image first (always, missing, never)
    #[arg(long, value_name = "string", default_value = "missing")]
    pub(crate) pull: String,
    /// Say nothing while pulling
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Mount the container's root filesystem read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What to do when the container exits
    #[arg(long, value_name = "string", default_value = "no")]
    pub(crate) restart: String,
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Runtime to use
    #[arg(long, value_name = "string")]
    pub(crate) runtime: Option<String>,
    /// Security options
    #[arg(long, value_name = "list")]
    pub(crate) security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes")]
    pub(crate) shm_size: Option<String>,
    /// Signal that stops the container
    #[arg(long, value_name = "string")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds that the container has to stop
    #[arg(long, value_name = "int")]
    pub(crate) stop_timeout: Option<i64>,
    /// Options of the storage driver
    #[arg(long, value_name = "list")]
    pub(crate) storage_opt: Vec<String>,
    /// Kernel settings of the container
    #[arg(long, value_name = "map")]
    pub(crate) sysctl: Vec<String>,
    /// Mount a tmpfs
    #[arg(long, value_name = "list")]
    pub(crate) tmpfs: Vec<String>,
    /// Allocate a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Limits of the process
    #[arg(long, value_name = "ulimit")]
    pub(crate) ulimit: Vec<String>,
    /// User name or number, with an optional group
    #[arg(long, short, value_name = "string", default_value = "")]
    pub(crate) user: String,
    /// User namespace to use
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) userns: String,
    /// UTS namespace to use
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) uts: String,
    /// Bind mount a volume
    #[arg(long, short, value_name = "list")]
    pub(crate) volume: Vec<String>,
    /// Volume driver
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) volume_driver: String,
    /// Mount the volumes of other containers
    #[arg(long, value_name = "list")]
    pub(crate) volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(long, short, value_name = "string", default_value = "")]
    pub(crate) workdir: String,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}
