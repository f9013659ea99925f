//! Refuses wishes of a new container that this engine would otherwise drop in silence.

use engine_model::platform::architecture;
use engine_model::wire::{CreateRequest, HostConfig, Mount};
use serde_json::{Map, Value};

use super::ContainerError;

/// The one runtime, as `docker info` shows it.
pub(super) const RUNTIME: &str = "engine";

/// Fields of the host configuration that nothing reads, and the options that fill them.
const UNREAD: [(&str, &str); 8] = [
    ("StorageOpt", "--storage-opt"),
    ("BlkioWeightDevice", "--blkio-weight-device"),
    ("BlkioDeviceReadBps", "--device-read-bps"),
    ("BlkioDeviceWriteBps", "--device-write-bps"),
    ("BlkioDeviceReadIOps", "--device-read-iops"),
    ("BlkioDeviceWriteIOps", "--device-write-iops"),
    ("CpuRealtimePeriod", "--cpu-rt-period"),
    ("CpuRealtimeRuntime", "--cpu-rt-runtime"),
];

/// Names the first option of a request that is not there yet.
pub(super) fn refuse(request: &CreateRequest) -> Result<(), ContainerError> {
    match first(request) {
        Some(option) => Err(ContainerError::Unsupported(option)),
        None => Ok(()),
    }
}

fn first(request: &CreateRequest) -> Option<String> {
    let host = &request.host_config;
    let mut endpoints = request.networking_config.endpoints_config.values().flatten();
    let flags = [
        (!is_empty(host.links.as_ref()), "--link"),
        (endpoints.any(|endpoint| !is_empty(endpoint.links.as_ref())), "--link"),
        (!is_empty(host.device_requests.as_ref()), "--gpus"),
        (request.config.healthcheck.as_ref().is_some_and(probes), "--health-cmd"),
    ];
    let flag = flags.iter().find(|(wanted, _)| *wanted).map(|(_, option)| *option);
    let unread = || {
        let wanted = |(field, _): &&(&str, &str)| host.others.get(*field).is_some_and(says_something);
        UNREAD.iter().find(wanted).map(|(_, option)| *option)
    };
    if let Some(option) = flag.or_else(unread) {
        return Some(format!("`{option}`"));
    }
    if let Some(option) = host.mounts.iter().flatten().find_map(mount_option) {
        return Some(format!("`--mount type=…,{option}`"));
    }
    if let Some(platform) = request.platform.as_deref().filter(|platform| !is_own_platform(platform)) {
        return Some(format!("`--platform {platform}`"));
    }
    first_value(host).map(|(option, value)| format!("`{option} {value}`"))
}

/// The first option of a mount that is not there yet, as `--mount` spells it.
fn mount_option(mount: &Mount) -> Option<String> {
    let wanted = |others: &Map<String, Value>, field: &str| others.get(field).is_some_and(says_something);
    if let Some(driver) = mount.volume_options.as_ref().and_then(|options| options.driver_config.as_ref()) {
        if !matches!(driver.name.as_str(), "" | "local") {
            return Some(format!("volume-driver={}", driver.name));
        }
        // Without them the data would go to another place than its owner thinks.
        if let Some((name, value)) = driver.options.first_key_value() {
            return Some(format!("volume-opt={name}={value}"));
        }
    }
    let bind = mount.bind_options.as_ref().map(|options| &options.others);
    let bind_options = [
        ("ReadOnlyNonRecursive", "bind-recursive=writable"),
        ("ReadOnlyForceRecursive", "bind-recursive=readonly"),
    ];
    let refused = bind_options.iter().find(|(field, _)| bind.is_some_and(|others| wanted(others, field)));
    refused.map(|(_, option)| (*option).to_owned())
}

