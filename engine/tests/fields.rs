//! Nothing that a client asks for is dropped in silence: every field of the published API description is refused by name or has
//! an effect that a test sees.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bollard_stubs::models::{
    ContainerCreateBody, ContainerUpdateBody, ExecConfig, ExecStartConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use serde_json::{Value, json};

mod harness;

#[path = "fields/effects.rs"]
mod effects;
#[path = "fields/parameters.rs"]
mod parameters;
#[path = "fields/readme.rs"]
mod readme;
#[path = "fields/table.rs"]
mod table;
#[path = "fields/walk.rs"]
mod walk;

use harness::{Answer, Engine};
use table::Fate;

fn engine() -> Engine {
    let engine = Engine::start();
    engine.load_busybox();
    engine
}

fn post(engine: &Engine, path: &str, body: &Value) -> Answer {
    engine.http("POST", path, body.to_string().as_bytes())
}

/// Fields that the table does not know, and rows of the table that no field has any more.
#[track_caller]
fn compare(fields: &BTreeMap<String, Value>, rows: &[(&str, Fate)], older: &[&str]) {
    let known: BTreeMap<&str, Fate> = rows.iter().copied().collect();
    assert_eq!(known.len(), rows.len(), "a field has one row");
    let is_in_a_refused_one = |path: &str| {
        path.match_indices('.').any(|(end, _)| matches!(known.get(&path[..end]), Some(Fate::Refused(_))))
    };
    let unknown: Vec<_> = fields
        .keys()
        .filter(|path| !known.contains_key(path.as_str()) && !is_in_a_refused_one(path))
        .collect();
    assert!(unknown.is_empty(), "what becomes of these fields? {unknown:#?}");
    let is_there = |row: &str| {
        let below = format!("{row}.");
        fields.keys().any(|path| path == row || path.starts_with(&below))
    };
    let gone: Vec<_> = known.keys().filter(|row| !is_there(row) && !older.contains(*row)).collect();
    assert!(gone.is_empty(), "no field has these names: {gone:#?}");
}

#[test]
fn every_field_has_a_fate() {
    let fields = walk::fields::<ContainerCreateBody>();
    assert!(fields.len() > 130, "the walk has found too little: {fields:#?}");
    compare(&fields, table::CREATE, &table::OLDER);
    compare(&walk::fields::<ContainerUpdateBody>(), table::UPDATE, &[]);
    compare(&walk::fields::<ExecConfig>(), table::EXEC, &[]);
    compare(&walk::fields::<ExecStartConfig>(), table::EXEC_START, &[]);
    compare(&walk::fields::<NetworkCreateRequest>(), table::NETWORK, &[]);
    compare(&walk::fields::<NetworkConnectRequest>(), table::CONNECT, &[]);
    compare(&walk::fields::<NetworkDisconnectRequest>(), table::DISCONNECT, &[]);
    compare(&walk::fields::<VolumeCreateRequest>(), table::VOLUME, &[]);
}

#[test]
fn every_parameter_has_a_fate() {
    let published = parameters::published();
    let names = |(call, names): (&str, Vec<&str>)| {
        names.into_iter().map(|name| (format!("{call}.{name}"), Value::Null)).collect::<Vec<_>>()
    };
    let published: BTreeMap<String, Value> = published.into_iter().flat_map(names).collect();
    assert!(published.len() > 60, "the walk has found too little: {published:#?}");
    compare(&published, parameters::PARAMETERS, &[]);
}

