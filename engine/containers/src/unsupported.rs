//! Refuses wishes of a new container that this engine would otherwise drop in silence.

use engine_model::platform::architecture;
use engine_model::wire::{Config, CreateRequest, EndpointConfig, HostConfig, Mount};
use serde_json::Value;

use super::endpoint::OPTIONS;
use super::{ContainerError, linked};

/// The one runtime, as `docker info` shows it.
pub(super) const RUNTIME: &str = "engine";

/// Refuses the first wish of a request that this engine would not fulfil, by the name of its field.
pub(super) fn refuse(request: &CreateRequest) -> Result<(), ContainerError> {
    let host = &request.host_config;
    foreign(&request.config, host)?;
    if let Some((field, option)) = unfulfilled(request)
        .into_iter()
        .find_map(|(is_wished, field, option)| is_wished.then_some((field, option)))
    {
        return Err(unsupported(field, option));
    }
    for (network, endpoint) in &request.networking_config.endpoints_config {
        if let Some(endpoint) = endpoint {
            refuse_endpoint(network, endpoint, &format!("NetworkingConfig.EndpointsConfig.{network}."))?;
        }
    }
    if let Some(option) = host.mounts.iter().flatten().find_map(mount_option) {
        return Err(ContainerError::Unsupported(format!("`HostConfig.Mounts`: `{option}`")));
    }
    if let Some(platform) = request.platform.as_deref().filter(|platform| !is_own_platform(platform)) {
        return Err(ContainerError::Unsupported(format!("`--platform {platform}`")));
    }
    if let Some(option) = host.security_opt.iter().flatten().find(|option| !is_so_anyway(option)) {
        return Err(ContainerError::Unsupported(format!("`HostConfig.SecurityOpt`: `{option}`")));
    }
    match first_value(host) {
        Some((field, option, value)) => {
            Err(ContainerError::Unsupported(format!("`HostConfig.{field}`: `{option} {value}`")))
        }
        None => Ok(()),
    }
}

fn unsupported(field: &str, option: &str) -> ContainerError {
    ContainerError::Unsupported(format!("`{field}` (`{option}`)"))
}

/// Refuses what another system has.
fn foreign(config: &Config, host: &HostConfig) -> Result<(), ContainerError> {
    let wishes = [
        (config.args_escaped == Some(true), "ArgsEscaped"),
        (host.cpu_count != 0, "HostConfig.CpuCount"),
        (host.cpu_percent != 0, "HostConfig.CpuPercent"),
        (host.io_maximum_iops != 0, "HostConfig.IOMaximumIOps"),
        (host.io_maximum_bandwidth != 0, "HostConfig.IOMaximumBandwidth"),
    ];
    match wishes.iter().find(|(is_wished, _)| *is_wished) {
        Some((_, field)) => Err(ContainerError::Invalid(format!(
            "`{field}` is for containers of Windows; this host has Linux"
        ))),
        None => Ok(()),
    }
}

/// Wishes, the fields that have them, and the options that fill these.
fn unfulfilled(request: &CreateRequest) -> Vec<(bool, &'static str, &'static str)> {
    let host = &request.host_config;
    let some = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let unified = engine_kernel::cgroup::is_unified();
    let swappiness = host.memory_swappiness.is_some_and(|value| value >= 0);
    vec![
        (links_by_address(request), "HostConfig.Links", "--link"),
        (some(&host.device_requests), "HostConfig.DeviceRequests", "--gpus"),
        (host.cpu_realtime_period != 0, "HostConfig.CpuRealtimePeriod", "--cpu-rt-period"),
        (host.cpu_realtime_runtime != 0, "HostConfig.CpuRealtimeRuntime", "--cpu-rt-runtime"),
        (!matches!(host.kernel_memory, 0 | -1), "HostConfig.KernelMemory", "--kernel-memory"),
        (!matches!(host.kernel_memory_tcp, 0 | -1), "HostConfig.KernelMemoryTCP", "--kernel-memory-tcp"),
        (host.oom_kill_disable == Some(true), "HostConfig.OomKillDisable", "--oom-kill-disable"),
        // The second generation of cgroups has no such setting.
        (swappiness && unified, "HostConfig.MemorySwappiness", "--memory-swappiness"),
        (!host.cgroup.is_empty(), "HostConfig.Cgroup", "--cgroup"),
    ]
}

/// Whether names for others are wished for where there are none. A client that wishes for them on a user-defined network repeats
/// them for the whole container.
fn links_by_address(request: &CreateRequest) -> bool {
    if linked::is_on_bridge(&request.host_config) {
        return false;
    }
    let networks = &request.networking_config.endpoints_config;
    let by_name: Vec<&String> =
        networks.values().flatten().flat_map(|endpoint| endpoint.links.iter().flatten()).collect();
    request.host_config.links.iter().flatten().any(|link| !by_name.contains(&link))
}

