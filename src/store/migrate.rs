//! Reads the records of docker-machine (formats 0 to 3) as ours.

use std::path::PathBuf;

use jiff::Timestamp;
use machine_driver::{Endpoint, HostId, HostName, SshEndpoint, SshKey, State};
use serde_json::{Map, Value, json};

use super::{CONFIG_VERSION, DriverRecord, HostOptions, Phase, Record, Store, transport};

/// A record of an older format, brought up to date. What a driver of another program keeps stays in the driver's
/// configuration, as it was.
pub(super) fn read(
    mut value: Value,
    version: u64,
    name: &HostName,
    store: &Store,
) -> Result<Record, serde_json::Error> {
    if version < 1 {
        nest_flat_fields(&mut value);
    }
    if version < 2 {
        rename_authority_key(&mut value);
    }
    transport::complete(&mut value, name, store, version);
    let transport = serde_json::from_value(value.get("Transport").cloned().unwrap_or(Value::Null))?;
    let driver = value.get("Driver").cloned().unwrap_or(Value::Null);
    let driver_name = text(&value, "DriverName");
    let host_options = value.get("HostOptions").cloned().unwrap_or_else(|| json!({}));
    let mut host_options: HostOptions = serde_json::from_value(host_options)?;
    if host_options.engine_options.install_url == "https://get.docker.com" {
        // docker-machine's default, which installed the engine that the host has already.
        host_options.engine_options.install_url.clear();
    }
    let ssh_key_path = text(&driver, "SSHKeyPath");
    let mut record = Record {
        config_version: CONFIG_VERSION,
        name: name.clone(),
        id: HostId::random(),
        created: Timestamp::UNIX_EPOCH,
        phase: Phase::Ready,
        driver: DriverRecord {
            ip_address: text(&driver, "IPAddress"),
            machine_name: name.to_string(),
            ssh_user: text(&driver, "SSHUser"),
            ssh_port: driver
                .get("SSHPort")
                .and_then(Value::as_u64)
                .and_then(|n| n.try_into().ok())
                .unwrap_or(0),
            ssh_key_path: ssh_key_path.clone(),
            store_path: home_of(&driver, store),
            config: driver.clone(),
            state: Value::Null,
        },
        driver_name,
        place: None,
        transport,
        journal: Vec::new(),
        endpoint: None,
        state: State::None,
        ssh_host_keys: Vec::new(),
        engine_version: None,
        host_options,
        migrated_from: Some(version),
    };
    match record.driver_name.as_str() {
        "none" => adopt_none(&mut record, &driver),
        "generic" => adopt_generic(&mut record, &driver, &ssh_key_path),
        _ => adopt_other(&mut record, &ssh_key_path),
    }
    Ok(record)
}

fn adopt_none(record: &mut Record, driver: &Value) {
    let url = text(driver, "URL");
    let address = url.split("//").last().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    host.trim_matches(['[', ']']).clone_into(&mut record.driver.ip_address);
    record.endpoint = Some(Endpoint {
        address: record.driver.ip_address.clone(),
        engine_port: port.parse().unwrap_or(2376),
        url: Some(url.clone()),
        ssh: None,
        inside: None,
    });
    record.driver.config = json!({ "url": url });
    record.state = State::Running;
}

fn adopt_generic(record: &mut Record, driver: &Value, ssh_key_path: &str) {
    let engine_port =
        driver.get("EnginePort").and_then(Value::as_u64).and_then(|n| n.try_into().ok()).unwrap_or(2376);
    let key = if ssh_key_path.is_empty() { SshKey::Agent } else { SshKey::File(ssh_key_path.into()) };
    let ssh = SshEndpoint {
        host: record.driver.ip_address.clone(),
        port: if record.driver.ssh_port == 0 { 22 } else { record.driver.ssh_port },
        user: if record.driver.ssh_user.is_empty() { "root".into() } else { record.driver.ssh_user.clone() },
        key,
    };
    record.endpoint = Some(Endpoint {
        address: ssh.host.clone(),
        engine_port,
        url: None,
        ssh: Some(ssh.clone()),
        inside: None,
    });
    let mut config = Map::new();
    config.insert("address".into(), json!(ssh.host));
    config.insert("user".into(), json!(ssh.user));
    config.insert("port".into(), json!(ssh.port));
    config.insert("engine_port".into(), json!(engine_port));
    if let SshKey::File(path) = &ssh.key {
        config.insert("key".into(), json!(path));
    }
    record.driver.config = Value::Object(config);
}

/// Where a host of any other driver was last reached; what else its driver keeps is for a driver to read.
fn adopt_other(record: &mut Record, ssh_key_path: &str) {
    let address = record.driver.ip_address.clone();
    if address.is_empty() {
        return;
    }
    let ssh = SshEndpoint {
        host: address.clone(),
        port: if record.driver.ssh_port == 0 { 22 } else { record.driver.ssh_port },
        user: record.driver.ssh_user.clone(),
        key: if ssh_key_path.is_empty() { SshKey::Agent } else { SshKey::File(ssh_key_path.into()) },
    };
    record.endpoint = Some(Endpoint { address, engine_port: 2376, url: None, ssh: Some(ssh), inside: None });
}

/// Format 0 kept everything at the top.
fn nest_flat_fields(value: &mut Value) {
    let Some(top) = value.as_object_mut() else { return };
    let mut auth = Map::new();
    for field in
        ["CaCertPath", "PrivateKeyPath", "ServerCertPath", "ServerKeyPath", "ClientKeyPath", "ClientCertPath"]
    {
        if let Some(found) = top.remove(field) {
            auth.insert(field.to_owned(), found);
        }
    }
    let mut swarm = Map::new();
    for (old, new) in [("SwarmHost", "Host"), ("SwarmMaster", "Master"), ("SwarmDiscovery", "Discovery")] {
        if let Some(found) = top.remove(old) {
            swarm.insert(new.to_owned(), found);
        }
    }
    let options = top.entry("HostOptions").or_insert_with(|| json!({}));
    if let Some(options) = options.as_object_mut() {
        options.insert("AuthOptions".into(), Value::Object(auth));
        options.insert("SwarmOptions".into(), Value::Object(swarm));
    }
}

/// Format 1 called the authority's key `PrivateKeyPath`.
fn rename_authority_key(value: &mut Value) {
    if let Some(auth) = value.pointer_mut("/HostOptions/AuthOptions").and_then(Value::as_object_mut)
        && let Some(path) = auth.remove("PrivateKeyPath")
    {
        auth.insert("CaPrivateKeyPath".into(), path);
    }
}

/// The store that a record was written in.
fn home_of(driver: &Value, store: &Store) -> PathBuf {
    let home = text(driver, "StorePath");
    if home.is_empty() { store.root().to_owned() } else { home.into() }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