#[test]
fn parameters_that_are_not_followed_are_refused_by_name() {
    let engine = engine();
    let body = json!({ "Image": "busybox", "User": "nobody" });
    assert_eq!(post(&engine, "/containers/create?name=user", &body).status, 201);
    for (parameter, fate) in parameters::PARAMETERS {
        let Fate::Refused(request) = fate else { continue };
        let (method, path) = request.split_once(' ').unwrap();
        let answer = engine.http(method, path, body.to_string().as_bytes());
        let name = parameter.rsplit('.').next().unwrap();
        assert!(matches!(answer.status, 400 | 501), "{parameter}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(name), "{parameter} is not named: {}", answer.text());
    }
    assert_eq!(engine.docker(["images", "-q"]).ok().lines().count(), 1);
    assert_eq!(engine.docker(["ps", "-aq"]).ok().lines().count(), 1);
    let own = engine.docker(["version", "-f", "{{.Server.Arch}}"]).ok();
    let own = format!("%7B%22os%22:%22linux%22,%22architecture%22:%22{}%22%7D", own.trim());
    assert_eq!(engine.http("GET", &format!("/images/busybox/json?platform={own}"), b"").status, 200);
    assert_eq!(engine.http("GET", "/containers/json?all=1&newer=2", b"").status, 200);
    assert!(
        engine.log().contains("the parameter `newer`") && !engine.log().contains("`all`"),
        "{}",
        engine.log()
    );
}

/// The names of all tests of the engine.
fn tests() -> BTreeSet<String> {
    fn visit(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    let name = line.trim_start_matches("async ").strip_prefix("fn ");
                    if let (true, Some(name)) = (is_test, name) {
                        found.insert(name.split('(').next().unwrap().to_owned());
                    }
                    is_test =
                        matches!(line, "#[test]" | "#[tokio::test]") || (is_test && line.starts_with("#["));
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(&PathBuf::from(env!("CARGO_MANIFEST_DIR")), &mut found);
    found
}

#[test]
fn every_effect_has_a_test() {
    let tests = tests();
    for (field, fate) in table::ALL.into_iter().flat_map(|(_, rows)| rows).chain(parameters::PARAMETERS) {
        match fate {
            Fate::Effect(name) | Fate::Partly(name, _) => {
                assert!(tests.contains(*name), "`{field}`: there is no test `{name}`");
            }
            Fate::Told(why) => assert!(!why.is_empty(), "`{field}`: why does nothing come of it?"),
            Fate::Refused(_) => {}
        }
    }
}

/// Puts a value where its path leads.
fn place(body: &mut Value, path: &str, value: Value) {
    let mut at = body;
    for name in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = at.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
    }
    *at = value;
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let engine = engine();
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] });
    assert_eq!(post(&engine, "/containers/create?name=box", &body).status, 201);
    engine.docker(["start", "box"]).ok();
    let calls = [
        ("/containers/create", table::CREATE),
        ("/containers/box/update", table::UPDATE),
        ("/containers/box/exec", table::EXEC),
        ("/networks/create", table::NETWORK),
        ("/networks/none/connect", table::CONNECT),
        ("/volumes/create", table::VOLUME),
    ];
    let rows = calls.into_iter().flat_map(|(path, rows)| rows.iter().map(move |row| (path, row)));
    for (path, (field, fate)) in rows {
        let (Fate::Refused(request) | Fate::Partly(_, request)) = fate else { continue };
        let mut body: Value = serde_json::from_str(request).unwrap();
        if path == "/containers/create" {
            body["Image"] = json!("busybox");
        }
        let answer = post(&engine, path, &body);
        let name = field.rsplit('.').find(|name| *name != "*").unwrap();
        let message = answer.text();
        // A plug-in that is not there is not found.
        let is_refusal = matches!((answer.status, *field), (400 | 501, _) | (404, "Driver"));
        assert!(is_refusal, "{field}: {} {message}", answer.status);
        let is_named = message.contains(name)
            || message.contains(&name.to_lowercase())
            || REFUSED_BY_VALUE.iter().any(|(of, value)| of == field && message.contains(value));
        assert!(is_named, "{field} is not named: {message}");
    }
    assert_eq!(engine.docker(["ps", "-aq"]).ok().lines().count(), 1, "nothing was made");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "");
    assert_eq!(engine.docker(["network", "ls", "-q"]).ok().lines().count(), 3);
}

/// Refusals that name the value, in dockerd's words.
const REFUSED_BY_VALUE: [(&str, &str); 9] = [
    ("DetachKeys", "Invalid detach keys provided"),
    ("Driver", "plugin"),
    ("HostConfig.Binds", "propagation `rshared`"),
    ("HostConfig.LogConfig.Config", "unknown log opt 'colour'"),
    ("HostConfig.LogConfig.Type", "no log driver named 'splunk'"),
    ("HostConfig.Mounts.Type", "`type=cluster"),
    ("HostConfig.Mounts.BindOptions.Propagation", "`bind-propagation=rshared`"),
    ("HostConfig.StorageOpt", "Unknown option colour"),
    ("HostConfig.UsernsMode", "invalid USER mode: private"),
];

