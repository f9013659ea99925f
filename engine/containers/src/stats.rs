//! What containers use: memory, processor, network, disk.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, OnceLock};

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
            let usage = match state.status.is_alive().then(|| target.in_cgroup(cgroup::stats)) {
                Some(Ok(usage)) => usage,
                None | Some(Err(ContainerError::Ended(_))) => {
                    return Ok(Reading {
                        time: Timestamp::now(),
                        usage: None,
                        processes: Map::new(),
                        interfaces: Vec::new(),
                    });
                }
                Some(Err(error)) => return Err(error),
            };
            Ok(Reading {
                time: Timestamp::now(),
                usage: Some(usage),
                processes: processes(&target),
                interfaces: interfaces(&target),
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
    interfaces: Vec<Interface>,
}

/// One of a container's network interfaces, since it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

/// One direction of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// What a running container has used since it started, or uses.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Nanoseconds of processors: in all, for programs, for the kernel.
    pub processor: [u64; 3],
    /// Periods in which its share of processors was counted, those in which it was held back, and for how many nanoseconds.
    pub throttled: [u64; 3],
    /// Bytes of memory, with what caches files.
    pub memory: u64,
    /// The same, without what could be given back at once.
    pub working_set: u64,
    /// What caches files.
    pub cache: u64,
    /// What is in no file.
    pub resident: u64,
    /// None if there is no limit.
    pub memory_limit: Option<u64>,
    pub processes: u64,
    /// By the devices' numbers.
    pub devices: BTreeMap<(u64, u64), Transfers>,
    pub interfaces: Vec<Interface>,
}

/// What went from and to a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
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
            "blkio_stats": self.transfers(),
            "cpu_stats": self.processor(),
            "precpu_stats": before.map_or_else(Self::no_processor, Self::processor),
            "memory_stats": self.memory(),
        });
        if !self.interfaces.is_empty() {
            view["networks"] = networks(&self.interfaces);
        }
        view
    }

    /// As numbers; none of a container that does not run.
    pub fn figures(&self) -> Option<Figures> {
        let usage = self.usage.as_ref()?;
        let (cpu, throttling) = (&usage.cpu.usage, &usage.cpu.throttling);
        let (memory, details) = (&usage.memory.memory, &usage.memory.stats);
        // Of the first version of cgroups and of the second.
        let detail = |first: &str, second: &str| {
            details.get(first).or_else(|| details.get(second)).copied().unwrap_or_default()
        };
        let mut devices: BTreeMap<(u64, u64), Transfers> = BTreeMap::new();
        for (stats, is_bytes) in [(&usage.blkio.service_bytes, true), (&usage.blkio.serviced, false)] {
            for one in stats {
                let transfers = devices.entry((one.major, one.minor)).or_default();
                let is = |word: &str| one.op_type.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(word));
                let field = match (is_bytes, is("read"), is("write")) {
                    (true, true, _) => &mut transfers.read_bytes,
                    (true, _, true) => &mut transfers.written_bytes,
                    (false, true, _) => &mut transfers.reads,
                    (false, _, true) => &mut transfers.writes,
                    _ => continue,
                };
                *field += one.value;
            }
        }
        Some(Figures {
            processor: [cpu.usage_total, cpu.usage_user, cpu.usage_kernel],
            throttled: [throttling.periods, throttling.throttled_periods, throttling.throttled_time],
            memory: memory.usage,
            working_set: memory.usage.saturating_sub(detail("total_inactive_file", "inactive_file")),
            cache: detail("total_cache", "file"),
            resident: detail("total_rss", "anon"),
            memory_limit: Some(memory.limit).filter(|limit| *limit < total_memory()),
            processes: self.processes.get("current").and_then(Value::as_u64).unwrap_or_default(),
            devices,
            interfaces: self.interfaces.clone(),
        })
    }

    /// As dockerd shows it of the second version of cgroups: bytes alone.
    fn transfers(&self) -> Value {
        let mut bytes = Vec::new();
        for ((major, minor), transfers) in self.figures().unwrap_or_default().devices {
            for (op, value) in [("read", transfers.read_bytes), ("write", transfers.written_bytes)] {
                bytes.push(json!({ "major": major, "minor": minor, "op": op, "value": value }));
            }
        }
        json!({
            "io_service_bytes_recursive": if bytes.is_empty() { Value::Null } else { bytes.into() },
            "io_serviced_recursive": null, "io_queue_recursive": null, "io_service_time_recursive": null,
            "io_wait_time_recursive": null, "io_merged_recursive": null, "io_time_recursive": null,
            "sectors_recursive": null,
        })
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
    static TOTAL: OnceLock<u64> = OnceLock::new();
    *TOTAL.get_or_init(read_total_memory)
}

fn read_total_memory() -> u64 {
    let content = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = content
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or(u64::MAX, |number| number * 1024)
}

/// A container's network interfaces but that to itself.
fn interfaces(container: &Container) -> Vec<Interface> {
    let content = container.process().and_then(|process| process.told("net/dev").ok());
    content.as_deref().map(parse_interfaces).unwrap_or_default()
}

/// Reads `/proc/PID/net/dev`.
fn parse_interfaces(content: &str) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for line in content.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let traffic = |at: usize| match numbers.get(at..at + 4) {
            Some(&[bytes, packets, errors, dropped]) => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        if name.trim() != "lo"
            && let (Some(received), Some(sent)) = (traffic(0), traffic(8))
        {
            interfaces.push(Interface { name: name.trim().to_owned(), received, sent });
        }
    }
    interfaces
}

/// As the API shows them.
fn networks(interfaces: &[Interface]) -> Value {
    let shown = interfaces.iter().map(|Interface { name, received, sent }| {
        let numbers = json!({
            "rx_bytes": received.bytes, "rx_packets": received.packets, "rx_errors": received.errors,
            "rx_dropped": received.dropped, "tx_bytes": sent.bytes, "tx_packets": sent.packets,
            "tx_errors": sent.errors, "tx_dropped": sent.dropped,
        });
        (name.clone(), numbers)
    });
    Value::Object(shown.collect())
}
