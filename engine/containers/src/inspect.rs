//! A container as inspect shows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine_model::wire::EndpointConfig;
use engine_model::{Endpoint, PublishedPort};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::record::{Identity, MountKind, MountPoint, State, Status};
use super::usage::size_of;
use super::{Container, Containers};

/// What Go writes where no time is set.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NO_TIME.to_owned(), |time| time.to_string())
}

impl Containers {
    /// The answer to `GET /containers/{id}/json`.
    pub fn inspect(&self, container: &Container, size: bool) -> Value {
        let identity = container.identity();
        let state = container.state();
        // What a start makes has no path before the first one.
        let was_begun = state.started_at.is_some() || !state.error.is_empty();
        let file = |name: &str| {
            if was_begun {
                return container.directory.join(name).to_string_lossy().into_owned();
            }
            String::new()
        };
        // Other drivers keep theirs to themselves.
        let has_log = was_begun && identity.host.log_config.r#type == "json-file";
        let log_path = container.log_path().filter(|_| has_log);
        let mut config = json!(identity.config);
        if identity.config.hostname.is_empty() {
            config["Hostname"] = match identity.host.network_mode.strip_prefix("container:") {
                Some(other) => self.find(other).map(|other| hostname(&other)).unwrap_or_default().into(),
                None => hostname(container).into(),
            };
        }
        let mut host = json!(identity.host);
        if let Some(links) = self.shown_links(&identity) {
            host["Links"] = links.into();
        }
        let mut view = json!({
            "Id": container.id,
            "Created": identity.created.to_string(),
            "Path": identity.command.first(),
            "Args": identity.command.get(1..).unwrap_or_default(),
            "State": describe_state(&state),
            "Image": identity.image_id.as_str(),
            "ResolvConfPath": file("resolv.conf"),
            "HostnamePath": file("hostname"),
            "HostsPath": file("hosts"),
            "LogPath": log_path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            "Name": format!("/{}", identity.name),
            "RestartCount": state.restart_count,
            "Driver": "overlay2",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": Some(self.execs_of(&container.id)).filter(|ids| !ids.is_empty()),
            "HostConfig": host,
            "GraphDriver": { "Data": self.layers(container, &identity), "Name": "overlay2" },
            "Mounts": describe_mounts(&identity),
            "Config": config,
            "NetworkSettings": network_settings(container, &identity, &state),
        });
        if size {
            let writable = size_of(&container.directory.join("upper"));
            view["SizeRw"] = writable.into();
            view["SizeRootFs"] = (writable + self.image_size(&identity)).into();
        }
        view
    }

    pub(super) fn image_size(&self, identity: &Identity) -> u64 {
        self.0.images.find(identity.image_id.as_str()).map_or(0, |image| image.size)
    }

    fn layers(&self, container: &Container, identity: &Identity) -> Value {
        let lower = self.0.images.lower_dirs(&identity.image_id).unwrap_or_default();
        let lower: Vec<_> = lower.iter().map(|path| path.to_string_lossy()).collect();
        json!({
            "ID": container.id,
            "LowerDir": lower.join(":"),
            "MergedDir": container.runtime_directory.join(engine_shim::protocol::ROOTFS),
            "UpperDir": container.directory.join("upper"),
            "WorkDir": container.directory.join("work"),
        })
    }
}

