//! The daemon's configuration: `daemon.json` and flags, checked, with defaults for the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use engine_model::AddressPool;
use engine_model::spec::NameSpec;
use engine_model::wire::Ulimit;
use serde_json::{Map, Value};

mod error;
mod flags;
pub mod remap;
#[cfg(test)]
mod tests;
mod values;

pub use error::ConfigError;
pub use flags::Flags;
pub use remap::RemapError;
use values::Keys;
pub use values::duration;

const DEFAULT_FILE: &str = "/etc/engine/daemon.json";
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";
/// A configuration of a megabyte is a mistake.
const LARGEST_FILE: u64 = 1 << 20;

/// Everything the daemon was told, checked.
#[derive(Debug)]
pub struct Config {
    pub hosts: Vec<Host>,
    pub tls: Option<Tls>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub pidfile: PathBuf,
    /// Below which control group containers lie that do not name one; `None` is a group of the engine's own.
    pub cgroup_parent: Option<PathBuf>,
    /// Who may use the unix socket; `None` means `docker`, if there is such a group.
    pub group: Option<String>,
    /// Address and prefix of the default bridge, such as `172.17.0.1/16`.
    pub bip: Option<String>,
    pub mtu: Option<u32>,
    /// `nofile` and so on.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// What containers call `host-gateway`; the default bridge's address when there is none.
    pub host_gateways: Vec<IpAddr>,
    /// The address on which ports of the default bridge are published that name none.
    pub host_binding: Option<Ipv4Addr>,
    /// How containers resolve names that do not say it themselves.
    pub names: NameSpec,
    /// Where the subnets of networks are taken from that name none.
    pub address_pools: Vec<AddressPool>,
    /// Where figures are served to Prometheus.
    pub metrics: Option<SocketAddr>,
    /// The default bridge has IPv6 as well.
    pub ipv6: bool,
    /// The default bridge's subnet of IPv6.
    pub fixed_cidr_v6: Option<String>,
    /// The packet filter gets rules for IPv6.
    pub ip6tables: bool,
    /// Clients are told that they may ask for what dockerd has for trying out only, such as `build --squash`.
    pub experimental: bool,
    /// Who the root of containers is on the host, if not root: `default`, or a user and a group.
    pub userns_remap: Option<String>,
    live: RwLock<Arc<Live>>,
}

/// The part that SIGHUP reads again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub labels: Vec<String>,
    /// The log driver of containers that do not name one.
    pub log_driver: String,
    /// `max-size`, `max-file`.
    pub log_options: BTreeMap<String, String>,
    pub registries: engine_registry::Settings,
    /// Layers that are fetched at once.
    pub downloads: usize,
    /// Layers that are sent at once.
    pub uploads: usize,
    pub prune: Prune,
    pub log_level: Level,
}

/// Where the API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
        }
    }
}

/// Files for serving TCP with mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is cleaned away without being asked. Never volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prune {
    pub enabled: bool,
    pub schedule: Duration,
    /// Clean when the data root's filesystem is fuller than this, in percent.
    pub disk_watermark: u8,
    /// Only images and networks that have not been used for so long.
    pub until: Duration,
    /// Only containers that ended so long ago.
    pub containers_until: Duration,
}

