//! From what a client wrote to what a container is to be: the one place where the words of the API are understood. It changes
//! nothing, and refuses what makes no sense.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use engine_kernel::confine::clean;
use engine_kernel::etc;
use engine_logging::OptionError;
use engine_model::PortRequest;
use engine_model::spec::{
    BlockDevices, ConfinementSpec, ContainerSpec, DeviceSpec, EndpointSpec, LimitSpec, LogSpec, NameSpec,
    NetworkMode, NetworkSpec, ProcessSpec, Restart, Seccomp, Share, Sharing,
};
use engine_model::wire::{Config, EndpointConfig, HostConfig, PortBinding, RestartPolicy};

use crate::oci::SpecError;
use crate::record::Identity;
use crate::{ContainerError, endpoint, health, signals};

/// Of `/dev/shm`, as dockerd has it.
const SHARED_MEMORY: u64 = 64 * 1024 * 1024;

/// What a container is to be, by its record.
pub(crate) fn record(identity: &Identity) -> Result<ContainerSpec, ContainerError> {
    request(&identity.config, &identity.host, &identity.networks, identity.left_first_network)
}

/// What a container is to be, by a request whose gaps are filled. A container that has left the network of its mode is on
/// its other networks alone, if it has any.
pub(crate) fn request(
    config: &Config,
    host: &HostConfig,
    networks: &BTreeMap<String, EndpointConfig>,
    left_first_network: bool,
) -> Result<ContainerSpec, ContainerError> {
    let stop_signal = config.stop_signal.as_deref().filter(|signal| !signal.is_empty());
    Ok(ContainerSpec {
        process: process(config, host),
        sharing: Sharing {
            pid: share(&host.pid_mode),
            ipc: share(&host.ipc_mode),
            shared_memory: host.ipc_mode != "none",
            host_users: host.userns_mode == "host",
            host_names: host.uts_mode == "host",
            private_cgroups: match host.cgroupns_mode.as_str() {
                "private" => Some(true),
                "host" => Some(false),
                _ => None,
            },
        },
        network: network(config, host, networks, left_first_network)?,
        confinement: confinement(host)?,
        limits: limits(host),
        log: log(host)?,
        restart: restart(&host.restart_policy)?,
        health: health::understand(config),
        auto_remove: host.auto_remove,
        annotations: host.annotations.clone().unwrap_or_default(),
        stop_signal: stop_signal
            .map(|signal| signals::parse(signal).ok_or_else(|| invalid(format!("invalid signal: {signal}"))))
            .transpose()?,
        stop_timeout: config.stop_timeout,
    })
}

fn invalid(message: impl Into<String>) -> ContainerError {
    ContainerError::Invalid(message.into())
}

fn process(config: &Config, host: &HostConfig) -> ProcessSpec {
    let directory = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let [rows, columns] = host.console_size.map(|size| u16::try_from(size).unwrap_or(0));
    ProcessSpec {
        hostname: Some(config.hostname.clone()).filter(|name| !name.is_empty()),
        domain_name: config.domainname.clone(),
        user: config.user.clone(),
        groups: host.group_add.clone().unwrap_or_default(),
        environment: config.env.clone(),
        directory: clean(Path::new(directory)),
        terminal: config.tty,
        console_size: (rows > 0 && columns > 0).then_some((rows, columns)),
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        init: host.init == Some(true),
    }
}

fn share(mode: &str) -> Share {
    match (mode, mode.strip_prefix("container:")) {
        ("host", _) => Share::Host,
        (_, Some(other)) => Share::Of(other.to_owned()),
        _ => Share::Own,
    }
}

