//! Refuses wishes that cannot work together or at all, in dockerd's words.

use engine_model::wire::{Config, HostConfig};

use crate::ContainerError;

/// In bytes, as dockerd has it: less is not enough for any program.
const LEAST_MEMORY: i64 = 6 * 1024 * 1024;
/// More processors than any kernel knows.
const MOST_CPUS: u32 = 8192;

/// Of a new container, and of one that is to be changed.
pub(super) fn check(config: &Config, host: &HostConfig) -> Result<(), ContainerError> {
    process(config, host)?;
    memory(host)?;
    processors(host)?;
    weights(host)
}

/// Of a new container, before the image's wishes are joined to the client's: what cannot be had on a network that is another's.
pub(super) fn network(config: &Config, host: &HostConfig) -> Result<(), ContainerError> {
    let has_hostname = !config.hostname.is_empty();
    if host.uts_mode == "host" && has_hostname {
        return refuse("conflicting options: hostname and the UTS mode");
    }
    let is_some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let binds = host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    match host.network_mode.strip_prefix("container:") {
        None => return Ok(()),
        Some("") => {
            return refuse("invalid network mode: invalid container format container:<name|id>");
        }
        Some(_) => {}
    }
    let conflicts = [
        (has_hostname, "hostname and the network mode"),
        (
            is_some(&host.links),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (is_some(&host.dns), "dns and the network mode"),
        (is_some(&host.extra_hosts), "custom host-to-IP mapping and the network mode"),
        (config.mac_address.is_some(), "mac-address and the network mode"),
        (host.publish_all_ports || binds, "port publishing and the container type network mode"),
        (
            config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()),
            "port exposing and the container type network mode",
        ),
    ];
    match conflicts.into_iter().find(|(is_wished, _)| *is_wished) {
        Some((_, what)) => refuse(format!("conflicting options: {what}")),
        None => Ok(()),
    }
}

fn refuse<T>(message: impl Into<String>) -> Result<T, ContainerError> {
    Err(ContainerError::Invalid(message.into()))
}

fn process(config: &Config, host: &HostConfig) -> Result<(), ContainerError> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return refuse(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return refuse(format!("invalid USER mode: {:.100}", host.userns_mode));
    }
    if let Some(variable) =
        config.env.iter().find(|variable| variable.is_empty() || variable.starts_with('='))
    {
        return refuse(format!("invalid environment variable: {variable}"));
    }
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return refuse("can't create 'AutoRemove' container with restart policy");
    }
    if host.annotations.iter().flatten().any(|(name, _)| name.is_empty()) {
        return refuse("invalid Annotations: the empty string is not permitted as an annotation key");
    }
    let adjustment = host.oom_score_adj;
    if !(-1000..=1000).contains(&adjustment) {
        return refuse(format!("Invalid value {adjustment}, range for oom score adj is [-1000, 1000]"));
    }
    Ok(())
}