/// How much the daemon logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Config {
    /// Reads the file that the flags name, or the usual one if it is there, and joins both.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let path = flags.config_file.as_deref().unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let mut keys = match read(path) {
            Ok(keys) => keys,
            Err(ConfigError::Read { source, .. })
                if flags.config_file.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                Map::new()
            }
            Err(error) => return Err(error),
        };
        let from_flags = flags.as_keys();
        let twice: Vec<String> = from_flags
            .iter()
            .filter_map(|(key, flag)| {
                keys.get(key).map(|file| format!("{key}: (from flag: {flag}, from file: {file})"))
            })
            .collect();
        if !twice.is_empty() {
            return Err(ConfigError::Twice { keys: twice });
        }
        keys.extend(from_flags);
        Self::from_keys(keys)
    }

    /// The reloadable part as it is now.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over the reloadable part of a configuration that was read again. Tells which other keys differ.
    pub fn reload(&self, other: &Self) -> Vec<&'static str> {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = other.live();
        let differing = [
            ("hosts", self.hosts != other.hosts),
            ("data-root", self.data_root != other.data_root),
            ("exec-root", self.exec_root != other.exec_root),
            ("pidfile", self.pidfile != other.pidfile),
            ("cgroup-parent", self.cgroup_parent != other.cgroup_parent),
            ("group", self.group != other.group),
            ("bip", self.bip != other.bip),
            ("mtu", self.mtu != other.mtu),
            ("default-ulimits", self.default_ulimits != other.default_ulimits),
            ("host-gateway-ip", self.host_gateways != other.host_gateways),
            ("ip", self.host_binding != other.host_binding),
            ("dns", self.names != other.names),
            ("default-address-pools", self.address_pools != other.address_pools),
            ("metrics-addr", self.metrics != other.metrics),
            ("ipv6", self.ipv6 != other.ipv6),
            ("fixed-cidr-v6", self.fixed_cidr_v6 != other.fixed_cidr_v6),
            ("ip6tables", self.ip6tables != other.ip6tables),
            ("experimental", self.experimental != other.experimental),
            ("userns-remap", self.userns_remap != other.userns_remap),
        ];
        differing.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }

    fn from_keys(map: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut keys = Keys::new("", map);
        let path = |keys: &mut Keys, key: &str, default: &str| -> Result<PathBuf, ConfigError> {
            let path = PathBuf::from(keys.string(key)?.unwrap_or_else(|| default.to_owned()));
            if !path.is_absolute() {
                return Err(ConfigError::value(key, format!("`{}` is not an absolute path", path.display())));
            }
            Ok(path)
        };
        let tls = Tls {
            ca: path(&mut keys, "tlscacert", "/etc/engine/tls/ca.pem")?,
            certificate: path(&mut keys, "tlscert", "/etc/engine/tls/server.pem")?,
            key: path(&mut keys, "tlskey", "/etc/engine/tls/server-key.pem")?,
        };
        let verify = keys.boolean("tlsverify")?;
        let mut hosts = keys.list("hosts")?;
        if hosts.is_empty() {
            hosts.push(DEFAULT_SOCKET.to_owned());
        }
        let hosts = hosts.iter().map(|host| parse_host(host, verify)).collect::<Result<_, _>>()?;
        one_of(&mut keys, "storage-driver", &["overlay2"])?;
        if keys.boolean("live-restore")? == Some(false) {
            return Err(ConfigError::value("live-restore", "containers always survive the daemon here"));
        }
        let bip = keys.string("bip")?;
        if let Some(bip) = &bip {
            check_bip(bip)?;
        }
        let config = Self {
            hosts,
            tls: (verify == Some(true)).then_some(tls),
            data_root: path(&mut keys, "data-root", "/var/lib/engine")?,
            exec_root: path(&mut keys, "exec-root", "/run/engine")?,
            pidfile: path(&mut keys, "pidfile", "/run/engine.pid")?,
            cgroup_parent: keys
                .string("cgroup-parent")?
                .filter(|parent| !parent.is_empty())
                .map(PathBuf::from),
            group: keys.string("group")?,
            bip,
            mtu: mtu(&mut keys)?,
            default_ulimits: ulimits(&mut keys)?,
            host_gateways: host_gateways(&mut keys)?,
            host_binding: host_binding(&mut keys)?,
            names: names(&mut keys)?,
            address_pools: address_pools(&mut keys)?,
            metrics: metrics(&mut keys)?,
            ipv6: keys.boolean("ipv6")?.unwrap_or(false),
            fixed_cidr_v6: fixed_cidr_v6(&mut keys)?,
            ip6tables: keys.boolean("ip6tables")?.unwrap_or(true),
            experimental: keys.boolean("experimental")?.unwrap_or(false),
            userns_remap: keys.string("userns-remap")?.filter(|wish| !wish.is_empty()),
            live: RwLock::new(Arc::new(live(&mut keys)?)),
        };
        keys.finish()?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    use io::Read;
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path).map_err(failed)?.take(LARGEST_FILE).read_to_string(&mut text).map_err(failed)?;
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&text).map_err(|source| ConfigError::NotJson { path: path.to_owned(), source })
}