fn network(
    config: &Config,
    host: &HostConfig,
    networks: &BTreeMap<String, EndpointConfig>,
    left_first: bool,
) -> Result<NetworkSpec, ContainerError> {
    let name = host.network_mode.as_str();
    let mode = match share(name) {
        Share::Host => NetworkMode::Host,
        Share::Of(other) => NetworkMode::Of(other),
        Share::Own if name == "none" || config.network_disabled == Some(true) => NetworkMode::None,
        Share::Own => NetworkMode::Joined,
    };
    let mut endpoints = Vec::new();
    if mode == NetworkMode::Joined {
        if !left_first || networks.is_empty() {
            endpoints.push(place(config, host, networks, name)?);
        }
        for other in networks.keys().filter(|other| !is_same_network(other, name)) {
            endpoints.push(place(config, host, networks, other)?);
        }
    }
    let names = NameSpec {
        servers: host.dns.clone().unwrap_or_default(),
        search: host.dns_search.clone().unwrap_or_default(),
        options: host.dns_options.clone().unwrap_or_default(),
        extra_hosts: host.extra_hosts.clone().unwrap_or_default(),
    };
    if let Some(odd) = names.servers.iter().find(|server| server.parse::<IpAddr>().is_err()) {
        return Err(invalid(format!("invalid DNS server: \"{odd:.100}\" is not an IP address")));
    }
    // What the host is called by containers is known when there are networks.
    etc::extra_hosts(&names.extra_hosts, &[Ipv4Addr::UNSPECIFIED.into()])
        .map_err(|error| invalid(error.to_string()))?;
    Ok(NetworkSpec { mode, endpoints, ports: ports(config, host)?, names })
}

/// `default` is another name of `bridge`.
fn is_same_network(one: &str, other: &str) -> bool {
    let plain = |name| if name == "default" { "bridge" } else { name };
    plain(one) == plain(other)
}

fn place(
    config: &Config,
    host: &HostConfig,
    networks: &BTreeMap<String, EndpointConfig>,
    network: &str,
) -> Result<EndpointSpec, ContainerError> {
    let wish = networks.iter().find(|(known, _)| is_same_network(known, network)).map(|(_, wish)| wish);
    let own = config.mac_address.clone().filter(|_| is_same_network(network, &host.network_mode));
    let none = EndpointConfig::default();
    let mut endpoint = endpoint::endpoint(network, wish.unwrap_or(&none))?;
    endpoint.mac_address = endpoint.mac_address.or(own).filter(|mac| !mac.is_empty());
    Ok(endpoint)
}

/// The ports to publish: those that were named, and with `-P` all that the image exposes.
fn ports(config: &Config, host: &HostConfig) -> Result<Vec<PortRequest>, ContainerError> {
    let unclear = |text: &str| invalid(format!("invalid port specification: \"{text}\""));
    let port = |text: &str| -> Result<_, ContainerError> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let number: u16 = number.parse().map_err(|_| unclear(text))?;
        let protocol = protocol.parse().map_err(|_| unclear(text))?;
        Ok((number, protocol))
    };
    let mut requests = Vec::new();
    for (text, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = port(text)?;
        let default = [PortBinding::default()];
        let bindings = bindings.as_deref().filter(|bindings| !bindings.is_empty()).unwrap_or(&default);
        for binding in bindings {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                address => Some(address.parse().map_err(|_| unclear(address))?),
            };
            let number = |text: &str| text.parse().map_err(|_| unclear(&binding.host_port));
            let (host_port, last_host_port) = match binding.host_port.split_once('-') {
                Some((first, last)) => (Some(number(first)?), Some(number(last)?)),
                None if binding.host_port.is_empty() => (None, None),
                None => (Some(number(&binding.host_port)?), None),
            };
            if last_host_port.is_some_and(|last| Some(last) < host_port) {
                return Err(unclear(&binding.host_port));
            }
            requests.push(PortRequest { protocol, container_port, host_ip, host_port, last_host_port });
        }
    }
    if host.publish_all_ports {
        for text in config.exposed_ports.iter().flatten().map(|(text, _)| text) {
            let (container_port, protocol) = port(text)?;
            let is_known =
                |known: &PortRequest| known.container_port == container_port && known.protocol == protocol;
            if !requests.iter().any(is_known) {
                let (host_ip, host_port, last_host_port) = (None, None, None);
                requests.push(PortRequest { protocol, container_port, host_ip, host_port, last_host_port });
            }
        }
    }
    Ok(requests)
}

