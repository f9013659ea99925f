//! From the options of `run` and `create` to the request that makes the container.

pub(crate) mod environment;
mod mounts;
mod options;
mod ports;

use std::fs::File;
use std::io::Read as _;

use serde_json::{Map, Value, json};

use super::failure::{Failure, Outcome};
use super::{terminal, units};

pub(crate) use options::Options;

/// The largest seccomp profile that is sent.
const PROFILE_LIMIT: u64 = 4 << 20;

/// Which of a container's streams are joined to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Attached {
    /// What `-a`, `-i` and `-d` mean together.
    pub(crate) fn new(options: &Options, detached: bool) -> Outcome<Self> {
        if detached {
            if !options.attach.is_empty() {
                return Err(Failure::refused(
                    "conflicting options: cannot specify both --attach and --detach",
                ));
            }
            return Ok(Self { stdin: false, stdout: false, stderr: false });
        }
        if options.attach.is_empty() {
            return Ok(Self { stdin: options.interactive, stdout: true, stderr: true });
        }
        let mut attached = Self { stdin: false, stdout: false, stderr: false };
        for stream in &options.attach {
            match stream.to_lowercase().as_str() {
                "stdin" => attached.stdin = true,
                "stdout" => attached.stdout = true,
                "stderr" => attached.stderr = true,
                other => {
                    return Err(invalid(other, "-a, --attach", "valid streams are STDIN, STDOUT and STDERR"));
                }
            }
        }
        // -i with -a stdout still sends the input.
        attached.stdin |= options.interactive;
        Ok(attached)
    }

    pub(crate) fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

/// The refusal of an option's value.
pub(crate) fn invalid(value: &str, flag: &str, message: impl std::fmt::Display) -> Failure {
    Failure::Refused(format!("invalid argument {value:?} for \"{flag}\" flag: {message}"))
}

fn size(value: Option<&str>, flag: &str) -> Outcome<i64> {
    let Some(text) = value else { return Ok(0) };
    units::parse_size(text).map_err(|message| invalid(text, flag, message))
}

/// `--memory-swap`, of which -1 is no limit.
pub(crate) fn swap(value: Option<&str>) -> Outcome<i64> {
    if value == Some("-1") { Ok(-1) } else { size(value, "--memory-swap") }
}

/// `--memory` and its like.
pub(crate) fn memory(value: Option<&str>, flag: &str) -> Outcome<i64> {
    size(value, flag)
}

/// `--cpus`.
pub(crate) fn cpus(value: Option<&str>) -> Outcome<i64> {
    let Some(text) = value else { return Ok(0) };
    units::parse_cpus(text).map_err(|message| invalid(text, "--cpus", message))
}

/// `no`, `always`, `unless-stopped`, `on-failure[:times]`.
pub(crate) fn restart_policy(text: &str) -> Outcome<Value> {
    let (name, times) = text.split_once(':').map_or((text, None), |(name, times)| (name, Some(times)));
    let times = match times {
        None => 0,
        Some(times) => times.parse::<u32>().map_err(|_| {
            Failure::refused(format!(
                "invalid restart policy format: maximum retry count must be an integer: {text}"
            ))
        })?,
    };
    if name.is_empty() && text.contains(':') {
        return Err(Failure::refused("invalid restart policy format: no policy provided before colon"));
    }
    Ok(json!({"Name": name, "MaximumRetryCount": times}))
}

fn device(text: &str) -> Outcome<Value> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_permissions = |part: &str| !part.is_empty() && part.bytes().all(|byte| b"rwm".contains(&byte));
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, permissions] if is_permissions(permissions) => (*host, *host, *permissions),
        [host, container] => (*host, *container, "rwm"),
        [host, container, permissions] if is_permissions(permissions) => (*host, *container, *permissions),
        _ => return Err(Failure::refused(format!("invalid device specification: {text}"))),
    };
    Ok(json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": permissions}))
}