fn live(keys: &mut Keys) -> Result<Live, ConfigError> {
    let labels = keys.list("labels")?;
    if let Some(bad) = labels.iter().find(|label| label.split_once('=').is_none_or(|(key, _)| key.is_empty()))
    {
        return Err(ConfigError::value("labels", format!("`{bad}` is not of the form `key=value`")));
    }
    let debug = keys.boolean("debug")?.unwrap_or(false);
    let level = match keys.string("log-level")?.as_deref() {
        None | Some("info" | "") => Level::Info,
        Some("debug" | "trace") => Level::Debug,
        Some("warn" | "warning") => Level::Warn,
        Some("error" | "fatal" | "panic") => Level::Error,
        Some(other) => {
            let reason = format!("`{other}` is none of debug, info, warn, error, fatal");
            return Err(ConfigError::value("log-level", reason));
        }
    };
    let log_driver = keys.string("log-driver")?.unwrap_or_else(|| "json-file".to_owned());
    if !engine_logging::DRIVERS.contains(&log_driver.as_str()) {
        let reason = format!("`{log_driver}` is none of {}", engine_logging::DRIVERS.join(", "));
        return Err(ConfigError::value("log-driver", reason));
    }
    Ok(Live {
        labels,
        log_options: log_options(keys, &log_driver)?,
        log_driver,
        registries: registries(keys)?,
        downloads: count(keys, "max-concurrent-downloads", 3)?,
        uploads: count(keys, "max-concurrent-uploads", 5)?,
        prune: prune(keys)?,
        log_level: if debug { Level::Debug } else { level },
    })
}

/// What is said of registries; proxies that it does not name are those of the environment.
fn registries(keys: &mut Keys) -> Result<engine_registry::Settings, ConfigError> {
    let mut given = Keys::new("proxies.", keys.object("proxies")?.unwrap_or_default());
    let text = |value: Option<String>| value.filter(|value| !value.is_empty());
    let proxies = engine_registry::Proxies {
        http: text(given.string("http-proxy")?),
        https: text(given.string("https-proxy")?),
        none: given.string("no-proxy")?.unwrap_or_default(),
    };
    given.finish()?;
    let settings = engine_registry::Settings {
        mirrors: keys.list("registry-mirrors")?,
        insecure: keys.list("insecure-registries")?,
        proxies: proxies.or(engine_registry::Proxies::of_environment()),
        attempts: u32::try_from(count(keys, "max-download-attempts", 5)?).unwrap_or(u32::MAX),
        ..engine_registry::Settings::default()
    };
    settings.check().map_err(|error| match error {
        engine_registry::RegistryError::Setting { key, value, reason } => {
            ConfigError::value(key, format!("`{value}`: {reason}"))
        }
        other => ConfigError::value("registry-mirrors", other.to_string()),
    })?;
    Ok(settings)
}

/// How many of something there may be at once: one or more, 0 being the default, as with dockerd.
fn count(keys: &mut Keys, key: &str, default: usize) -> Result<usize, ConfigError> {
    match keys.integer(key)? {
        None | Some(0) => Ok(default),
        Some(number @ 1..=1000) => Ok(usize::try_from(number).unwrap_or(default)),
        Some(number) => Err(ConfigError::value(key, format!("`{number}` is not between 1 and 1000"))),
    }
}

/// One of the known names; the first is the default.
fn one_of(keys: &mut Keys, key: &str, known: &[&str]) -> Result<String, ConfigError> {
    match keys.string(key)? {
        None => Ok(known[0].to_owned()),
        Some(name) if known.contains(&name.as_str()) => Ok(name),
        Some(other) => Err(ConfigError::value(key, format!("`{other}` is none of {}", known.join(", ")))),
    }
}

/// Logs are rotated unless one says otherwise: `max-size` 10m, `max-file` 3; those of the driver `local` by what it has itself.
fn log_options(keys: &mut Keys, driver: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let given = keys.object("log-opts")?.unwrap_or_default();
    let names: Vec<String> = given.keys().cloned().collect();
    let mut given = Keys::new("log-opts.", given);
    let mut options = BTreeMap::new();
    for name in names {
        let value = given.string(&name)?;
        options.extend(value.map(|value| (name, value)));
    }
    if driver == "json-file" {
        for (name, usual) in [("max-size", "10m"), ("max-file", "3")] {
            options.entry(name.to_owned()).or_insert_with(|| usual.to_owned());
        }
    }
    if !options.is_empty() && driver != "none" {
        engine_logging::options::check(driver, &options)
            .map_err(|error| ConfigError::value("log-opts", error.to_string()))?;
    }
    Ok(options)
}

