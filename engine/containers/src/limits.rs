//! Limits of a container: of its cgroup, and of each of its processes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use engine_kernel::cgroup::weights::{BlockWeights, DeviceWeight};
use engine_model::spec::LimitSpec;
use engine_model::wire::{ThrottleDevice, Ulimit, WeightDevice};
use rustix::fs::FileType;
use serde_json::{Map, Value, json};

/// Limits in the form that libcgroups applies.
pub(crate) fn resources(wish: &LimitSpec, unified: bool) -> Result<Value, LimitError> {
    let mut memory = Map::new();
    let mut set = |name: &str, value: i64| {
        if value != 0 {
            memory.insert(name.to_owned(), value.into());
        }
    };
    set("limit", wish.memory);
    set("reservation", wish.memory_reservation);
    let swap = match (wish.memory, wish.memory_swap) {
        (memory, 0) if memory > 0 => memory.saturating_mul(2),
        (_, swap) => swap,
    };
    // Kernels without accounting of swap have no file for it on the older hierarchy.
    if unified || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
        set("swap", swap);
    }
    if let Some(swappiness) = wish.memory_swappiness.filter(|&value| value >= 0 && !unified) {
        memory.insert("swappiness".to_owned(), swappiness.into());
    }
    let mut cpu = Map::new();
    let mut set = |name: &str, value: i64| {
        if value != 0 {
            cpu.insert(name.to_owned(), value.into());
        }
    };
    set("shares", wish.cpu_shares);
    if wish.nano_cpus > 0 {
        set("period", 100_000);
        set("quota", wish.nano_cpus / 10_000);
    } else {
        set("period", wish.cpu_period);
        set("quota", wish.cpu_quota);
    }
    for (name, list) in [("cpus", &wish.cpuset_cpus), ("mems", &wish.cpuset_mems)] {
        if !list.is_empty() {
            cpu.insert(name.to_owned(), list.clone().into());
        }
    }
    let mut resources = Map::new();
    if !memory.is_empty() {
        resources.insert("memory".to_owned(), memory.into());
    }
    if !cpu.is_empty() {
        resources.insert("cpu".to_owned(), cpu.into());
    }
    if let Some(limit) = wish.pids.filter(|&limit| limit != 0) {
        resources.insert("pids".to_owned(), json!({ "limit": limit }));
    }
    let blocks = block_devices(wish)?;
    if !blocks.is_empty() {
        resources.insert("blockIO".to_owned(), blocks.into());
    }
    Ok(Value::Object(resources))
}

#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("stat {path}")]
    NoDevice { path: String, source: io::Error },
    #[error("{path} is no block device, which can be limited")]
    NoBlockDevice { path: String },
}

/// Limits of block devices, by their numbers; shares of them are [`weights`].
fn block_devices(wish: &LimitSpec) -> Result<Map<String, Value>, LimitError> {
    let mut blocks = Map::new();
    let devices = &wish.block_devices;
    for (name, list) in [
        ("throttleReadBpsDevice", &devices.read_bytes),
        ("throttleWriteBpsDevice", &devices.write_bytes),
        ("throttleReadIOPSDevice", &devices.read_operations),
        ("throttleWriteIOPSDevice", &devices.write_operations),
    ] {
        let mut throttled = Vec::new();
        for ThrottleDevice { path, rate } in list {
            let (major, minor) = numbers(path)?;
            throttled.push(json!({ "major": major, "minor": minor, "rate": rate }));
        }
        if !throttled.is_empty() {
            blocks.insert(name.to_owned(), throttled.into());
        }
    }
    Ok(blocks)
}

/// Shares of block devices, by their numbers. Weights of 0 say nothing.
pub(crate) fn weights(wish: &LimitSpec) -> Result<BlockWeights, LimitError> {
    let mut devices = Vec::new();
    for WeightDevice { path, weight } in &wish.block_devices.weights {
        let ((major, minor), weight) = (numbers(path)?, *weight);
        if weight > 0 {
            devices.push(DeviceWeight { major, minor, weight });
        }
    }
    Ok(BlockWeights { all: Some(wish.block_weight).filter(|&weight| weight > 0), devices })
}