pub(crate) fn ulimit(text: &str) -> Outcome<Value> {
    let bad = |message: String| invalid(text, "--ulimit", message);
    let (name, limits) =
        text.split_once('=').ok_or_else(|| bad(format!("invalid ulimit argument: {text}")))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |part: &str| part.parse::<i64>().map_err(|error| bad(error.to_string()));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && soft > hard {
        return Err(bad(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// Security options, the seccomp profile read from its file.
fn security(given: &[String]) -> Outcome<(Vec<String>, bool)> {
    let mut options = Vec::new();
    let mut unconfined_paths = false;
    for option in given {
        if option == "systempaths=unconfined" {
            unconfined_paths = true;
            continue;
        }
        let profile = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
        let Some(path) = profile.filter(|path| !matches!(*path, "unconfined" | "builtin")) else {
            options.push(option.clone());
            continue;
        };
        let mut text = String::new();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::refused(format!("opening seccomp profile ({path}) failed: {error}"))
        };
        let file = File::open(path).map_err(|error| failed(&error))?;
        file.take(PROFILE_LIMIT).read_to_string(&mut text).map_err(|error| failed(&error))?;
        let profile: Value = serde_json::from_str(&text).map_err(|error| {
            Failure::refused(format!("compacting json for seccomp profile ({path}) failed: {error}"))
        })?;
        options.push(format!("seccomp={profile}"));
    }
    Ok((options, unconfined_paths))
}

fn health(options: &Options) -> Outcome<Option<Value>> {
    let is_checked = [
        &options.health_cmd,
        &options.health_interval,
        &options.health_timeout,
        &options.health_start_period,
        &options.health_start_interval,
    ];
    let is_checked = is_checked.into_iter().any(Option::is_some) || options.health_retries != 0;
    if options.no_healthcheck {
        if is_checked {
            return Err(Failure::refused("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    let duration = |value: &Option<String>, flag: &str| match value {
        None => Ok(0),
        Some(text) => units::parse_duration(text).map_err(|message| invalid(text, flag, message)),
    };
    let interval = duration(&options.health_interval, "--health-interval")?;
    let timeout = duration(&options.health_timeout, "--health-timeout")?;
    let start_period = duration(&options.health_start_period, "--health-start-period")?;
    let start_interval = duration(&options.health_start_interval, "--health-start-interval")?;
    for (value, flag) in [
        (interval, "--health-interval"),
        (timeout, "--health-timeout"),
        (options.health_retries, "--health-retries"),
        (start_period, "--health-start-period"),
        (start_interval, "--health-start-interval"),
    ] {
        if value < 0 {
            return Err(Failure::Refused(format!("{flag} cannot be negative")));
        }
    }
    if !is_checked {
        return Ok(None);
    }
    let mut check = json!({
        "Interval": interval, "Timeout": timeout, "StartPeriod": start_period, "StartInterval": start_interval,
        "Retries": options.health_retries,
    });
    if let Some(command) = options.health_cmd.as_ref().filter(|command| !command.is_empty()) {
        check["Test"] = json!(["CMD-SHELL", command]);
    }
    Ok(Some(check))
}

/// The networks: the mode is the first one, which also takes the addresses.
fn networks(options: &Options) -> Outcome<(String, Map<String, Value>)> {
    let mut endpoints = Map::new();
    let mut mode = "default".to_owned();
    for (index, text) in options.network.iter().enumerate() {
        let mut name = text.as_str();
        let mut endpoint = Map::new();
        if text.contains('=') {
            let mut addresses = Map::new();
            let mut aliases: Vec<&str> = Vec::new();
            let mut driver_options = Map::new();
            let mut link_local: Vec<&str> = Vec::new();
            for field in text.split(',') {
                let bad = |message: String| invalid(text, "--network", message);
                let (key, value) =
                    field.split_once('=').ok_or_else(|| bad(format!("invalid field {field}")))?;
                match key.to_lowercase().as_str() {
                    "name" => name = value,
                    "alias" => aliases.push(value),
                    "ip" => {
                        addresses.insert("IPv4Address".to_owned(), Value::from(value));
                    }
                    "ip6" => {
                        addresses.insert("IPv6Address".to_owned(), Value::from(value));
                    }
                    "mac-address" => {
                        endpoint.insert("MacAddress".to_owned(), Value::from(value));
                    }
                    "link-local-ip" => link_local.push(value),
                    "driver-opt" => {
                        let (name, value) = value.split_once('=').ok_or_else(|| {
                            bad("invalid key value pair format in driver options".to_owned())
                        })?;
                        driver_options.insert(name.to_owned(), Value::from(value));
                    }
                    "gw-priority" => {
                        let priority: i64 = value
                            .parse()
                            .map_err(|_| bad(format!("invalid gw-priority: {value:?} is no number")))?;
                        endpoint.insert("GwPriority".to_owned(), Value::from(priority));
                    }
                    _ => return Err(bad(format!("invalid field key {key}"))),
                }
            }
            if !link_local.is_empty() {
                addresses.insert("LinkLocalIPs".to_owned(), json!(link_local));
            }
            if !driver_options.is_empty() {
                endpoint.insert("DriverOpts".to_owned(), Value::Object(driver_options));
            }
            if !aliases.is_empty() {
                endpoint.insert("Aliases".to_owned(), json!(aliases));
            }
            if !addresses.is_empty() {
                endpoint.insert("IPAMConfig".to_owned(), Value::Object(addresses));
            }
        }
        if index == 0 {
            name.clone_into(&mut mode);
        }
        let own_namespace = matches!(name, "host" | "none") || name.starts_with("container:");
        if !own_namespace {
            endpoints.insert(name.to_owned(), Value::Object(endpoint));
        }
    }
    let has_addresses = options.ip.is_some() || options.ip6.is_some() || options.mac_address.is_some();
    if has_addresses || !options.network_alias.is_empty() {
        let endpoint = endpoints.entry(mode.clone()).or_insert_with(|| json!({}));
        if options.ip.is_some() || options.ip6.is_some() {
            endpoint["IPAMConfig"] = json!({
                "IPv4Address": options.ip.clone().unwrap_or_default(),
                "IPv6Address": options.ip6.clone().unwrap_or_default(),
            });
        }
        if let Some(address) = &options.mac_address {
            endpoint["MacAddress"] = json!(address);
        }
        if !options.network_alias.is_empty() {
            endpoint["Aliases"] = json!(options.network_alias);
        }
    }
    Ok((mode, endpoints))
}

/// Capabilities in the form of the kernel's names, sorted; `ALL` stands for all others.
fn capabilities(given: &[String]) -> Vec<String> {
    let mut names: Vec<String> = given
        .iter()
        .map(|name| name.to_uppercase())
        .map(|name| if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") })
        .collect();
    names.sort();
    names.dedup();
    if names.iter().any(|name| name == "ALL") { vec!["ALL".to_owned()] } else { names }
}

fn list(values: &[String]) -> Value {
    if values.is_empty() { Value::Null } else { json!(values) }
}

/// The request that makes the container.
pub(crate) fn request(options: &Options, attached: Attached) -> Outcome<Value> {
    let ports = ports::Ports::parse(&options.expose, &options.publish).map_err(Failure::Refused)?;
    let mounts =
        mounts::Mounts::parse(&options.volume, &options.mount, &options.tmpfs).map_err(Failure::Refused)?;
    let environment = environment::variables(&options.env_file, &options.env)?;
    let labels = environment::labels(&options.label_file, &options.label)?;
    let (security_options, unconfined_paths) = security(&options.security_opt)?;
    let restart = restart_policy(&options.restart)?;
    if options.rm && !matches!(restart["Name"].as_str(), Some("" | "no")) {
        return Err(Failure::refused("conflicting options: cannot specify both --restart and --rm"));
    }
    if options.log_driver == "none" && !options.log_opt.is_empty() {
        return Err(Failure::refused("invalid logging opts for driver none"));
    }
    let swappiness = options.memory_swappiness;
    if !(-1..=100).contains(&swappiness) {
        return Err(Failure::refused(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        )));
    }
    let (network_mode, endpoints) = networks(options)?;
    let added = capabilities(&options.cap_add);
    let mut dropped = capabilities(&options.cap_drop);
    dropped.retain(|name| !added.contains(name));
    let mut hosts = Vec::with_capacity(options.add_host.len());
    for host in &options.add_host {
        let (name, address) = host
            .split_once(['=', ':'])
            .ok_or_else(|| invalid(host, "--add-host", "bad format for add-host"))?;
        hosts.push(format!("{name}:{}", address.trim_start_matches('[').trim_end_matches(']')));
    }
    let devices = options.device.iter().map(|text| device(text)).collect::<Outcome<Vec<Value>>>()?;
    let ulimits = options.ulimit.iter().map(|text| ulimit(text)).collect::<Outcome<Vec<Value>>>()?;
    let mut host_config = json!({
        "Binds": list(&mounts.binds),
        "ContainerIDFile": options.cidfile.clone().unwrap_or_default(),
        "LogConfig": {"Type": options.log_driver, "Config": environment::map(&options.log_opt)},
        "NetworkMode": network_mode,
        "PortBindings": ports.bindings,
        "RestartPolicy": restart,
        "AutoRemove": options.rm,
        "VolumeDriver": options.volume_driver,
        "VolumesFrom": list(&options.volumes_from),
        "ConsoleSize": terminal::size().map_or([0, 0], |(rows, columns)| [rows, columns]),
        "CapAdd": list(&added),
        "CapDrop": list(&dropped),
        "CgroupnsMode": options.cgroupns,
        "Dns": options.dns,
        "DnsOptions": options.dns_option,
        "DnsSearch": options.dns_search,
        "ExtraHosts": list(&hosts),
        "GroupAdd": list(&options.group_add),
        "IpcMode": options.ipc,
        "Cgroup": "",
        "Links": list(&options.link),
        "OomScoreAdj": options.oom_score_adj,
        "PidMode": options.pid,
        "Privileged": options.privileged,
        "PublishAllPorts": options.publish_all,
        "ReadonlyRootfs": options.read_only,
        "SecurityOpt": list(&security_options),
        "UTSMode": options.uts,
        "UsernsMode": options.userns,
    });
    let limits = json!({
        "ShmSize": memory(options.shm_size.as_deref(), "--shm-size")?,
        "Isolation": "",
        "CpuShares": options.cpu_shares,
        "Memory": memory(options.memory.as_deref(), "-m, --memory")?,
        "NanoCpus": cpus(options.cpus.as_deref())?,
        "CgroupParent": options.cgroup_parent,
        "BlkioWeight": options.blkio_weight,
        "CpuPeriod": options.cpu_period,
        "CpuQuota": options.cpu_quota,
        "CpusetCpus": options.cpuset_cpus,
        "CpusetMems": options.cpuset_mems,
        "Devices": devices,
        "DeviceCgroupRules": list(&options.device_cgroup_rule),
        "MemoryReservation": memory(options.memory_reservation.as_deref(), "--memory-reservation")?,
        "MemorySwap": swap(options.memory_swap.as_deref())?,
        "MemorySwappiness": swappiness,
        "OomKillDisable": options.oom_kill_disable,
        "PidsLimit": options.pids_limit,
        "Ulimits": ulimits,
        "MaskedPaths": Value::Null,
        "ReadonlyPaths": Value::Null,
    });
    if let (Value::Object(all), Value::Object(limits)) = (&mut host_config, limits) {
        all.extend(limits);
    }
    if unconfined_paths {
        host_config["MaskedPaths"] = json!([]);
        host_config["ReadonlyPaths"] = json!([]);
    }
    for (name, map) in [
        ("Tmpfs", mounts.tmpfs),
        ("Sysctls", environment::map(&options.sysctl)),
        ("StorageOpt", environment::map(&options.storage_opt)),
        ("Annotations", environment::map(&options.annotation)),
    ] {
        if !map.is_empty() {
            host_config[name] = Value::Object(map);
        }
    }
    if !mounts.mounts.is_empty() {
        host_config["Mounts"] = Value::Array(mounts.mounts);
    }
    if options.init {
        host_config["Init"] = Value::Bool(true);
    }
    if let Some(runtime) = &options.runtime {
        host_config["Runtime"] = json!(runtime);
    }
    let mut body = json!({
        "Hostname": options.hostname,
        "Domainname": options.domainname,
        "User": options.user,
        "AttachStdin": attached.stdin,
        "AttachStdout": attached.stdout,
        "AttachStderr": attached.stderr,
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": options.interactive && attached.stdin,
        "Env": list(&environment),
        "Cmd": list(&options.command),
        "Image": options.image,
        "Volumes": mounts.volumes,
        "WorkingDir": options.workdir,
        "Entrypoint": options.entrypoint.as_ref().map(|entrypoint| [entrypoint]),
        "Labels": labels,
        "HostConfig": host_config,
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    });
    if !ports.exposed.is_empty() {
        body["ExposedPorts"] = Value::Object(ports.exposed);
    }
    if let Some(check) = health(options)? {
        body["Healthcheck"] = check;
    }
    if let Some(signal) = &options.stop_signal {
        body["StopSignal"] = json!(signal);
    }
    if let Some(seconds) = options.stop_timeout {
        body["StopTimeout"] = json!(seconds);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
