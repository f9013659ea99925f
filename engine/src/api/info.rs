//! What `docker info` shows.

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::ApiError;
use super::version::ApiVersion;
use crate::app::App;
use crate::config::{Config, Host, Level, Live};
use crate::host::{self, Facts};

pub(super) async fn info(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
) -> Result<Json<Value>, ApiError> {
    let worker = app.clone();
    let (images, facts) = tokio::task::spawn_blocking(move || {
        (worker.images.list_with_steps(true).len(), Facts::gather(&worker.config.data_root))
    })
    .await?;
    let live = app.config.live();
    let mut all = Map::new();
    for part in
        [contents(&app, images), limits(&facts), system(&app, &facts, &live), engine(&app, &facts, &live)]
    {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    if !version.is_from(49) {
        for field in ["AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"] {
            all["RegistryConfig"][field] = Value::Null;
        }
    }
    // What newer clients are no longer told.
    for (field, until) in [("KernelMemory", 42), ("BridgeNfIptables", 50), ("BridgeNfIp6tables", 50)] {
        if version.is_from(until) {
            all.remove(field);
        }
    }
    Ok(Json(Value::Object(all)))
}

fn contents(app: &App, images: usize) -> Value {
    let counts = app.containers.counts();
    json!({
        "Containers": counts.running + counts.paused + counts.stopped,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": images,
    })
}

fn limits(facts: &Facts) -> Value {
    let controllers = facts.controllers;
    json!({
        "MemoryLimit": controllers.memory,
        "SwapLimit": controllers.swap,
        "KernelMemoryTCP": false,
        "KernelMemory": false,
        "CpuCfsPeriod": controllers.cpu,
        "CpuCfsQuota": controllers.cpu,
        "CPUShares": controllers.cpu,
        "CPUSet": controllers.cpuset,
        "PidsLimit": controllers.pids,
        "OomKillDisable": facts.cgroup_version == 1,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": facts.cgroup_version.to_string(),
    })
}

fn system(app: &App, facts: &Facts, live: &Live) -> Value {
    json!({
        "ID": facts.id,
        "Name": facts.host_name,
        "IPv4Forwarding": facts.ip_forwarding,
        "BridgeNfIptables": false,
        "BridgeNfIp6tables": false,
        "Debug": live.log_level == Level::Debug,
        "NFd": facts.open_files,
        "NGoroutines": facts.threads,
        "NEventsListener": app.events.listeners(),
        "SystemTime": Timestamp::now(),
        "KernelVersion": host::kernel_version(),
        "OperatingSystem": facts.operating_system,
        "OSVersion": facts.operating_system_version,
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "NCPU": facts.processors,
        "MemTotal": facts.memory,
    })
}

fn engine(app: &App, facts: &Facts, live: &Live) -> Value {
    let config = &app.config;
    // With the first generation of cgroups, containers share the host's view of them.
    let security: Vec<&str> = [
        Some("name=seccomp,profile=builtin"),
        app.containers.have_own_users().then_some("name=userns"),
        (facts.cgroup_version == 2).then_some("name=cgroupns"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let proxies = &live.registries.proxies;
    json!({
        "Driver": "overlay2",
        "DriverStatus": [
            ["Backing Filesystem", facts.backing_filesystem],
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": engine_logging::DRIVERS,
        },
        "LoggingDriver": live.log_driver,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(&live.registries.mirrors, &live.registries.insecure),
        "GenericResources": null,
        "DockerRootDir": config.data_root,
        "HttpProxy": proxy(proxies.http.as_deref()),
        "HttpsProxy": proxy(proxies.https.as_deref()),
        "NoProxy": proxies.none,
        "Labels": live.labels,
        "ExperimentalBuild": config.experimental,
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Runtimes": {"engine": {"path": "engine", "status": {}}},
        "DefaultRuntime": "engine",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": security,
        "CDISpecDirs": [],
        "Warnings": warnings(app),
    })
}

fn warnings(app: &App) -> Vec<String> {
    let unread = app.quarantine.report().into_iter().map(|line| format!("WARNING: {line}"));
    open_ports(&app.config).into_iter().chain(unread).chain(unconfined()).collect()
}

/// What confines programs on this host, but not containers.
fn unconfined() -> Option<String> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    (enabled.trim() == "Y").then(|| {
        "WARNING: This host has AppArmor; containers run without a profile of it, confined by capabilities, seccomp and \
         namespaces"
            .to_owned()
    })
}

/// Without the password that it may have.
fn proxy(url: Option<&str>) -> String {
    let url = url.unwrap_or_default();
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
    }
}

fn open_ports(config: &Config) -> Vec<String> {
    if config.tls.is_some() {
        return Vec::new();
    }
    let open = config.hosts.iter().filter(|host| matches!(host, Host::Tcp(_)));
    open.map(|host| {
        format!(
            "WARNING: API is accessible on {host} without encryption.\n         Access to the remote API is equivalent \
             to root access on the host."
        )
    })
    .collect()
}

fn registries(mirrors: &[String], insecure: &[String]) -> Value {
    let official = json!({"Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true});
    let mut indexes = Map::from_iter([("docker.io".to_owned(), official)]);
    let mut networks = vec!["127.0.0.0/8"];
    for registry in insecure {
        if registry.contains('/') {
            networks.push(registry);
        } else {
            let entry = json!({"Name": registry, "Mirrors": [], "Secure": false, "Official": false});
            indexes.insert(registry.clone(), entry);
        }
    }
    json!({
        "InsecureRegistryCIDRs": networks,
        "IndexConfigs": indexes,
        "Mirrors": Some(mirrors).filter(|mirrors| !mirrors.is_empty()),
    })
}