fn prune(keys: &mut Keys) -> Result<Prune, ConfigError> {
    let mut given = Keys::new("prune.", keys.object("prune")?.unwrap_or_default());
    let mut period = |key: &str, default: Duration| -> Result<Duration, ConfigError> {
        let Some(text) = given.string(key)? else { return Ok(default) };
        duration(&text).ok_or_else(|| {
            ConfigError::value(&format!("prune.{key}"), format!("`{text}` is not a time such as `24h`"))
        })
    };
    let day = Duration::from_hours(24);
    let (schedule, until) = (period("schedule", day)?, period("until", day)?);
    // Who wants images kept for longer than a week never means containers to go sooner.
    let containers_until = period("containers-until", until.max(7 * day))?;
    if schedule < Duration::from_mins(1) {
        return Err(ConfigError::value("prune.schedule", "it is less than a minute"));
    }
    let watermark = given.string("disk-watermark")?.unwrap_or_else(|| "85%".to_owned());
    let disk_watermark =
        watermark.trim_end_matches('%').parse().ok().filter(|percent| (1..=100).contains(percent));
    let disk_watermark = disk_watermark.ok_or_else(|| {
        ConfigError::value("prune.disk-watermark", format!("`{watermark}` is not a share such as `85%`"))
    })?;
    let enabled = given.boolean("enabled")?.unwrap_or(true);
    given.finish()?;
    Ok(Prune { enabled, schedule, disk_watermark, until, containers_until })
}

/// How containers resolve names that do not say it themselves.
fn names(keys: &mut Keys) -> Result<NameSpec, ConfigError> {
    let servers = keys.list("dns")?;
    addresses("dns", &servers)?;
    Ok(NameSpec {
        servers,
        search: keys.list("dns-search")?,
        options: keys.list("dns-opts")?,
        extra_hosts: Vec::new(),
    })
}

/// `host-gateway-ips`, or `host-gateway-ip` as it was called when there could be one: at most one of each family.
fn host_gateways(keys: &mut Keys) -> Result<Vec<IpAddr>, ConfigError> {
    let mut list = keys.list("host-gateway-ips")?;
    list.extend(keys.list("host-gateway-ip")?);
    list.retain(|text| !text.is_empty());
    let found = addresses("host-gateway-ip", &list)?;
    for ipv4 in [true, false] {
        if found.iter().filter(|address| address.is_ipv4() == ipv4).count() > 1 {
            return Err(ConfigError::value("host-gateway-ip", "there can be one IPv4 and one IPv6 address"));
        }
    }
    Ok(found)
}

fn host_binding(keys: &mut Keys) -> Result<Option<Ipv4Addr>, ConfigError> {
    let Some(text) = keys.string("ip")?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let address: Ipv4Addr =
        text.parse().map_err(|_| ConfigError::value("ip", format!("`{text}` is not an IPv4 address")))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

/// `127.0.0.1:9323`; as dockerd, any address may be named, and whoever reaches it reads the figures.
fn metrics(keys: &mut Keys) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(address) = keys.string("metrics-addr")?.filter(|address| !address.is_empty()) else {
        return Ok(None);
    };
    let parsed = address.parse().map_err(|_| {
        let reason = format!("`{address}` is no IP address with a port, such as `127.0.0.1:9323`");
        ConfigError::value("metrics-addr", reason)
    })?;
    Ok(Some(parsed))
}

fn fixed_cidr_v6(keys: &mut Keys) -> Result<Option<String>, ConfigError> {
    const KEY: &str = "fixed-cidr-v6";
    let Some(text) = keys.string(KEY)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let is_subnet = text.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<Ipv6Addr>().is_ok()
            && prefix.parse().is_ok_and(|prefix: u8| (8..=126).contains(&prefix))
    });
    if is_subnet {
        return Ok(Some(text));
    }
    Err(ConfigError::value(KEY, format!("`{text}` is not a subnet of IPv6 such as `fd00:1::/64`")))
}