fn confinement(host: &HostConfig) -> Result<ConfinementSpec, ContainerError> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let (mut seccomp, mut no_new_privileges) = (Seccomp::Usual, false);
    let (mut all_paths, mut writable_cgroups) = (false, false);
    for option in host.security_opt.iter().flatten() {
        let (key, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (key, value) {
            ("seccomp", "builtin") => seccomp = Seccomp::Builtin,
            ("seccomp", "unconfined") => seccomp = Seccomp::Unconfined,
            ("seccomp", profile) if !profile.is_empty() => seccomp = Seccomp::Profile(profile.to_owned()),
            ("no-new-privileges", "" | "true") => no_new_privileges = true,
            ("no-new-privileges", "false") => no_new_privileges = false,
            ("systempaths", "unconfined") => all_paths = true,
            ("writable-cgroups", "" | "true") if engine_kernel::cgroup::is_unified() => {
                writable_cgroups = true;
            }
            ("writable-cgroups", "false") => writable_cgroups = false,
            // What would have an effect was refused when the container was made.
            ("apparmor" | "label" | "writable-cgroups" | "disable", _) => {}
            _ => return Err(SpecError::SecurityOption(option.clone()).into()),
        }
    }
    let devices = host.devices.iter().flatten().map(|device| DeviceSpec {
        on_host: PathBuf::from(&device.path_on_host),
        inside: PathBuf::from(&device.path_in_container),
        permissions: device.cgroup_permissions.clone(),
    });
    Ok(ConfinementSpec {
        privileged: host.privileged,
        add_capabilities: list(&host.cap_add),
        drop_capabilities: list(&host.cap_drop),
        seccomp,
        no_new_privileges,
        read_only_root: host.readonly_rootfs,
        masked_paths: if all_paths { Some(Vec::new()) } else { host.masked_paths.clone() },
        read_only_paths: if all_paths { Some(Vec::new()) } else { host.readonly_paths.clone() },
        writable_cgroups,
        devices: devices.collect(),
        device_rules: list(&host.device_cgroup_rules),
        sysctls: host.sysctls.clone().unwrap_or_default(),
        shared_memory: u64::try_from(host.shm_size).ok().filter(|&size| size > 0).unwrap_or(SHARED_MEMORY),
    })
}

/// What limits a host configuration wishes for.
pub(crate) fn limits(host: &HostConfig) -> LimitSpec {
    LimitSpec {
        memory: host.memory,
        memory_reservation: host.memory_reservation,
        memory_swap: host.memory_swap,
        memory_swappiness: host.memory_swappiness,
        cpu_shares: host.cpu_shares,
        cpu_period: host.cpu_period,
        cpu_quota: host.cpu_quota,
        nano_cpus: host.nano_cpus,
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        pids: host.pids_limit,
        block_weight: host.blkio_weight,
        block_devices: BlockDevices {
            weights: host.blkio_weight_device.clone().unwrap_or_default(),
            read_bytes: host.blkio_device_read_bps.clone().unwrap_or_default(),
            write_bytes: host.blkio_device_write_bps.clone().unwrap_or_default(),
            read_operations: host.blkio_device_read_iops.clone().unwrap_or_default(),
            write_operations: host.blkio_device_write_iops.clone().unwrap_or_default(),
        },
        out_of_memory_score: host.oom_score_adj,
        ulimits: host.ulimits.clone().unwrap_or_default(),
    }
}