/// Refuses wishes for a place on a network that it would not get, by the names of their fields.
pub fn refuse_endpoint(network: &str, endpoint: &EndpointConfig, prefix: &str) -> Result<(), ContainerError> {
    let has_names = !matches!(network, "" | "default" | "bridge" | "host" | "none");
    let has_links = endpoint.links.as_ref().is_some_and(|links| !links.is_empty());
    let ipam = endpoint.ipam_config.as_ref();
    let has_address = ipam.is_some_and(|ipam| !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty());
    let is_new = prefix.starts_with("NetworkingConfig");
    let refused = |why: &str| {
        let network = if network.is_empty() || network == "default" { "bridge" } else { network };
        let of_a_new_one = format!("invalid config for network {network}: ");
        ContainerError::Invalid(format!("{}{why}", if is_new { &of_a_new_one } else { "" }))
    };
    if has_address && matches!(network, "" | "default" | "bridge") {
        return Err(refused(
            "invalid endpoint settings:\n* user specified IP address is supported on user defined networks only\n\
             * user specified IP address is supported only when connecting to networks with user configured subnets",
        ));
    }
    if !endpoint.mac_address.is_empty() && !is_mac_address(&endpoint.mac_address) {
        return Err(refused(&format!("invalid MAC address {:.50}", endpoint.mac_address)));
    }
    if has_links && !has_names {
        return Err(unsupported(&format!("{prefix}Links"), "--link"));
    }
    // Nobody has an address of its own there, and no interface.
    if matches!(network, "host" | "none") || network.starts_with("container:") {
        let ipam = endpoint.ipam_config.as_ref();
        let wishes = [
            (ipam.is_some_and(|ipam| !ipam.ipv4_address.is_empty()), "IPAMConfig.IPv4Address", "--ip"),
            (ipam.is_some_and(|ipam| !ipam.ipv6_address.is_empty()), "IPAMConfig.IPv6Address", "--ip6"),
            (!endpoint.mac_address.is_empty(), "MacAddress", "--mac-address"),
            (
                ipam.is_some_and(|ipam| ipam.link_local_ips.iter().flatten().next().is_some()),
                "IPAMConfig.LinkLocalIPs",
                "--link-local-ip",
            ),
            (
                endpoint.driver_opts.as_ref().is_some_and(|options| !options.is_empty()),
                "DriverOpts",
                "--driver-opt",
            ),
        ];
        if let Some((_, field, flag)) = wishes.into_iter().find(|(is_said, ..)| *is_said) {
            return Err(unsupported(&format!("{prefix}{field}"), flag));
        }
    }
    let options = endpoint.driver_opts.iter().flat_map(|options| options.keys());
    match options.into_iter().find(|name| !OPTIONS.contains(&name.as_str())) {
        Some(name) => Err(unsupported(&format!("{prefix}DriverOpts"), &format!("--driver-opt {name:.100}"))),
        None => Ok(()),
    }
}

/// Six bytes, with colons or dashes between them.
fn is_mac_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
}

/// The option of a mount that is not there yet, as `--mount` spells it.
fn mount_option(mount: &Mount) -> Option<String> {
    let said = |value: &Option<Value>| value.as_ref().is_some_and(says_something);
    match mount.r#type.as_str() {
        "npipe" => return Some("type=npipe, which is for containers of Windows,".to_owned()),
        "cluster" => return Some("type=cluster, which is for services of a swarm,".to_owned()),
        _ => {}
    }
    if said(&mount.cluster_options) {
        return Some("ClusterOptions".to_owned());
    }
    if let Some(options) = &mount.volume_options {
        let driver = options.driver_config.as_ref();
        if let Some(name) =
            driver.map(|driver| &driver.name).filter(|name| !matches!(name.as_str(), "" | "local"))
        {
            return Some(format!("volume-driver={name}` (`DriverConfig.Name"));
        }
    }
    // What a container mounts stays in a mount namespace that gives nothing back.
    let propagation = mount.bind_options.as_ref().map(|options| options.propagation.as_str());
    propagation
        .filter(|propagation| matches!(*propagation, "shared" | "rshared"))
        .map(|propagation| format!("bind-propagation={propagation}` (`BindOptions.Propagation"))
}

/// Whether a security option is one that is followed, or says how every container is here: without a profile of AppArmor and
/// without labels of SELinux.
fn is_so_anyway(option: &str) -> bool {
    let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match key {
        "apparmor" => value == "unconfined",
        "label" => value == "disable",
        "writable-cgroups" => value == "false" || engine_kernel::cgroup::is_unified(),
        _ => true,
    }
}