/// Options of which only some values work.
fn first_value(host: &HostConfig) -> Option<(&'static str, &str)> {
    let joins = |value: &str| value == "host" || value.starts_with("container:");
    let values: [(&str, &str, bool); 7] = [
        ("--runtime", &host.runtime, host.runtime == RUNTIME),
        ("--isolation", &host.isolation, host.isolation.eq_ignore_ascii_case("default")),
        ("--volume-driver", &host.volume_driver, host.volume_driver == "local"),
        ("--pid", &host.pid_mode, joins(&host.pid_mode)),
        (
            "--ipc",
            &host.ipc_mode,
            joins(&host.ipc_mode) || matches!(host.ipc_mode.as_str(), "private" | "shareable"),
        ),
        ("--uts", &host.uts_mode, host.uts_mode == "host"),
        ("--userns", &host.userns_mode, host.userns_mode == "host"),
    ];
    let bad = values.into_iter().find(|(_, value, works)| !value.is_empty() && !works);
    bad.map(|(option, value, _)| (option, value))
}

/// Whether a health check, a client's or an image's, has something to run.
pub(super) fn probes(check: &Value) -> bool {
    let first = check["Test"].as_array().and_then(|test| test.first());
    first.is_some_and(|kind| kind.as_str().is_none_or(|kind| !kind.is_empty() && kind != "NONE"))
}

fn is_empty<T>(list: Option<&Vec<T>>) -> bool {
    list.is_none_or(Vec::is_empty)
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
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

    fn option(body: Value) -> Option<String> {
        first(&serde_json::from_value(body).unwrap())
    }

    #[test]
    fn what_works_or_says_nothing_passes() {
        assert_eq!(option(json!({})), None);
        let host = json!({ "Links": null, "DeviceRequests": [], "StorageOpt": {}, "BlkioDeviceReadBps": [],
            "CpuRealtimePeriod": 0, "BlkioWeight": 100, "CgroupParent": "/x", "Runtime": "engine",
            "Isolation": "default", "VolumeDriver": "local", "PidMode": "host", "IpcMode": "shareable",
            "UTSMode": "host", "UsernsMode": "host", "VolumesFrom": ["other"] });
        assert_eq!(option(json!({ "HostConfig": host, "Healthcheck": { "Test": ["NONE"] } })), None);
        assert_eq!(
            option(json!({ "HostConfig": { "PidMode": "container:a", "IpcMode": "container:a" } })),
            None
        );
    }

    #[test]
    fn the_rest_is_named() {
        let named = |host: Value| option(json!({ "HostConfig": host })).unwrap();
        for (field, name) in UNREAD {
            assert_eq!(named(json!({ field: [{ "Path": "/dev/x" }] })), format!("`{name}`"));
        }
        assert_eq!(named(json!({ "Isolation": "hyperv" })), "`--isolation hyperv`");
        assert_eq!(named(json!({ "PidMode": "shared" })), "`--pid shared`");
        assert_eq!(named(json!({ "UTSMode": "container:a" })), "`--uts container:a`");
        let endpoints = json!({ "EndpointsConfig": { "net": { "Links": ["a:b"] } } });
        assert_eq!(option(json!({ "NetworkingConfig": endpoints })).unwrap(), "`--link`");
    }

    #[test]
    fn options_of_mounts_are_honoured_or_named() {
        let mount = |field: &str, options: Value| {
            let mount = json!({ "Type": "volume", "Source": "data", "Target": "/d", field: options });
            option(json!({ "HostConfig": { "Mounts": [mount] } }))
        };
        let driver = |driver: Value| mount("VolumeOptions", json!({ "DriverConfig": driver }));
        assert_eq!(driver(json!({ "Name": "local", "Options": null })), None);
        assert_eq!(driver(Value::Null), None);
        assert_eq!(driver(json!({ "Name": "nfs" })).unwrap(), "`--mount type=…,volume-driver=nfs`");
        let nfs = json!({ "Options": { "type": "nfs" } });
        assert_eq!(driver(nfs).unwrap(), "`--mount type=…,volume-opt=type=nfs`");
        assert_eq!(mount("BindOptions", json!({ "ReadOnlyForceRecursive": false })), None);
        let forced = mount("BindOptions", json!({ "ReadOnlyForceRecursive": true }));
        assert_eq!(forced.unwrap(), "`--mount type=…,bind-recursive=readonly`");
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
