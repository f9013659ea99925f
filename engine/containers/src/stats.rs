//! What containers use: memory, processor, network, disk.

use std::fs;
use std::sync::Arc;

use engine_kernel::cgroup;
use jiff::Timestamp;
use libcgroups::stats::Stats;
use serde_json::{Map, Value, json};

use super::{Container, ContainerError, Containers, list};

impl Containers {
    /// The containers' part of the answer to `GET /system/df`.
    pub async fn disk_usage(&self) -> Value {
        let request = list::ListRequest { all: true, size: true, ..list::ListRequest::default() };
        let listed = self.blocking(move |containers| containers.list(&request)).await;
        Value::Array(listed.unwrap_or_default())
    }

    /// One reading of a running container, as `GET /containers/{id}/stats` shows it; of a stopped one, empty.
    pub async fn stats(&self, container: &Arc<Container>) -> Result<Reading, ContainerError> {
        let target = Arc::clone(container);
        self.blocking(move |_| {
            let state = target.state();
            if !state.status.is_alive() {
                return Ok(Reading {
                    time: Timestamp::now(),
                    usage: None,
                    processes: Map::new(),
                    networks: Value::Null,
                });
            }
            let usage =
                cgroup::stats(&target.cgroup()).map_err(|source| ContainerError::Cgroup { source })?;
            Ok(Reading {
                time: Timestamp::now(),
                usage: Some(usage),
                processes: processes(&target),
                networks: network_usage(&target),
            })
        })
        .await
    }
}

/// What a container used at one moment.
#[derive(Debug)]
pub struct Reading {
    pub time: Timestamp,
    usage: Option<Stats>,
    processes: Map<String, Value>,
    networks: Value,
}

impl Reading {
    /// In the API's form, beside the reading before it.
    pub fn describe(&self, container: &Container, before: Option<&Self>) -> Value {
        let mut view = json!({
            "name": format!("/{}", container.identity().name),
            "id": container.id,
            "read": self.time.to_string(),
            "preread": before.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |before| before.time.to_string()),
            "num_procs": 0,
            "storage_stats": {},
            "pids_stats": self.processes,
            "blkio_stats": {
                "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null,
                "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
                "io_time_recursive": null, "sectors_recursive": null,
            },
            "cpu_stats": self.processor(),
            "precpu_stats": before.map_or_else(Self::no_processor, Self::processor),
            "memory_stats": self.memory(),
        });
        if !self.networks.is_null() {
            view["networks"] = self.networks.clone();
        }
        view
    }

    fn no_processor() -> Value {
        json!({
            "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
            "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
        })
    }

    fn processor(&self) -> Value {
        let Some(usage) = &self.usage else { return Self::no_processor() };
        let (cpu, throttling) = (&usage.cpu.usage, &usage.cpu.throttling);
        json!({
            "cpu_usage": {
                "total_usage": cpu.usage_total,
                "usage_in_kernelmode": cpu.usage_kernel,
                "usage_in_usermode": cpu.usage_user,
                "percpu_usage": cpu.per_core_usage_total,
            },
            "system_cpu_usage": system_usage(),
            "online_cpus": std::thread::available_parallelism().map_or(1, usize::from),
            "throttling_data": {
                "periods": throttling.periods,
                "throttled_periods": throttling.throttled_periods,
                "throttled_time": throttling.throttled_time,
            },
        })
    }

    fn memory(&self) -> Value {
        let Some(usage) = &self.usage else { return json!({}) };
        let memory = &usage.memory;
        let limit = memory.memory.limit.min(total_memory());
        json!({
            "usage": memory.memory.usage,
            "max_usage": memory.memory.max_usage,
            "failcnt": memory.memory.fail_count,
            "limit": limit,
            "stats": memory.stats,
        })
    }
}

fn processes(container: &Container) -> Map<String, Value> {
    let count = cgroup::processes(&container.cgroup()).map_or(0, |pids| pids.len());
    let mut processes = Map::new();
    processes.insert("current".to_owned(), count.into());
    if let Some(limit) = container.identity().host.pids_limit.filter(|&limit| limit > 0) {
        processes.insert("limit".to_owned(), limit.into());
    }
    processes
}

/// Nanoseconds that all processors have worked or idled.
fn system_usage() -> u64 {
    let content = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: u64 = content
        .lines()
        .next()
        .into_iter()
        .flat_map(|line| line.split_whitespace().skip(1).take(8))
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(10_000_000)
}

pub(crate) fn total_memory() -> u64 {
    let content = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = content
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or(u64::MAX, |number| number * 1024)
}

/// Bytes and packets of a container's network interfaces.
fn network_usage(container: &Container) -> Value {
    let content = container.process().and_then(|process| process.told("net/dev").ok());
    let Some(content) = content else { return Value::Null };
    let mut networks = Map::new();
    for line in content.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if name.trim() == "lo" || numbers.len() < 12 {
            continue;
        }
        networks.insert(
            name.trim().to_owned(),
            json!({
                "rx_bytes": numbers[0], "rx_packets": numbers[1], "rx_errors": numbers[2], "rx_dropped": numbers[3],
                "tx_bytes": numbers[8], "tx_packets": numbers[9], "tx_errors": numbers[10], "tx_dropped": numbers[11],
            }),
        );
    }
    if networks.is_empty() { Value::Null } else { networks.into() }
}
