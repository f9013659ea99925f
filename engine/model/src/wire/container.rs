//! What a client asks for when it creates a container, in the shape of the Docker API; kept with the container and
//! shown again by inspect.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{HealthConfig, ImageConfig, null_is_default};

/// A command as a list, or one word as a plain string.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::List(list) => list,
        Words::One(word) => vec![word],
    }))
}

/// Rows and columns; an empty list says nothing, as `null` does.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u32; 2], D::Error> {
    let list: Vec<u32> = Option::deserialize(deserializer)?.unwrap_or_default();
    match list[..] {
        [] => Ok([0, 0]),
        [rows, columns] => Ok([rows, columns]),
        _ => Err(serde::de::Error::custom("a size of a console is rows and columns")),
    }
}

/// The body of `POST /containers/create`.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    pub config: Config,
    pub host_config: HostConfig,
    pub networking_config: NetworkingConfig,
    /// Comes in the query, not in the body.
    pub platform: Option<String>,
    /// Fields that this engine does not know, by their paths.
    pub unknown: Vec<String>,
}

impl CreateRequest {
    /// Reads a body. Its own fields lie beside those of the part that goes with the image.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body)?;
        let mut part = |name: &str| super::any_case::take(&mut fields, name).unwrap_or(Value::Null);
        let (host, networking) = (part("HostConfig"), part("NetworkingConfig"));
        let mut unknown = Vec::new();
        let config = super::noting_unknown(Value::Object(fields), "", &mut unknown)?;
        let host_config: Option<_> = super::noting_unknown(host, "HostConfig.", &mut unknown)?;
        let networking_config: Option<_> =
            super::noting_unknown(networking, "NetworkingConfig.", &mut unknown)?;
        unknown.retain(|field| !super::is_repeated(field));
        Ok(Self {
            config,
            host_config: host_config.unwrap_or_default(),
            networking_config: networking_config.unwrap_or_default(),
            platform: None,
            unknown,
        })
    }
}

/// What an image starts with that is made of a container like this.
impl From<&Config> for ImageConfig {
    fn from(config: &Config) -> Self {
        let keys = |map: &Option<BTreeMap<String, Value>>| {
            map.iter().flatten().map(|(key, _)| key.clone()).collect()
        };
        Self {
            user: config.user.clone(),
            exposed_ports: keys(&config.exposed_ports),
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            volumes: keys(&config.volumes),
            working_dir: config.working_dir.clone(),
            labels: config.labels.clone(),
            stop_signal: config.stop_signal.clone(),
            stop_timeout: config.stop_timeout.and_then(|seconds| u64::try_from(seconds).ok()),
            shell: config.shell.clone(),
            on_build: config.on_build.clone(),
            healthcheck: config.healthcheck.as_ref().and_then(|check| serde_json::to_value(check).ok()),
        }
    }
}