/// By which name a container's programs know where they run.
fn hostname(container: &Container) -> String {
    let identity = container.identity();
    if !identity.config.hostname.is_empty() {
        return identity.config.hostname.clone();
    }
    if identity.host.network_mode == "host" {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    container.default_hostname()
}

fn describe_state(state: &State) -> Value {
    let mut view = json!({
        "Status": state.status.word(),
        "Running": state.status.is_alive() || state.status == Status::Restarting,
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.out_of_memory,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
    });
    if let Some(health) = &state.health {
        view["Health"] = health.describe();
    }
    view
}

/// Mount points in the form that inspect and list share. Those of `HostConfig.Tmpfs` are shown there alone.
pub(super) fn describe_mounts(identity: &Identity) -> Vec<Value> {
    let is_of_tmpfs = |point: &&MountPoint| {
        point.kind == MountKind::Tmpfs
            && identity.host.tmpfs.iter().flatten().any(|(path, _)| Path::new(path) == point.destination)
    };
    identity.mounts.iter().filter(|point| !is_of_tmpfs(point)).map(describe_mount).collect()
}

fn describe_mount(point: &MountPoint) -> Value {
    let mut view = Map::new();
    let kind = match point.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    view.insert("Type".to_owned(), kind.into());
    if let Some(name) = &point.name {
        view.insert("Name".to_owned(), name.clone().into());
    }
    view.insert("Source".to_owned(), point.source.to_string_lossy().into());
    view.insert("Destination".to_owned(), point.destination.to_string_lossy().into());
    if point.kind == MountKind::Volume {
        view.insert("Driver".to_owned(), "local".into());
    }
    view.insert("Mode".to_owned(), point.mode.clone().into());
    view.insert("RW".to_owned(), (!point.read_only).into());
    // Nothing is mounted below a tmpfs that others could see.
    let propagation = if point.kind == MountKind::Tmpfs { "" } else { &point.propagation };
    view.insert("Propagation".to_owned(), propagation.into());
    view.into()
}

fn network_settings(container: &Container, identity: &Identity, state: &State) -> Value {
    let first = state.endpoints.iter().find(|endpoint| endpoint.network_name == "bridge");
    let (sandbox, key) = match identity.host.network_mode.as_str() {
        // Another's, which says so itself.
        mode if mode.starts_with("container:") => ("", PathBuf::new()),
        _ if !state.status.is_alive() => ("", PathBuf::new()),
        _ if container.pinned_namespace().is_some() => (container.id.as_str(), container.pin.clone()),
        _ => (container.id.as_str(), format!("/proc/{}/ns/net", state.pid).into()),
    };
    let ipv6 = first.and_then(|endpoint| endpoint.ipv6);
    let mac_address = if identity.host.network_mode == "bridge" { wished_mac_address(identity) } else { "" };
    json!({
        "Bridge": "",
        "SandboxID": sandbox,
        "SandboxKey": key,
        "Ports": port_map(identity, state),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": first.map_or("", |endpoint| &endpoint.endpoint_id),
        "Gateway": first.and_then(|endpoint| endpoint.gateway).map(|address| address.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": ipv6.map(|place| place.address.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |place| place.prefix),
        "IPAddress": first.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": first.map_or(0, |endpoint| endpoint.prefix),
        "IPv6Gateway": ipv6.and_then(|place| place.gateway).map(|address| address.to_string()).unwrap_or_default(),
        "MacAddress": first.map_or(mac_address, |endpoint| &endpoint.mac_address),
        "Networks": networks(identity, state),
    })
}

/// The networks of a container, by name.
pub fn networks(identity: &Identity, state: &State) -> Value {
    let mode = identity.host.network_mode.as_str();
    if mode.starts_with("container:") {
        return json!({});
    }
    let mut networks = Map::new();
    let last = |name: &str| state.last_networks.get(name).map_or("", String::as_str);
    for endpoint in &state.endpoints {
        networks.insert(
            endpoint.network_name.clone(),
            describe_endpoint(identity, &endpoint.network_name, &endpoint.network_id, Some(endpoint)),
        );
    }
    if networks.is_empty() {
        if !identity.left_first_network {
            networks.insert(mode.to_owned(), describe_endpoint(identity, mode, last(mode), None));
        }
        for name in identity.networks.keys().filter(|name| !matches!(name.as_str(), "default")) {
            let planned = || describe_endpoint(identity, name, last(name), None);
            networks.entry(name.clone()).or_insert_with(planned);
        }
    }
    networks.into()
}

/// Of the container as a whole, as older clients wish for it.
fn wished_mac_address(identity: &Identity) -> &str {
    identity.config.mac_address.as_deref().unwrap_or_default()
}

/// What others on a user-defined network find it by.
fn dns_names(identity: &Identity, wish: &EndpointConfig, network: &str) -> Value {
    if network == "bridge" {
        return Value::Null;
    }
    let short = identity.id.get(..12).unwrap_or(&identity.id);
    let hostname = &identity.config.hostname;
    let aliases = wish.aliases.iter().flatten().map(String::as_str);
    let mut names: Vec<&str> = Vec::new();
    for name in std::iter::once(identity.name.as_str()).chain(aliases).chain([short, hostname]) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    json!(names)
}

/// A place on a network that it has been on, if that has an id, and is on, if there is an endpoint.
fn describe_endpoint(
    identity: &Identity,
    network: &str,
    network_id: &str,
    endpoint: Option<&Endpoint>,
) -> Value {
    let mut wish = identity.networks.get(network).cloned().unwrap_or_default();
    if wish.mac_address.is_empty() && network == identity.host.network_mode {
        wished_mac_address(identity).clone_into(&mut wish.mac_address);
    }
    let ipv6 = endpoint.and_then(|endpoint| endpoint.ipv6);
    json!({
        "IPAMConfig": wish.ipam_config,
        "Links": wish.links,
        "Aliases": wish.aliases,
        "MacAddress": endpoint.map_or(wish.mac_address.as_str(), |endpoint| &endpoint.mac_address),
        "DriverOpts": wish.driver_opts,
        "GwPriority": wish.gw_priority,
        "NetworkID": network_id,
        "EndpointID": endpoint.map_or("", |endpoint| &endpoint.endpoint_id),
        "Gateway": endpoint.and_then(|endpoint| endpoint.gateway).map(|address| address.to_string()).unwrap_or_default(),
        "IPAddress": endpoint.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.prefix),
        "IPv6Gateway": ipv6.and_then(|place| place.gateway).map(|address| address.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": ipv6.map(|place| place.address.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |place| place.prefix),
        "DNSNames": if network_id.is_empty() { Value::Null } else { dns_names(identity, &wish, network) },
    })
}

/// `{"80/tcp": [{"HostIp": …, "HostPort": …}]}`, with `null` for ports that are only exposed.
fn port_map(identity: &Identity, state: &State) -> Value {
    if !state.status.is_alive() {
        return json!({});
    }
    let mut ports: BTreeMap<String, Vec<&PublishedPort>> = BTreeMap::new();
    for name in identity.config.exposed_ports.iter().flatten().map(|(name, _)| name) {
        let name = if name.contains('/') { name.clone() } else { format!("{name}/tcp") };
        ports.entry(name).or_default();
    }
    for port in &state.ports {
        ports.entry(format!("{}/{}", port.container_port, port.protocol)).or_default().push(port);
    }
    let bindings = |published: Vec<&PublishedPort>| -> Value {
        if published.is_empty() {
            return Value::Null;
        }
        let describe = |port: &&PublishedPort| json!({ "HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string() });
        published.iter().map(describe).collect()
    };
    Value::Object(ports.into_iter().map(|(name, published)| (name, bindings(published))).collect())
}
