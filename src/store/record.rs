//! A host's record: format 4 of `config.json`, which keeps the fields of docker-machine's format 3 that scripts
//! read, and adds the phase, the journal and the pinned SSH host key.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use machine_driver::{Endpoint, Entry, HostId, HostName, SshKey, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Phase, Store, StoreError, Transport, migrate, relocate, text::is_printable, transport};

/// The format that this program writes. docker-machine wrote 0 to 3.
pub const CONFIG_VERSION: u32 = 4;

/// A host as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Record {
    pub config_version: u32,
    /// Always the name of the host's folder.
    pub name: HostName,
    pub id: HostId,
    pub created: Timestamp,
    pub phase: Phase,
    pub driver_name: String,
    /// How its engine is reached, and whom it trusts.
    pub transport: Transport,
    pub driver: DriverRecord,
    /// Which of its driver's places it was to be made in; `None` left it to the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What is about to be made or has been made at the provider.
    #[serde(default)]
    pub journal: Vec<Entry>,
    /// Where it was last known to be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Its last known state.
    #[serde(default = "unknown_state")]
    pub state: State,
    /// The only SSH host keys that are accepted, as lines of `known_hosts` without the host.
    #[serde(default, rename = "SSHHostKeys")]
    pub ssh_host_keys: Vec<String>,
    /// The version of the engine that was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    pub host_options: HostOptions,
    /// The format that was read, if it was an older one.
    #[serde(skip)]
    pub migrated_from: Option<u64>,
}

fn unknown_state() -> State {
    State::None
}

/// The driver's part. The capitalised fields are docker-machine's, for scripts that read them with `inspect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DriverRecord {
    #[serde(rename = "IPAddress", default)]
    pub ip_address: String,
    #[serde(rename = "MachineName", default)]
    pub machine_name: String,
    #[serde(rename = "SSHUser", default)]
    pub ssh_user: String,
    #[serde(rename = "SSHPort", default)]
    pub ssh_port: u16,
    #[serde(rename = "SSHKeyPath", default)]
    pub ssh_key_path: String,
    #[serde(rename = "StorePath", default)]
    pub store_path: PathBuf,
    /// What the driver was configured with.
    #[serde(rename = "Config", default)]
    pub config: Value,
    /// What the driver keeps of its own.
    #[serde(rename = "State", default)]
    pub state: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostOptions {
    pub engine_options: EngineOptions,
    pub swarm_options: SwarmOptions,
    pub auth_options: AuthOptions,
}

/// What the engine is configured with; editing these and running `machine provision` applies them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineOptions {
    /// `key=value`, merged into the engine's configuration.
    #[serde(deserialize_with = "null_is_default")]
    pub arbitrary_flags: Vec<String>,
    /// `KEY=VALUE`
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub insecure_registry: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: Vec<String>,
    pub storage_driver: String,
    pub tls_verify: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub registry_mirror: Vec<String>,
    /// Empty: the engine that travels inside `machine`.
    #[serde(rename = "InstallURL")]
    pub install_url: String,
    /// The digest of what is at that URL; another one is not run.
    #[serde(rename = "InstallSHA256", skip_serializing_if = "String::is_empty")]
    pub install_sha256: String,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            arbitrary_flags: Vec::new(),
            env: Vec::new(),
            insecure_registry: Vec::new(),
            labels: Vec::new(),
            storage_driver: String::new(),
            tls_verify: true,
            registry_mirror: Vec::new(),
            install_url: String::new(),
            install_sha256: String::new(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmOptions {
    pub is_swarm: bool,
    pub master: bool,
    pub host: String,
    pub discovery: String,
}

/// Where the certificates are. All paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthOptions {
    pub cert_dir: PathBuf,
    pub ca_cert_path: PathBuf,
    pub ca_private_key_path: PathBuf,
    pub server_cert_path: PathBuf,
    pub server_key_path: PathBuf,
    pub client_cert_path: PathBuf,
    pub client_key_path: PathBuf,
    #[serde(rename = "ServerCertSANs", deserialize_with = "null_is_default")]
    pub server_cert_sans: Vec<String>,
    pub store_path: PathBuf,
}