fn memory(host: &HostConfig) -> Result<(), ContainerError> {
    if host.memory != 0 && host.memory < LEAST_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|value| !(-1..=100).contains(value)) {
        return refuse(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if host.memory_reservation > 0 && host.memory_reservation < LEAST_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host.shm_size < 0 {
        return refuse("SHM size can not be less than 0");
    }
    Ok(())
}

fn processors(host: &HostConfig) -> Result<(), ContainerError> {
    for (is_set, name) in [(host.cpu_period > 0, "Period"), (host.cpu_quota > 0, "Quota")] {
        if host.nano_cpus > 0 && is_set {
            return refuse(format!("Conflicting options: Nano CPUs and CPU {name} cannot both be set"));
        }
    }
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let most = i64::try_from(available).unwrap_or(1).saturating_mul(1_000_000_000);
    if host.nano_cpus < 0 || host.nano_cpus > most {
        return refuse(format!(
            "range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
        ));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (list, name) in [(&host.cpuset_cpus, "cpuset cpus"), (&host.cpuset_mems, "cpuset mems")] {
        if let Err(why) = numbers(list) {
            return refuse(format!("Invalid value {list:.100} for {name}: {why}"));
        }
    }
    Ok(())
}

fn weights(host: &HostConfig) -> Result<(), ContainerError> {
    let devices = host.blkio_weight_device.iter().flatten().map(|device| device.weight);
    if devices.chain([host.blkio_weight]).any(|weight| weight > 0 && !(10..=1000).contains(&weight)) {
        return refuse("range of blkio weight is from 10 to 1000");
    }
    Ok(())
}

/// Whether a list is one of numbers and ranges: `0-3,7`.
fn numbers(list: &str) -> Result<(), String> {
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number =
            |text: &str| text.trim().parse::<u32>().map_err(|_| format!("invalid format: {part:.50}"));
        let (first, last) = (number(first)?, number(last)?);
        if last >= MOST_CPUS {
            return Err(format!("value of out range, maximum is {MOST_CPUS}"));
        }
        if first > last {
            return Err(format!("invalid format: {part:.50}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn refusal(host: Value) -> Option<String> {
        let host: HostConfig = serde_json::from_value(host).unwrap();
        check(&Config::default(), &host).err().map(|error| error.to_string())
    }

    #[test]
    fn a_network_that_is_anothers_is_taken_as_it_is() {
        let refusal = |config: Value, mut host: Value| {
            if host["UTSMode"].is_null() {
                host["NetworkMode"] = "container:other".into();
            }
            let (config, host) =
                (serde_json::from_value(config).unwrap(), serde_json::from_value(host).unwrap());
            network(&config, &host).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (config, host, said) in [
            (json!({ "Hostname": "q" }), json!({}), "hostname and the network mode"),
            (json!({ "Hostname": "q" }), json!({ "UTSMode": "host" }), "hostname and the UTS mode"),
            (json!({}), json!({ "Links": ["a:b"] }), "links"),
            (json!({}), json!({ "Dns": ["1.2.3.4"] }), "dns and the network mode"),
            (json!({}), json!({ "ExtraHosts": ["a:1.2.3.4"] }), "custom host-to-IP mapping"),
            (json!({ "MacAddress": "02:42:ac:11:00:02" }), json!({}), "mac-address"),
            (json!({}), json!({ "PublishAllPorts": true }), "port publishing"),
            (json!({}), json!({ "PortBindings": { "80/tcp": [{ "HostPort": "80" }] } }), "port publishing"),
            (json!({ "ExposedPorts": { "80/tcp": {} } }), json!({}), "port exposing"),
        ] {
            let refused = refusal(config.clone(), host.clone());
            assert!(refused.contains(said) && refused.contains("conflicting"), "{config} {host}: {refused}");
        }
        assert_eq!(refusal(json!({}), json!({})), "");
    }

    #[test]
    fn impossible_wishes_are_refused() {
        for bad in [
            json!({ "Memory": 1000 }),
            json!({ "RestartPolicy": { "Name": "always" }, "AutoRemove": true }),
            json!({ "NanoCpus": 1_000_000_000_000_i64 }),
            json!({ "NanoCpus": 100_000_000, "CpuQuota": 50_000 }),
            json!({ "MemorySwap": 67_108_864 }),
            json!({ "Memory": 67_108_864, "MemoryReservation": 134_217_728 }),
            json!({ "MemoryReservation": 1 }),
            json!({ "MemorySwappiness": 101 }),
            json!({ "OomScoreAdj": 2000 }),
            json!({ "CpuPeriod": 1 }),
            json!({ "CpuQuota": 1 }),
            json!({ "CpusetCpus": "a" }),
            json!({ "CpusetCpus": "3-1" }),
            json!({ "CpusetMems": "9999" }),
            json!({ "Annotations": { "": "x" } }),
            json!({ "BlkioWeight": 9 }),
            json!({ "BlkioWeightDevice": [{ "Path": "/dev/vda", "Weight": 1001 }] }),
        ] {
            assert!(refusal(bad.clone()).is_some(), "{bad}");
        }
        for good in [
            json!({}),
            json!({ "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 }, "Memory": 6_291_456 }),
            json!({ "Memory": 67_108_864, "MemorySwap": -1, "MemorySwappiness": -1, "CpuQuota": -1 }),
            json!({ "CpusetCpus": "0-1, 3", "CpusetMems": "0", "OomScoreAdj": -1000 }),
        ] {
            assert_eq!(refusal(good.clone()), None, "{good}");
        }
    }
}