fn log(host: &HostConfig) -> Result<LogSpec, ContainerError> {
    let config = &host.log_config;
    engine_logging::options::understand(&config.r#type, &config.config).map_err(log_options)
}

/// Why a log's options are refused.
pub(crate) fn log_options(error: OptionError) -> ContainerError {
    match error {
        OptionError::Invalid(message) => invalid(message),
        OptionError::Unsupported(option) => {
            ContainerError::Unsupported(format!("`HostConfig.LogConfig.Config`: `{option}`"))
        }
    }
}

fn restart(policy: &RestartPolicy) -> Result<Restart, ContainerError> {
    let most = policy.maximum_retry_count;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if most != 0 => {
            Err(invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"))
        }
        "" | "no" => Ok(Restart::No),
        "always" => Ok(Restart::Always),
        "unless-stopped" => Ok(Restart::UnlessStopped),
        "on-failure" if most < 0 => {
            Err(invalid("invalid restart policy: maximum retry count cannot be negative"))
        }
        "on-failure" => Ok(Restart::OnFailure {
            most: Some(u32::try_from(most).unwrap_or(u32::MAX)).filter(|&most| most != 0),
        }),
        name => Err(invalid(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use engine_model::Protocol;
    use serde_json::{Value, json};

    use super::*;

    fn understood(config: Value, mut host: Value) -> Result<ContainerSpec, ContainerError> {
        if host.get("LogConfig").is_none() {
            host["LogConfig"] = json!({ "Type": "json-file" });
        }
        let networks = BTreeMap::from([
            ("default".to_owned(), serde_json::from_value(json!({ "Aliases": ["one"] })).unwrap()),
            (
                "own".to_owned(),
                serde_json::from_value(json!({ "IPAMConfig": { "IPv4Address": "10.0.0.7" } })).unwrap(),
            ),
        ]);
        let (config, host) = (serde_json::from_value(config).unwrap(), serde_json::from_value(host).unwrap());
        request(&config, &host, &networks, false)
    }

    #[test]
    fn networks_are_understood() {
        let spec =
            understood(json!({ "MacAddress": "02:42:0a:00:00:07" }), json!({ "NetworkMode": "bridge" }))
                .unwrap();
        assert_eq!(spec.network.mode, NetworkMode::Joined);
        let [first, second] = &spec.network.endpoints[..] else { panic!("{:?}", spec.network) };
        assert_eq!((first.network.as_str(), &first.aliases[..]), ("bridge", &["one".to_owned()][..]));
        assert_eq!(first.mac_address.as_deref(), Some("02:42:0a:00:00:07"));
        assert_eq!((second.network.as_str(), second.address), ("own", Some([10, 0, 0, 7].into())));
        assert_eq!(second.mac_address, None);
        let mode = |config, mode: &str| {
            let network = understood(config, json!({ "NetworkMode": mode })).unwrap().network;
            assert!(network.endpoints.is_empty());
            network.mode
        };
        assert_eq!(mode(json!({}), "host"), NetworkMode::Host);
        assert_eq!(mode(json!({}), "none"), NetworkMode::None);
        assert_eq!(mode(json!({ "NetworkDisabled": true }), "bridge"), NetworkMode::None);
        assert_eq!(
            mode(json!({ "NetworkDisabled": true }), "container:abc"),
            NetworkMode::Of("abc".to_owned())
        );
    }

    #[test]
    fn ports_are_understood() {
        let host = json!({ "PortBindings": { "80/tcp": [{ "HostPort": "8080" }], "53/udp": null },
            "PublishAllPorts": true });
        let config = json!({ "ExposedPorts": { "80/tcp": {}, "443/tcp": {} } });
        let ports = understood(config, host).unwrap().network.ports;
        let ports: Vec<_> =
            ports.iter().map(|port| (port.container_port, port.protocol, port.host_port)).collect();
        assert_eq!(
            ports,
            [(53, Protocol::Udp, None), (80, Protocol::Tcp, Some(8080)), (443, Protocol::Tcp, None)]
        );
    }

    #[test]
    fn a_range_of_ports_stays_one() {
        let host = json!({ "PortBindings": { "80/tcp": [{ "HostPort": "8000-8005" }] } });
        let ports = understood(json!({}), host).unwrap().network.ports;
        assert_eq!((ports[0].host_port, ports[0].last_host_port), (Some(8000), Some(8005)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let hosts = [
            json!({ "PortBindings": { "80/sctp": null } }),
            json!({ "PortBindings": { "99999/tcp": null } }),
            json!({ "PortBindings": { "80/tcp": [{ "HostPort": "90-80" }] } }),
            json!({ "PortBindings": { "80/tcp": [{ "HostPort": "90-" }] } }),
            json!({ "PortBindings": { "80/tcp": [{ "HostIp": "nowhere" }] } }),
            json!({ "ExtraHosts": ["name"] }),
            json!({ "Dns": ["nowhere"] }),
            json!({ "RestartPolicy": { "Name": "sometimes" } }),
            json!({ "RestartPolicy": { "Name": "always", "MaximumRetryCount": 3 } }),
            json!({ "SecurityOpt": ["nonsense=1"] }),
            json!({ "LogConfig": { "Type": "splunk" } }),
        ];
        for host in hosts {
            assert!(understood(json!({}), host.clone()).is_err(), "{host}");
        }
        assert!(understood(json!({ "StopSignal": "SIGNOTHING" }), json!({})).is_err());
        assert!(understood(json!({}), json!({ "ExtraHosts": ["gateway:host-gateway"] })).is_ok());
    }

    #[test]
    fn restart_policies_are_understood() {
        let restart = |policy| understood(json!({}), json!({ "RestartPolicy": policy })).unwrap().restart;
        assert_eq!(restart(json!(null)), Restart::No);
        assert_eq!(restart(json!({ "Name": "unless-stopped" })), Restart::UnlessStopped);
        assert_eq!(restart(json!({ "Name": "on-failure" })), Restart::OnFailure { most: None });
        let some = json!({ "Name": "on-failure", "MaximumRetryCount": 3 });
        assert_eq!(restart(some), Restart::OnFailure { most: Some(3) });
    }
}
