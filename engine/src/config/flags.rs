//! The flags of `engine daemon`, and the keys of `daemon.json` that say the same.

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Map, Value, json};

/// Runs the container engine's daemon.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "engine daemon", disable_version_flag = true)]
pub struct Flags {
    /// Configuration file; need not exist unless it is named here
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Check the configuration and do nothing else
    #[arg(long)]
    pub validate: bool,
    /// Socket to listen on: `unix:///path` or `tcp://address:port`
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Directory of images and containers
    #[arg(long, value_name = "DIRECTORY")]
    pub data_root: Option<PathBuf>,
    /// Directory of what a reboot may lose
    #[arg(long, value_name = "DIRECTORY")]
    pub exec_root: Option<PathBuf>,
    /// Serve TCP with TLS and only to clients with a certificate of our CA
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub tlsverify: Option<bool>,
    /// Certificate of the CA that signs clients
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Certificate of this server
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Private key of this server
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Label of this engine, `key=value`
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Least severe messages to log: debug, info, warn, error or fatal
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log everything
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub debug: Option<bool>,
    /// Address and prefix of the default bridge
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub bip: Option<String>,
    /// MTU of container networks
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Address on which ports of the default bridge are published that name none
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// DNS server of containers that name none
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Option of the resolver of containers that name none
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub dns_opts: Vec<String>,
    /// Domain that containers which name none search
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// What `host-gateway` means in `--add-host`: the default bridge's address unless it is given
    #[arg(long = "host-gateway-ip", value_name = "ADDRESS")]
    pub host_gateway_ips: Vec<String>,
    /// Range that subnets of networks are taken from: `base=10.0.0.0/8,size=24`
    #[arg(long = "default-address-pool", value_name = "POOL")]
    pub address_pools: Vec<String>,
    /// Address at which Prometheus finds figures under `/metrics`: `127.0.0.1:9323`
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<String>,
    /// Give the default bridge IPv6
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ipv6: Option<bool>,
    /// Subnet of IPv6 of the default bridge
    #[arg(long = "fixed-cidr-v6", value_name = "SUBNET")]
    pub fixed_cidr_v6: Option<String>,
    /// Give the packet filter rules for IPv6
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ip6tables: Option<bool>,
    /// Let clients ask for what is there to be tried out only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub experimental: Option<bool>,
    /// User, and group, whose subordinate numbers the users of containers have (default|USER|USER:GROUP)
    #[arg(long, value_name = "USER[:GROUP]")]
    pub userns_remap: Option<String>,
    /// Group that may use the unix socket
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// File for the process id
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Control group below which containers lie
    #[arg(long, value_name = "GROUP")]
    pub cgroup_parent: Option<PathBuf>,
    /// Registry to ask first
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub registry_mirrors: Vec<String>,
    /// Registry that may be used without TLS
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub insecure_registries: Vec<String>,
    /// Layers to fetch at once
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_downloads: Option<u32>,
    /// Layers to send at once
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_uploads: Option<u32>,
    /// How often a layer is tried
    #[arg(long, value_name = "NUMBER")]
    pub max_download_attempts: Option<u32>,
    /// Storage driver; there is one, `overlay2`
    #[arg(short = 's', long, value_name = "NAME")]
    pub storage_driver: Option<String>,
    /// Log driver of containers that do not name one
    #[arg(long, value_name = "NAME")]
    pub log_driver: Option<String>,
    /// Option of the log driver, such as `max-size=10m`
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub log_opts: Vec<String>,
}

impl Flags {
    /// The given flags as keys of `daemon.json`.
    pub(super) fn as_keys(&self) -> Map<String, Value> {
        let log_opts: Map<String, Value> = self
            .log_opts
            .iter()
            .map(|option| option.split_once('=').unwrap_or((option, "")))
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| json!(path.to_string_lossy()));
        let list = |list: &[String]| (!list.is_empty()).then(|| json!(list));
        let given = [
            ("hosts", list(&self.hosts)),
            ("data-root", path(&self.data_root)),
            ("exec-root", path(&self.exec_root)),
            ("tlsverify", self.tlsverify.map(Value::from)),
            ("tlscacert", path(&self.tlscacert)),
            ("tlscert", path(&self.tlscert)),
            ("tlskey", path(&self.tlskey)),
            ("labels", list(&self.labels)),
            ("log-level", self.log_level.clone().map(Value::from)),
            ("debug", self.debug.map(Value::from)),
            ("bip", self.bip.clone().map(Value::from)),
            ("mtu", self.mtu.map(Value::from)),
            ("ip", self.ip.clone().map(Value::from)),
            ("dns", list(&self.dns)),
            ("dns-opts", list(&self.dns_opts)),
            ("dns-search", list(&self.dns_search)),
            ("host-gateway-ips", list(&self.host_gateway_ips)),
            ("default-address-pools", list_of_objects(&self.address_pools)),
            ("metrics-addr", self.metrics_addr.clone().map(Value::from)),
            ("ipv6", self.ipv6.map(Value::from)),
            ("fixed-cidr-v6", self.fixed_cidr_v6.clone().map(Value::from)),
            ("ip6tables", self.ip6tables.map(Value::from)),
            ("experimental", self.experimental.map(Value::from)),
            ("userns-remap", self.userns_remap.clone().map(Value::from)),
            ("group", self.group.clone().map(Value::from)),
            ("pidfile", path(&self.pidfile)),
            ("cgroup-parent", path(&self.cgroup_parent)),
            ("registry-mirrors", list(&self.registry_mirrors)),
            ("insecure-registries", list(&self.insecure_registries)),
            ("max-concurrent-downloads", self.max_concurrent_downloads.map(Value::from)),
            ("max-concurrent-uploads", self.max_concurrent_uploads.map(Value::from)),
            ("max-download-attempts", self.max_download_attempts.map(Value::from)),
            ("storage-driver", self.storage_driver.clone().map(Value::from)),
            ("log-driver", self.log_driver.clone().map(Value::from)),
            ("log-opts", (!log_opts.is_empty()).then_some(Value::Object(log_opts))),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// `key=value,…` each.
fn list_of_objects(texts: &[String]) -> Option<Value> {
    let object = |text: &String| -> Map<String, Value> {
        let pairs = text.split(',').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.map(|(key, value)| (key.trim().to_owned(), json!(value.trim()))).collect()
    };
    (!texts.is_empty()).then(|| texts.iter().map(object).collect())
}