/// Go wrote `null` for an empty list.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Record {
    /// A host about to be created.
    pub fn new(
        store: &Store,
        name: HostName,
        driver_name: &str,
        config: Value,
        transport: Transport,
    ) -> Self {
        let auth_options =
            AuthOptions { server_cert_sans: Vec::new(), ..AuthOptions::in_store(store, &name) };
        let host_options = HostOptions { auth_options, ..HostOptions::default() };
        Self {
            config_version: CONFIG_VERSION,
            id: HostId::random(),
            created: Timestamp::now(),
            phase: Phase::Planned,
            driver_name: driver_name.to_owned(),
            transport,
            driver: DriverRecord {
                machine_name: name.to_string(),
                store_path: store.root().to_owned(),
                config,
                ..DriverRecord::default()
            },
            name,
            place: None,
            journal: Vec::new(),
            endpoint: None,
            state: State::None,
            ssh_host_keys: Vec::new(),
            engine_version: None,
            host_options,
            migrated_from: None,
        }
    }

    /// Moves the host into another phase. Who calls this has asked [`Phase::may`] first.
    pub fn enter(&mut self, next: Phase) {
        assert!(self.phase.may_become(next), "no host goes from {:?} to {next:?}", self.phase);
        self.phase = next;
    }

    /// Takes over where the host is reached, with the fields that scripts read.
    pub fn set_endpoint(&mut self, endpoint: Endpoint, folder: &Path) {
        self.driver.ip_address.clone_from(&endpoint.address);
        if let Some(ssh) = &endpoint.ssh {
            self.driver.ssh_user.clone_from(&ssh.user);
            self.driver.ssh_port = ssh.port;
            self.driver.ssh_key_path = match &ssh.key {
                SshKey::Generated => folder.join("id_ed25519").display().to_string(),
                SshKey::File(path) => path.display().to_string(),
                SshKey::Agent => String::new(),
            };
        }
        self.endpoint = Some(endpoint);
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        // Writing plain data with string keys into memory cannot fail.
        self.serialize(&mut serializer).expect("a record is always JSON");
        String::from_utf8(text).expect("JSON is always UTF-8")
    }
}

/// Reads a record of any format up to ours.
pub(super) fn parse(text: &str, name: &HostName, store: &Store, path: &Path) -> Result<Record, StoreError> {
    let malformed = |error| StoreError::malformed(path, &error);
    let mut value: Value = serde_json::from_str(text).map_err(malformed)?;
    let version = value.get("ConfigVersion").and_then(Value::as_u64).unwrap_or(0);
    if version > u64::from(CONFIG_VERSION) {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: CONFIG_VERSION });
    }
    if value.get("DriverName").and_then(Value::as_str).is_none_or(str::is_empty) {
        let nothing = <serde_json::Error as serde::de::Error>::custom("it names no driver");
        return Err(malformed(nothing));
    }
    let mut record = if version < u64::from(CONFIG_VERSION) {
        let mut record = migrate::read(value, version, name, store).map_err(malformed)?;
        record.migrated_from = Some(version);
        record
    } else {
        transport::complete(&mut value, name, store, version);
        serde_json::from_value::<Record>(value).map_err(malformed)?
    };
    record.name = name.clone();
    for (field, text) in record.printed() {
        if !text.chars().all(is_printable) {
            let odd = format!("`{field}` has control characters in it");
            return Err(malformed(serde::de::Error::custom(odd)));
        }
    }
    // Whatever store it was written in: it lies in this one.
    relocate::relocate(&mut record, store);
    record.host_options.auth_options = AuthOptions {
        server_cert_sans: std::mem::take(&mut record.host_options.auth_options.server_cert_sans),
        ..AuthOptions::in_store(store, name)
    };
    Ok(record)
}

impl Record {
    /// The texts that are printed as they are, and what they are called in the record.
    fn printed(&self) -> Vec<(&'static str, &str)> {
        let mut texts = vec![
            ("DriverName", self.driver_name.as_str()),
            ("Driver.IPAddress", &self.driver.ip_address),
            ("Driver.SSHUser", &self.driver.ssh_user),
            ("EngineVersion", self.engine_version.as_deref().unwrap_or_default()),
            ("HostOptions.SwarmOptions.Host", &self.host_options.swarm_options.host),
        ];
        if let Some(endpoint) = &self.endpoint {
            texts.push(("Endpoint.address", &endpoint.address));
            texts.push(("Endpoint.url", endpoint.url.as_deref().unwrap_or_default()));
            if let Some(ssh) = &endpoint.ssh {
                texts.extend([("Endpoint.ssh.host", ssh.host.as_str()), ("Endpoint.ssh.user", &ssh.user)]);
            }
        }
        texts
    }
}

impl AuthOptions {
    /// The paths of a host's certificates, all derived from the store that its record lies in. Nothing of ours reads
    /// them: docker-machine's readers do.
    fn in_store(store: &Store, name: &HostName) -> Self {
        let folder = store.folder(name);
        let certificates = store.certificates();
        let (authority, client) = (certificates.own_authority(), certificates.own_client());
        Self {
            cert_dir: certificates.folder(),
            ca_cert_path: authority.certificate,
            ca_private_key_path: authority.key,
            server_cert_path: folder.join("server.pem"),
            server_key_path: folder.join("server-key.pem"),
            client_cert_path: client.certificate,
            client_key_path: client.key,
            server_cert_sans: Vec::new(),
            store_path: folder,
        }
    }
}