/// The part that goes with the image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the shape is the API's")]
pub struct Config {
    #[serde(deserialize_with = "null_is_default")]
    pub hostname: String,
    #[serde(deserialize_with = "null_is_default")]
    pub domainname: String,
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub attach_stdin: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub attach_stdout: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    #[serde(deserialize_with = "null_is_default")]
    pub tty: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub open_stdin: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub stdin_once: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Of containers of Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    #[serde(deserialize_with = "null_is_default")]
    pub image: String,
    pub volumes: Option<BTreeMap<String, Value>>,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_disabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    pub on_build: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// The part that goes with the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the shape is the API's")]
pub struct HostConfig {
    pub binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile", deserialize_with = "null_is_default")]
    pub container_id_file: String,
    #[serde(deserialize_with = "null_is_default")]
    pub log_config: LogConfig,
    #[serde(deserialize_with = "null_is_default")]
    pub network_mode: String,
    pub port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
    #[serde(deserialize_with = "null_is_default")]
    pub restart_policy: RestartPolicy,
    #[serde(deserialize_with = "null_is_default")]
    pub auto_remove: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub volume_driver: String,
    pub volumes_from: Option<Vec<String>>,
    #[serde(deserialize_with = "size")]
    pub console_size: [u32; 2],
    pub cap_add: Option<Vec<String>>,
    pub cap_drop: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub cgroupns_mode: String,
    pub dns: Option<Vec<String>>,
    pub dns_options: Option<Vec<String>>,
    pub dns_search: Option<Vec<String>>,
    pub extra_hosts: Option<Vec<String>>,
    pub group_add: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub ipc_mode: String,
    #[serde(deserialize_with = "null_is_default")]
    pub cgroup: String,
    pub links: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub oom_score_adj: i32,
    #[serde(deserialize_with = "null_is_default")]
    pub pid_mode: String,
    #[serde(deserialize_with = "null_is_default")]
    pub privileged: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub publish_all_ports: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub readonly_rootfs: bool,
    pub security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    #[serde(rename = "UTSMode", deserialize_with = "null_is_default")]
    pub uts_mode: String,
    #[serde(deserialize_with = "null_is_default")]
    pub userns_mode: String,
    #[serde(deserialize_with = "null_is_default")]
    pub shm_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub runtime: String,
    #[serde(deserialize_with = "null_is_default")]
    pub isolation: String,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_shares: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub memory: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub nano_cpus: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub cgroup_parent: String,
    #[serde(deserialize_with = "null_is_default")]
    pub blkio_weight: u16,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_period: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_quota: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub cpuset_cpus: String,
    #[serde(deserialize_with = "null_is_default")]
    pub cpuset_mems: String,
    pub devices: Option<Vec<DeviceMapping>>,
    pub device_cgroup_rules: Option<Vec<String>>,
    pub device_requests: Option<Vec<Value>>,
    #[serde(deserialize_with = "null_is_default")]
    pub memory_reservation: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    pub ulimits: Option<Vec<Ulimit>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_opt: Option<BTreeMap<String, String>>,
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_realtime_period: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_realtime_runtime: i64,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub kernel_memory: i64,
    #[serde(
        rename = "KernelMemoryTCP",
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_zero"
    )]
    pub kernel_memory_tcp: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_count: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub cpu_percent: i64,
    #[serde(rename = "IOMaximumIOps", deserialize_with = "null_is_default")]
    pub io_maximum_iops: i64,
    #[serde(rename = "IOMaximumBandwidth", deserialize_with = "null_is_default")]
    pub io_maximum_bandwidth: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub r#type: String,
    #[serde(deserialize_with = "null_is_default")]
    pub config: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    #[serde(deserialize_with = "null_is_default")]
    pub host_ip: String,
    #[serde(deserialize_with = "null_is_default")]
    pub host_port: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub maximum_retry_count: i64,
}

impl RestartPolicy {
    /// Whether it ever starts a container again.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.name.as_str(), "" | "no")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    pub path_on_host: String,
    #[serde(deserialize_with = "null_is_default")]
    pub path_in_container: String,
    #[serde(deserialize_with = "null_is_default")]
    pub cgroup_permissions: String,
}

/// How much of a block device beside others, from 10 to 1000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

/// How much of a block device at most: bytes or operations in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    pub path: String,
    pub rate: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    pub name: String,
    pub hard: i64,
    pub soft: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    pub r#type: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_options: Option<Value>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub consistency: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the shape is the API's")]
pub struct BindOptions {
    #[serde(deserialize_with = "null_is_default")]
    pub propagation: String,
    #[serde(deserialize_with = "null_is_default")]
    pub non_recursive: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub create_mountpoint: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub read_only_non_recursive: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub read_only_force_recursive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    #[serde(deserialize_with = "null_is_default")]
    pub no_copy: bool,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// Of a volume that is made for this mount.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<DriverConfig>,
}

/// Of an image that is mounted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageOptions {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Who makes a volume for a mount, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    #[serde(deserialize_with = "null_is_default")]
    pub size_bytes: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub mode: u32,
    /// `[["noexec"], ["uid", "5"]]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<Vec<String>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub endpoints_config: BTreeMap<String, Option<EndpointConfig>>,
}

/// How a container wants to be on one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointConfig {
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<IpamConfig>,
    pub links: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub mac_address: String,
    pub aliases: Option<Vec<String>>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub gw_priority: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    #[serde(
        rename = "IPv4Address",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipv4_address: String,
    #[serde(
        rename = "IPv6Address",
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipv6_address: String,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
    pub link_local_ips: Option<Vec<String>>,
}