#[test]
fn values_that_say_nothing_are_taken() {
    let engine = engine();
    let fields = walk::fields::<ContainerCreateBody>();
    let (mut nulls, mut zeros) = (json!({}), json!({}));
    let (mut mount, mut endpoint) = (json!({}), json!({}));
    for (path, zero) in &fields {
        if let Some(below) = path.strip_prefix("HostConfig.Mounts.") {
            place(&mut mount, below, zero.clone());
        } else if let Some(below) = path.strip_prefix("NetworkingConfig.EndpointsConfig.*.") {
            place(&mut endpoint, below, zero.clone());
        } else {
            // Of lists that have fields in them, the list itself.
            let list = ["BlkioWeightDevice", "DeviceRequests", "Devices", "Ulimits", "PortBindings"];
            let is_list = |part: &str| list.contains(&part) || part.starts_with("BlkioDevice");
            let parts: Vec<&str> = path.split('.').collect();
            let end = parts.iter().position(|part| is_list(part)).map_or(parts.len(), |index| index + 1);
            let inside = end < parts.len();
            let empty = if path.contains("PortBindings") { json!({}) } else { json!([]) };
            place(&mut nulls, &parts[..end].join("."), Value::Null);
            place(&mut zeros, &parts[..end].join("."), if inside { empty } else { zero.clone() });
        }
    }
    // Without these there is no container and no mount; and a swappiness of 0 is one.
    for body in [&mut nulls, &mut zeros] {
        body["Image"] = json!("busybox");
    }
    zeros["HostConfig"]["MemorySwappiness"] = json!(-1);
    mount["Type"] = json!("bind");
    mount["Source"] = json!("/tmp");
    mount["Target"] = json!("/x");
    zeros["HostConfig"]["Mounts"] = json!([mount]);
    zeros["NetworkingConfig"]["EndpointsConfig"] = json!({ "bridge": endpoint });
    let defaults = json!({ "Image": "busybox", "HostConfig": { "Runtime": "engine", "Isolation": "default",
        "KernelMemory": -1, "MemorySwap": -1, "PidsLimit": -1, "OomKillDisable": false, "UsernsMode": "host",
        "CgroupnsMode": "host", "SecurityOpt": ["apparmor=unconfined", "label=disable"],
        "LogConfig": { "Type": "json-file", "Config": { "mode": "blocking", "compress": "false" } } } });
    for body in [nulls, zeros, defaults] {
        let answer = post(&engine, "/containers/create", &body);
        assert_eq!(answer.status, 201, "{}\n{body:#}", answer.text());
        assert_eq!(answer.json()["Warnings"], json!([]), "{body:#}");
    }
}

#[test]
fn values_that_say_nothing_are_taken_by_the_other_calls() {
    let engine = engine();
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"] });
    assert_eq!(post(&engine, "/containers/create?name=box", &body).status, 201);
    engine.docker(["start", "box"]).ok();
    let update = json!({ "CpuShares": 0, "Memory": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioDeviceReadBps": null,
        "CpuPeriod": 0, "Devices": [], "KernelMemory": 0, "MemorySwappiness": -1, "OomKillDisable": null, "PidsLimit": null,
        "Ulimits": null, "RestartPolicy": { "Name": "", "MaximumRetryCount": 0 }, "Init": false });
    let exec = json!({ "Cmd": ["true"], "User": "", "Privileged": false, "Tty": false, "ConsoleSize": null, "DetachKeys": "",
        "Env": null, "WorkingDir": "" });
    let network = json!({ "Name": "n", "CheckDuplicate": true, "Driver": "", "Scope": "local", "EnableIPv6": false,
        "EnableIPv4": true, "IPAM": { "Driver": "default", "Options": {}, "Config": [] }, "Internal": false, "Ingress": false,
        "ConfigOnly": false, "ConfigFrom": { "Network": "" }, "Options": {}, "Labels": null });
    let connect = json!({ "Container": "box", "EndpointConfig": { "IPAMConfig": { "IPv4Address": "", "IPv6Address": "",
        "LinkLocalIPs": null }, "Links": [], "DriverOpts": {}, "GwPriority": 0, "MacAddress": "" } });
    let volume =
        json!({ "Name": "", "Driver": "local", "DriverOpts": {}, "Labels": null, "ClusterVolumeSpec": null });
    for (path, body, status) in [
        ("/containers/box/update", update, 200),
        ("/containers/box/exec", exec, 201),
        ("/networks/create", network, 201),
        ("/networks/n/connect", connect, 200),
        ("/volumes/create", volume, 201),
    ] {
        let answer = post(&engine, path, &body);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(!answer.text().contains("does not know"), "{path}: {}", answer.text());
    }
    assert!(!engine.log().contains("does not know"), "{}", engine.log());
    // Newer fields are said in the answer where it has a place for that, and in the log.
    let answer = post(&engine, "/networks/create", &json!({ "Name": "later", "Newer": 1 }));
    assert!(answer.json()["Warning"].as_str().unwrap().contains("`Newer`"), "{}", answer.text());
    let answer = post(&engine, "/containers/box/update", &json!({ "Latest": 1 }));
    assert!(answer.json()["Warnings"].to_string().contains("`Latest`"), "{}", answer.text());
    assert_eq!(post(&engine, "/volumes/create", &json!({ "Last": 1 })).status, 201);
    assert!(engine.log().contains("`Last`"), "{}", engine.log());
}

#[test]
fn fields_that_are_not_known_yet_are_warned_of() {
    let engine = engine();
    let body = json!({ "Image": "busybox", "Later": 1, "HostConfig": { "Newer": {}, "Mounts": [
        { "Type": "volume", "Target": "/x", "VolumeOptions": { "Newest": true } } ] } });
    let answer = post(&engine, "/containers/create", &body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let warnings = answer.json()["Warnings"].to_string();
    for field in ["`Later`", "`HostConfig.Newer`", "`HostConfig.Mounts.0.VolumeOptions.Newest`"] {
        assert!(warnings.contains(field), "{field}: {warnings}");
    }
}