fn address_pools(keys: &mut Keys) -> Result<Vec<AddressPool>, ConfigError> {
    const KEY: &str = "default-address-pools";
    let mut pools = Vec::new();
    for pool in keys.objects(KEY)? {
        let mut given = Keys::new("default-address-pools.", pool);
        let (base, size) = (given.string("base")?.unwrap_or_default(), given.integer("size")?);
        given.finish()?;
        let wrong = |reason: &str| ConfigError::value(KEY, format!("`{base:.50}`: {reason}"));
        let (address, prefix): (IpAddr, u8) = base
            .split_once('/')
            .and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)))
            .ok_or_else(|| wrong("`base` is not an address with a prefix length, such as `10.0.0.0/8`"))?;
        let longest = if address.is_ipv4() { 30 } else { 126 };
        let size = size.and_then(|size| u8::try_from(size).ok()).filter(|size| (8..=longest).contains(size));
        let size = size.filter(|size| (8..=*size).contains(&prefix)).ok_or_else(|| {
            wrong(&format!("`size` is a prefix length between that of `base`, 8 at least, and {longest}"))
        })?;
        pools.push(AddressPool { base: (address, prefix), size });
    }
    Ok(pools)
}

fn addresses(key: &str, list: &[String]) -> Result<Vec<IpAddr>, ConfigError> {
    let wrong = |text: &String| ConfigError::value(key, format!("`{text}` is not an IP address"));
    list.iter().map(|text| text.parse().map_err(|_| wrong(text))).collect()
}

fn mtu(keys: &mut Keys) -> Result<Option<u32>, ConfigError> {
    let Some(number) = keys.integer("mtu")? else { return Ok(None) };
    match u32::try_from(number) {
        Ok(0) => Ok(None),
        Ok(mtu @ 68..=65535) => Ok(Some(mtu)),
        _ => Err(ConfigError::value("mtu", format!("`{number}` is not between 68 and 65535"))),
    }
}

fn ulimits(keys: &mut Keys) -> Result<BTreeMap<String, Ulimit>, ConfigError> {
    let mut limits = BTreeMap::new();
    for (name, value) in keys.object("default-ulimits")?.unwrap_or_default() {
        let key = format!("default-ulimits.{name}");
        let Value::Object(fields) = value else {
            return Err(ConfigError::value(&key, "expected an object with `Soft` and `Hard`"));
        };
        let mut fields = Keys::new("default-ulimits.", fields);
        fields.string("Name")?;
        let (soft, hard) = (fields.integer("Soft")?, fields.integer("Hard")?);
        fields.finish()?;
        let (Some(soft), Some(hard)) = (soft.or(hard), hard.or(soft)) else {
            return Err(ConfigError::value(&key, "it has neither `Soft` nor `Hard`"));
        };
        if soft > hard && hard != -1 {
            return Err(ConfigError::value(&key, "the soft limit is above the hard limit"));
        }
        limits.insert(name.clone(), Ulimit { name, soft, hard });
    }
    Ok(limits)
}

fn check_bip(text: &str) -> Result<(), ConfigError> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        Some((
            address.parse::<Ipv4Addr>().ok()?,
            prefix.parse::<u8>().ok().filter(|prefix| (8..=30).contains(prefix))?,
        ))
    });
    match parsed {
        Some(_) => Ok(()),
        None => Err(ConfigError::value("bip", format!("`{text}` is not an address such as `172.17.0.1/16`"))),
    }
}

fn parse_host(text: &str, verify: Option<bool>) -> Result<Host, ConfigError> {
    let refuse = |reason: &str| Err(ConfigError::Host { host: text.to_owned(), reason: reason.to_owned() });
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse("it does not begin with a protocol");
    };
    match scheme {
        "unix" => {
            let path = if rest.is_empty() { DEFAULT_SOCKET.trim_start_matches("unix://") } else { rest };
            if !path.starts_with('/') {
                return refuse("the path is not absolute");
            }
            Ok(Host::Unix(PathBuf::from(path)))
        }
        "tcp" => {
            let default_port = if verify == Some(true) { 2376 } else { 2375 };
            let Some(address) = parse_address(rest.trim_end_matches('/'), default_port) else {
                return refuse("it is not an IP address with a port");
            };
            if verify != Some(true) && !(verify == Some(false) && address.ip().is_loopback()) {
                return Err(ConfigError::Plain { host: text.to_owned() });
            }
            Ok(Host::Tcp(address))
        }
        "fd" => refuse("sockets handed over by systemd are not supported"),
        _ => refuse("the protocol is neither `unix` nor `tcp`"),
    }
}

/// Like dockerd, an address that is left out is the loopback one.
fn parse_address(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some(SocketAddr::new(address, default_port));
    }
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    let port = if port.is_empty() { default_port } else { port.parse().ok()? };
    matches!(host, "" | "localhost").then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