/// Options of which only some values work: the field, the option and the value that does not.
fn first_value(host: &HostConfig) -> Option<(&'static str, &'static str, &str)> {
    let joins = |value: &str| value == "host" || value.starts_with("container:");
    let values: [(&str, &str, &str, bool); 7] = [
        ("Runtime", "--runtime", &host.runtime, host.runtime == RUNTIME),
        ("Isolation", "--isolation", &host.isolation, host.isolation.eq_ignore_ascii_case("default")),
        ("VolumeDriver", "--volume-driver", &host.volume_driver, host.volume_driver == "local"),
        (
            "CgroupnsMode",
            "--cgroupns",
            &host.cgroupns_mode,
            matches!(host.cgroupns_mode.as_str(), "private" | "host"),
        ),
        ("PidMode", "--pid", &host.pid_mode, joins(&host.pid_mode)),
        (
            "IpcMode",
            "--ipc",
            &host.ipc_mode,
            joins(&host.ipc_mode) || matches!(host.ipc_mode.as_str(), "none" | "private" | "shareable"),
        ),
        ("UTSMode", "--uts", &host.uts_mode, host.uts_mode == "host"),
    ];
    let bad = values.into_iter().find(|(_, _, value, works)| !value.is_empty() && !works);
    bad.map(|(field, option, value, _)| (field, option, value))
}

/// Whether a value of JSON differs from what means nothing.
pub(crate) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(says_something),
    }
}

/// Takes `os`, `architecture`, `os/architecture` and `os/architecture/variant`.
fn is_own_platform(platform: &str) -> bool {
    let platform = platform.to_lowercase();
    let is_own = |name: &str| {
        let name = match name {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            other => other,
        };
        name == architecture()
    };
    match platform.split('/').collect::<Vec<_>>()[..] {
        ["" | "linux"] => true,
        [name] | ["linux", name] => is_own(name),
        // The variants that every machine of their architecture runs.
        ["linux", name, variant] => {
            is_own(name) && matches!((architecture(), variant), ("amd64", "v1") | ("arm64", "v8"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn refusal(body: Value) -> Option<String> {
        let request = CreateRequest::read(body.to_string().as_bytes()).unwrap();
        refuse(&request).err().map(|error| error.to_string())
    }

    #[test]
    fn what_works_or_says_nothing_passes() {
        assert_eq!(refusal(json!({})), None);
        let host = json!({ "Links": null, "DeviceRequests": [], "StorageOpt": {}, "BlkioDeviceReadBps": [],
            "CpuRealtimePeriod": 0, "BlkioWeight": 100, "CgroupParent": "/x", "Runtime": "engine",
            "Isolation": "default", "VolumeDriver": "local", "PidMode": "host", "IpcMode": "shareable",
            "UTSMode": "host", "UsernsMode": "host", "VolumesFrom": ["other"], "KernelMemory": -1 });
        assert_eq!(refusal(json!({ "HostConfig": host, "Healthcheck": { "Test": ["NONE"] } })), None);
        assert_eq!(
            refusal(json!({ "HostConfig": { "PidMode": "container:a", "IpcMode": "container:a" } })),
            None
        );
    }

    #[test]
    fn who_has_no_place_on_a_network_gets_no_address_there() {
        for (field, wish) in [
            ("IPAMConfig.IPv6Address", json!({ "IPAMConfig": { "IPv6Address": "fd00::7" } })),
            ("IPAMConfig.LinkLocalIPs", json!({ "IPAMConfig": { "LinkLocalIPs": ["169.254.7.7"] } })),
            ("DriverOpts", json!({ "DriverOpts": { "com.docker.network.endpoint.ifname": "lan" } })),
        ] {
            for (network, is_refused) in
                [("host", true), ("none", true), ("container:a", true), ("own", false)]
            {
                let endpoints = json!({ "EndpointsConfig": { network: wish.clone() } });
                let refused = refusal(json!({ "NetworkingConfig": endpoints }));
                assert_eq!(refused.is_some(), is_refused, "{network} {field}: {refused:?}");
                assert!(refused.is_none_or(|text| text.contains(field)), "{network} {field}");
            }
        }
    }

    #[test]
    fn options_of_mounts_are_honoured_or_named() {
        let mount = |field: &str, options: Value| {
            let mount = json!({ "Type": "volume", "Source": "data", "Target": "/d", field: options });
            refusal(json!({ "HostConfig": { "Mounts": [mount] } }))
        };
        let driver = |driver: Value| mount("VolumeOptions", json!({ "DriverConfig": driver }));
        assert_eq!(driver(json!({ "Name": "local", "Options": null })), None);
        assert_eq!(driver(Value::Null), None);
        assert!(driver(json!({ "Name": "nfs" })).unwrap().contains("`volume-driver=nfs`"));
        assert_eq!(mount("BindOptions", json!({ "ReadOnlyForceRecursive": false })), None);
        let shared = mount("BindOptions", json!({ "Propagation": "rshared" }));
        assert!(shared.unwrap().contains("`bind-propagation=rshared`"));
    }

    #[test]
    fn only_the_own_platform_is_there() {
        let own = architecture();
        for good in ["", "linux", own, &format!("linux/{own}"), &format!("Linux/{own}")] {
            assert!(is_own_platform(good), "{good}");
        }
        for bad in ["windows/amd64", "linux/s390x", "s390x", "linux/", &format!("linux/{own}/v9"), "a/b/c/d"]
        {
            assert!(!is_own_platform(bad), "{bad}");
        }
    }
}
