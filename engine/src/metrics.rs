//! The engine's figures for Prometheus, in OpenMetrics' text format.
//!
//! Names are dockerd's for what it tells of itself (`engine_daemon_…`), cAdvisor's for containers (`container_…`), those of
//! Prometheus' client libraries for the process (`process_…`), and ours for what none of them has (`engine_…`).
//! dockerd's gauge of readers of events ends in `_total`, which the format keeps for counters; ours does not.

use std::fmt;
use std::fs;
use std::sync::Arc;

use engine_containers::Container;
use engine_containers::health::HealthStatus;
use engine_containers::stats::{Figures, Interface, Traffic, Transfers};
use futures_util::StreamExt as _;
use futures_util::stream;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::app::App;
use crate::host::Facts;

/// How many containers are read at a time.
const AT_ONCE: usize = 4;
const HEALTH: [HealthStatus; 3] = [HealthStatus::Starting, HealthStatus::Healthy, HealthStatus::Unhealthy];

type Labels = Vec<(&'static str, String)>;

/// Everything as it is now.
pub async fn page(app: &App) -> Result<String, fmt::Error> {
    let snapshot = Snapshot::take(app).await;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

/// All figures at one moment.
#[derive(Debug)]
struct Snapshot {
    facts: Facts,
    process: Process,
    /// Running, paused, stopped.
    counts: [usize; 3],
    images: usize,
    layer_bytes: u64,
    networks: usize,
    volumes: usize,
    events: u64,
    listeners: usize,
    /// All and those that failed.
    checks: [u64; 2],
    containers: Vec<One>,
}

/// One container.
#[derive(Debug)]
struct One {
    labels: Labels,
    restarts: u32,
    health: Option<HealthStatus>,
    /// Seconds since 1970.
    started: f64,
    /// Of one that runs.
    figures: Option<Figures>,
}

/// The daemon's own process.
#[derive(Debug, Default)]
struct Process {
    /// The kernel's ticks.
    ticks: u64,
    resident: u64,
    descriptors: usize,
    threads: usize,
}

impl Snapshot {
    async fn take(app: &App) -> Self {
        let worker = app.clone();
        let gathered = tokio::task::spawn_blocking(move || {
            let facts = Facts::gather(&worker.config.data_root);
            let images = (worker.images.list_with_steps(true).len(), worker.images.layers_size());
            (facts, Process::gather(), images, worker.containers.volumes().len())
        });
        let all = app.containers.all();
        let mut containers: Vec<One> = stream::iter(all)
            .map(|container| async move { One::read(app, &container).await })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        containers.sort_by(|one, other| one.labels.cmp(&other.labels));
        let (facts, process, (images, layer_bytes), volumes) = match gathered.await {
            Ok(gathered) => gathered,
            // It was broken off, as the engine stops.
            Err(_) => (Facts::gather(&app.config.data_root), Process::default(), (0, 0), 0),
        };
        let counts = app.containers.counts();
        Self {
            facts,
            process,
            counts: [counts.running, counts.paused, counts.stopped],
            images,
            layer_bytes,
            networks: app.network.networks().len(),
            volumes,
            events: app.events.published(),
            listeners: app.events.listeners(),
            checks: app.containers.checks_made(),
            containers,
        }
    }
}

impl One {
    async fn read(app: &App, container: &Arc<Container>) -> Self {
        let (identity, state) = (container.identity(), container.state());
        let reading = app
            .containers
            .stats(container)
            .await
            .inspect_err(|error| {
                let error = engine_model::chain(error);
                tracing::debug!(container = container.id, error, "Could not read what a container uses");
            })
            .ok();
        let id = container.cgroup().to_string_lossy().into_owned();
        Self {
            labels: vec![
                ("id", id),
                ("name", identity.name.clone()),
                ("image", identity.config.image.clone()),
            ],
            restarts: state.restart_count,
            health: state.health.as_ref().map(|health| health.status),
            started: state.started_at.map_or(0.0, |time| time.as_duration().as_secs_f64()),
            figures: reading.and_then(|reading| reading.figures()),
        }
    }
}

impl Process {
    fn gather() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name of the program, in parentheses, may have anything in it.
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
        Self {
            // proc_pid_stat(5): utime and stime, rss.
            ticks: field(14) + field(15),
            resident: field(24).saturating_mul(rustix::param::page_size() as u64),
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures that are watched need no 16 digits")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Writes one figure after another.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A figure that may go up and down, once for each set of labels.
    fn gauge(&mut self, name: &str, help: &str, samples: &[(Labels, f64)]) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, samples, ConstGauge::new)
    }

    /// A figure that only goes up. The format adds `_total` to its name.
    fn counter(&mut self, name: &str, help: &str, samples: &[(Labels, f64)]) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, ConstCounter::new)
    }

    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: &[(Labels, f64)],
        metric: impl Fn(f64) -> M,
    ) -> fmt::Result {
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            metric(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures that are watched need no 16 digits")]
fn number(value: u64) -> f64 {
    value as f64
}

fn alone(value: usize) -> [(Labels, f64); 1] {
    [(Vec::new(), number(value as u64))]
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.engine(&mut page)?;
        self.process(&mut page)?;
        self.states(&mut page)?;
        self.processors(&mut page)?;
        self.memory(&mut page)?;
        self.devices(&mut page)?;
        self.interfaces(&mut page)
    }
}

impl Snapshot {
    fn engine(&self, page: &mut Page<'_>) -> fmt::Result {
        let facts = &self.facts;
        let labels = vec![
            ("architecture", std::env::consts::ARCH.to_owned()),
            ("daemon_id", facts.id.clone()),
            ("graphdriver", "overlay2".to_owned()),
            ("kernel", rustix::system::uname().release().to_string_lossy().into_owned()),
            ("os", facts.operating_system.clone()),
            ("os_type", "linux".to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        page.gauge("engine_daemon_engine_info", "What this engine is and runs on", &[(labels, 1.0)])?;
        let processors = alone(facts.processors);
        page.gauge("engine_daemon_engine_cpus_cpus", "Processors of the host", &processors)?;
        let memory = [(Vec::new(), number(facts.memory))];
        page.gauge("engine_daemon_engine_memory_bytes", "Memory of the host", &memory)?;
        let states = ["running", "paused", "stopped"].into_iter().zip(self.counts);
        let states: Vec<_> =
            states.map(|(state, count)| (vec![("state", state.to_owned())], number(count as u64))).collect();
        page.gauge("engine_daemon_container_states_containers", "Containers by their states", &states)?;
        page.gauge("engine_images", "Images, with the steps of builds", &alone(self.images))?;
        let layers = [(Vec::new(), number(self.layer_bytes))];
        page.gauge("engine_layers_bytes", "What the layers of all images take on the disk", &layers)?;
        page.gauge("engine_networks", "Networks", &alone(self.networks))?;
        page.gauge("engine_volumes", "Volumes", &alone(self.volumes))?;
        let events = [(Vec::new(), number(self.events))];
        page.counter("engine_daemon_events", "Events since the daemon began", &events)?;
        let listeners = alone(self.listeners);
        page.gauge("engine_daemon_events_subscribers", "Readers of events", &listeners)?;
        let [all, failed] = self.checks.map(|count| [(Vec::new(), number(count))]);
        page.counter("engine_daemon_health_checks", "Health checks since the daemon began", &all)?;
        page.counter("engine_daemon_health_checks_failed", "Those of them that failed", &failed)
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let process = &self.process;
        let spent = [(Vec::new(), number(process.ticks) / number(rustix::param::clock_ticks_per_second()))];
        page.counter("process_cpu_seconds", "Time of processors that the daemon has used", &spent)?;
        let resident = [(Vec::new(), number(process.resident))];
        page.gauge("process_resident_memory_bytes", "Memory that the daemon has", &resident)?;
        page.gauge("process_open_fds", "Files that the daemon has open", &alone(process.descriptors))?;
        page.gauge("process_threads", "Threads of the daemon", &alone(process.threads))
    }

    /// Of each container, running or not.
    fn states(&self, page: &mut Page<'_>) -> fmt::Result {
        let of_all = |value: &dyn Fn(&One) -> f64| -> Vec<(Labels, f64)> {
            self.containers.iter().map(|one| (one.labels.clone(), value(one))).collect()
        };
        page.gauge("container_start_time_seconds", "When it last began", &of_all(&|one| one.started))?;
        page.counter(
            "engine_container_restarts",
            "How often its restart policy has begun it again",
            &of_all(&|one| f64::from(one.restarts)),
        )?;
        let mut health = Vec::new();
        for one in &self.containers {
            for status in HEALTH.into_iter().filter(|_| one.health.is_some()) {
                let mut labels = one.labels.clone();
                labels.push(("status", status.word().to_owned()));
                health.push((labels, f64::from(u8::from(one.health == Some(status)))));
            }
        }
        page.gauge("engine_container_health", "1 for the status that its health checks have come to", &health)
    }

    /// A figure of each container that runs.
    fn each(&self, value: impl Fn(&Figures) -> f64) -> Vec<(Labels, f64)> {
        let running = self.containers.iter().filter_map(|one| Some((one, one.figures.as_ref()?)));
        running.map(|(one, figures)| (one.labels.clone(), value(figures))).collect()
    }

    fn processors(&self, page: &mut Page<'_>) -> fmt::Result {
        let names =
            ["container_cpu_usage_seconds", "container_cpu_user_seconds", "container_cpu_system_seconds"];
        for (at, (name, whose)) in
            names.into_iter().zip(["in all", "by programs", "by the kernel"]).enumerate()
        {
            let help = format!("Time of processors that it has used, {whose}");
            page.counter(name, &help, &self.each(|figures| seconds(figures.processor[at])))?;
        }
        let periods = self.each(|figures| number(figures.throttled[0]));
        page.counter("container_cpu_cfs_periods", "Periods in which its share was counted", &periods)?;
        let throttled = self.each(|figures| number(figures.throttled[1]));
        page.counter("container_cpu_cfs_throttled_periods", "Those in which it was held back", &throttled)?;
        let time = self.each(|figures| seconds(figures.throttled[2]));
        page.counter("container_cpu_cfs_throttled_seconds", "For how long it was held back", &time)
    }

    fn memory(&self, page: &mut Page<'_>) -> fmt::Result {
        for (name, help, value) in [
            (
                "container_memory_usage_bytes",
                "Memory, with what caches files",
                (|all| all.memory) as fn(&Figures) -> u64,
            ),
            (
                "container_memory_working_set_bytes",
                "Memory without what could be given back at once",
                |all| all.working_set,
            ),
            ("container_memory_cache", "Memory that caches files, in bytes", |all| all.cache),
            ("container_memory_rss", "Memory that is in no file, in bytes", |all| all.resident),
            ("container_spec_memory_limit_bytes", "The limit of its memory; 0 is none", |all| {
                all.memory_limit.unwrap_or_default()
            }),
            ("container_processes", "Its processes", |all| all.processes),
        ] {
            page.gauge(name, help, &self.each(|figures| number(value(figures))))?;
        }
        Ok(())
    }

    fn devices(&self, page: &mut Page<'_>) -> fmt::Result {
        for (name, help, value) in [
            (
                "container_fs_reads_bytes",
                "Bytes read from a block device",
                (|all| all.read_bytes) as fn(&Transfers) -> u64,
            ),
            ("container_fs_writes_bytes", "Bytes written to a block device", |all| all.written_bytes),
            ("container_fs_reads", "Reads from a block device", |all| all.reads),
            ("container_fs_writes", "Writes to a block device", |all| all.writes),
        ] {
            let mut samples = Vec::new();
            for one in &self.containers {
                for ((major, minor), transfers) in one.figures.iter().flat_map(|figures| &figures.devices) {
                    let mut labels = one.labels.clone();
                    labels.push(("device", format!("{major}:{minor}")));
                    samples.push((labels, number(value(transfers))));
                }
            }
            page.counter(name, help, &samples)?;
        }
        Ok(())
    }

    fn interfaces(&self, page: &mut Page<'_>) -> fmt::Result {
        let directions = [
            ("receive", "received", (|one: &Interface| one.received) as fn(&Interface) -> Traffic),
            ("transmit", "sent", |one| one.sent),
        ];
        for (direction, done, traffic) in directions {
            for (what, value) in [
                ("bytes", (|one| one.bytes) as fn(&Traffic) -> u64),
                ("packets", |one| one.packets),
                ("errors", |one| one.errors),
                ("packets_dropped", |one| one.dropped),
            ] {
                let mut samples = Vec::new();
                for one in &self.containers {
                    for interface in one.figures.iter().flat_map(|figures| &figures.interfaces) {
                        let mut labels = one.labels.clone();
                        labels.push(("interface", interface.name.clone()));
                        samples.push((labels, number(value(&traffic(interface)))));
                    }
                }
                let name = format!("container_network_{direction}_{what}");
                let help = format!("Of what it has {done}: {}", what.replace('_', " "));
                page.counter(&name, &help, &samples)?;
            }
        }
        Ok(())
    }
}