/// Of a block device of the host.
fn numbers(path: &str) -> Result<(u32, u32), LimitError> {
    let stat = rustix::fs::stat(path)
        .map_err(|error| LimitError::NoDevice { path: path.to_owned(), source: error.into() })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return Err(LimitError::NoBlockDevice { path: path.to_owned() });
    }
    Ok((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

/// Limits of a process, cut down to what this engine may give.
pub(crate) fn processes(wish: &LimitSpec, defaults: &BTreeMap<String, Ulimit>) -> Vec<Value> {
    let mut wanted: BTreeMap<String, (i64, i64)> =
        defaults.values().map(|limit| (limit.name.clone(), (limit.soft, limit.hard))).collect();
    for limit in &wish.ulimits {
        wanted.insert(limit.name.to_lowercase(), (limit.soft, limit.hard));
    }
    let free = may_raise_limits();
    wanted
        .into_iter()
        .map(|(name, (soft, hard))| {
            let amount = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
            let (mut soft, mut hard) = (amount(soft), amount(hard));
            if !free && let Some(ceiling) = own_hard_limit(&name) {
                if hard > ceiling {
                    tracing::warn!(name, hard, ceiling, "This engine may not give so high a limit");
                }
                (soft, hard) = (soft.min(ceiling), hard.min(ceiling));
            }
            json!({ "type": format!("RLIMIT_{}", name.to_uppercase()), "soft": soft, "hard": hard })
        })
        .collect()
}

/// Whether this process has `CAP_SYS_RESOURCE`.
pub(crate) fn may_raise_limits() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE))
}

fn own_hard_limit(name: &str) -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let title = match name {
        "core" => "Max core file size",
        "cpu" => "Max cpu time",
        "data" => "Max data size",
        "fsize" => "Max file size",
        "locks" => "Max file locks",
        "memlock" => "Max locked memory",
        "msgqueue" => "Max msgqueue size",
        "nice" => "Max nice priority",
        "nofile" => "Max open files",
        "nproc" => "Max processes",
        "rss" => "Max resident set",
        "rtprio" => "Max realtime priority",
        "rttime" => "Max realtime timeout",
        "sigpending" => "Max pending signals",
        "stack" => "Max stack size",
        _ => return None,
    };
    let line = limits.lines().find_map(|line| line.strip_prefix(title))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What to write, if it can be written: lowering the score takes a capability.
pub(crate) fn out_of_memory_score(wanted: i32) -> Option<i32> {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    if wanted < own && !may_raise_limits() {
        tracing::warn!(wanted, own, "This engine may not give so low a score for the kernel's memory killer");
        return None;
    }
    (wanted != own).then_some(wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(json: Value) -> LimitSpec {
        crate::understand::limits(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn limits_take_the_oci_form() {
        let found = resources(
            &host(
                json!({ "Memory": 1000, "NanoCpus": 1_500_000_000, "PidsLimit": 7, "CpuShares": 5, "CpusetCpus": "0" }),
            ),
            true,
        )
        .unwrap();
        assert_eq!(found["memory"], json!({ "limit": 1000, "swap": 2000 }));
        assert_eq!(found["cpu"], json!({ "shares": 5, "period": 100_000, "quota": 150_000, "cpus": "0" }));
        assert_eq!(found["pids"]["limit"], 7);
        assert_eq!(resources(&host(json!({})), true).unwrap(), json!({}));
        let unlimited = resources(&host(json!({ "Memory": 10, "MemorySwap": -1 })), true).unwrap();
        assert_eq!(unlimited["memory"]["swap"], -1);
        let throttled = |path: &str| host(json!({ "BlkioDeviceWriteIOps": [{ "Path": path, "Rate": 5 }] }));
        let refusal = |path: &str| resources(&throttled(path), true).unwrap_err().to_string();
        assert_eq!(refusal("/dev/null"), "/dev/null is no block device, which can be limited");
        assert_eq!(refusal("/not/there"), "stat /not/there");
    }
}
