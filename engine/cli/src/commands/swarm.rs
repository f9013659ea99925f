//! `swarm`: a cluster, as far as the daemon has one.

use std::io::{self, BufRead as _};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Client, Target};
use crate::create::invalid;
use crate::failure::{Failure, Outcome};
use crate::{output, units};

/// The port of a manager when none is given.
const PORT: u16 = 2377;

/// Manage Swarm
#[derive(Debug, Subcommand)]
pub(crate) enum Swarm {
    /// Display and rotate the root CA
    Ca(Ca),
    /// Initialize a swarm
    Init(Init),
    /// Join a swarm as a node and/or manager
    Join(Join),
    /// Manage join tokens
    JoinToken(JoinToken),
    /// Leave the swarm
    Leave(Leave),
    /// Unlock swarm
    Unlock,
    /// Manage the unlock key
    UnlockKey(UnlockKey),
    /// Update the swarm
    Update(Update),
}

/// The settings that `init` and `update` share.
#[derive(Args, Debug)]
pub(crate) struct Settings {
    /// Validity of the nodes' certificates
    #[arg(long, value_name = "duration")]
    cert_expiry: Option<String>,
    /// Time between heartbeats
    #[arg(long, value_name = "duration")]
    dispatcher_heartbeat: Option<String>,
    /// Other authorities that sign certificates
    #[arg(long, value_name = "external-ca")]
    external_ca: Vec<String>,
    /// Number of older snapshots to keep
    #[arg(long, value_name = "uint")]
    max_snapshots: Option<u64>,
    /// Log entries between snapshots
    #[arg(long, value_name = "uint")]
    snapshot_interval: Option<u64>,
    /// Number of ended tasks to remember
    #[arg(long, value_name = "int")]
    task_history_limit: Option<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Address for the other nodes (format: `"<ip|interface>[:port]"`)
    #[arg(long, value_name = "string", default_value = "")]
    advertise_addr: String,
    /// Lock managers, so that a key is needed to start them
    #[arg(long)]
    autolock: bool,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_name = "string", default_value = "active")]
    availability: String,
    /// Address or interface for the containers' traffic
    #[arg(long, value_name = "string", default_value = "")]
    data_path_addr: String,
    /// Port of the containers' traffic (1024 to 49151)
    #[arg(long, value_name = "uint32", default_value_t = 0)]
    data_path_port: u32,
    /// Address pools in CIDR form
    #[arg(long, value_name = "ipNetSlice", value_delimiter = ',')]
    default_addr_pool: Vec<String>,
    /// Mask of the subnets taken from the pools
    #[arg(long, value_name = "uint32", default_value_t = 24)]
    default_addr_pool_mask_length: u32,
    /// Make a new cluster of what this node knows
    #[arg(long)]
    force_new_cluster: bool,
    /// Address to listen on (format: `"<ip|interface>[:port]"`)
    #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Join {
    /// Address for the other nodes (format: `"<ip|interface>[:port]"`)
    #[arg(long, value_name = "string", default_value = "")]
    advertise_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_name = "string", default_value = "active")]
    availability: String,
    /// Address or interface for the containers' traffic
    #[arg(long, value_name = "string", default_value = "")]
    data_path_addr: String,
    /// Address to listen on (format: `"<ip|interface>[:port]"`)
    #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// The token that lets a node in
    #[arg(long, value_name = "string", default_value = "")]
    token: String,
    #[arg(value_name = "HOST:PORT")]
    remote: String,
}

#[derive(Args, Debug)]
pub(crate) struct JoinToken {
    /// Only display the token
    #[arg(long, short)]
    quiet: bool,
    /// Make a new one
    #[arg(long)]
    rotate: bool,
    #[arg(value_name = "worker|manager")]
    role: String,
}

#[derive(Args, Debug)]
pub(crate) struct Leave {
    /// Leave in any case
    #[arg(long, short)]
    force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Whether managers are locked (true|false)
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    autolock: Option<bool>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
#[expect(clippy::struct_field_names, reason = "They are the names of the stock client's flags")]
pub(crate) struct Ca {
    /// The root certificate to use, as a PEM file
    #[arg(long, value_name = "pem-file")]
    ca_cert: Option<String>,
    /// The root key to use, as a PEM file
    #[arg(long, value_name = "pem-file")]
    ca_key: Option<String>,
    /// Do not wait for the rotation
    #[arg(long, short)]
    detach: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    /// Make a new root certificate, or take the given one
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct UnlockKey {
    /// Only display the key
    #[arg(long, short)]
    quiet: bool,
    /// Make a new one
    #[arg(long)]
    rotate: bool,
}

pub(crate) async fn run(client: &Client, command: Swarm) -> Outcome {
    match command {
        Swarm::Init(options) => init(client, options).await,
        Swarm::Join(options) => join(client, options).await,
        Swarm::JoinToken(options) => join_token(client, options).await,
        Swarm::Leave(options) => {
            let target = Target::new(["swarm", "leave"]).with_flag("force", options.force);
            client.post(&target, None).await?;
            output::line("Node left the swarm.")
        }
        Swarm::Update(options) => update(client, options).await,
        Swarm::Ca(options) => ca(client, options).await,
        Swarm::Unlock => unlock(client).await,
        Swarm::UnlockKey(options) => unlock_key(client, options).await,
    }
}

fn availability(text: &str) -> Outcome<&str> {
    match text {
        "active" | "pause" | "drain" => Ok(text),
        _ => Err(Failure::refused(format!(
            "invalid availability {text:?}, only active, pause and drain are supported"
        ))),
    }
}

impl Settings {
    /// Whether anything was asked for.
    fn is_empty(&self) -> bool {
        self.cert_expiry.is_none()
            && self.dispatcher_heartbeat.is_none()
            && self.external_ca.is_empty()
            && self.max_snapshots.is_none()
            && self.snapshot_interval.is_none()
            && self.task_history_limit.is_none()
    }

    /// Writes what was asked for into a specification.
    fn apply(&self, specification: &mut Value) -> Outcome {
        let duration = |text: &Option<String>, flag: &str| match text {
            None => Ok(None),
            Some(text) => {
                units::parse_duration(text).map(Some).map_err(|message| invalid(text, flag, message))
            }
        };
        if let Some(expiry) = duration(&self.cert_expiry, "--cert-expiry")? {
            specification["CAConfig"]["NodeCertExpiry"] = json!(expiry);
        }
        if let Some(period) = duration(&self.dispatcher_heartbeat, "--dispatcher-heartbeat")? {
            specification["Dispatcher"]["HeartbeatPeriod"] = json!(period);
        }
        if let Some(snapshots) = self.max_snapshots {
            specification["Raft"]["KeepOldSnapshots"] = json!(snapshots);
        }
        if let Some(interval) = self.snapshot_interval {
            specification["Raft"]["SnapshotInterval"] = json!(interval);
        }
        if let Some(limit) = self.task_history_limit {
            specification["Orchestration"]["TaskHistoryRetentionLimit"] = json!(limit);
        }
        if !self.external_ca.is_empty() {
            let authorities = self.external_ca.iter().map(|text| external_authority(text));
            specification["CAConfig"]["ExternalCAs"] = Value::Array(authorities.collect::<Outcome<_>>()?);
        }
        Ok(())
    }
}

/// `protocol=cfssl,url=https://…[,cacert=file]`.
fn external_authority(text: &str) -> Outcome<Value> {
    let mut authority = json!({"Options": {}});
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            invalid(text, "--external-ca", format!("invalid field '{field}' must be a key=value pair"))
        })?;
        match key.to_lowercase().as_str() {
            "protocol" => authority["Protocol"] = json!(value),
            "url" => authority["URL"] = json!(value),
            "cacert" => authority["CACert"] = json!(pem(value)?),
            other => authority["Options"][other] = json!(value),
        }
    }
    if authority["Protocol"].is_null() || authority["URL"].is_null() {
        return Err(invalid(
            text,
            "--external-ca",
            "the external-ca option needs a protocol= and a url= parameter",
        ));
    }
    Ok(authority)
}

fn pem(path: &str) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|source| Failure::ReadFile { path: path.to_owned(), source })
}

async fn init(client: &Client, options: Init) -> Outcome {
    let mut specification = json!({
        "Labels": null, "Orchestration": {}, "Raft": {"ElectionTick": 0, "HeartbeatTick": 0}, "Dispatcher": {},
        "CAConfig": {}, "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": options.autolock},
    });
    options.settings.apply(&mut specification)?;
    let body = json!({
        "ListenAddr": with_port(&options.listen_addr),
        "AdvertiseAddr": options.advertise_addr,
        "DataPathAddr": options.data_path_addr,
        "DataPathPort": options.data_path_port,
        "ForceNewCluster": options.force_new_cluster,
        "Spec": specification,
        "AutoLockManagers": options.autolock,
        "Availability": availability(&options.availability)?,
        "DefaultAddrPool": options.default_addr_pool,
        "SubnetSize": options.default_addr_pool_mask_length,
    });
    let answer = client.post(&Target::new(["swarm", "init"]), Some(&body)).await?;
    let node = answer.as_str().unwrap_or_default();
    output::line(format!("Swarm initialized: current node ({node}) is now a manager.\n"))?;
    print_join_command(client, node, "worker").await?;
    output::line(
        "To add a manager to this swarm, run 'docker swarm join-token manager' and follow the instructions.\n",
    )?;
    if options.autolock {
        let key = client.get(&Target::new(["swarm", "unlockkey"])).await?;
        print_unlock_command(&key)?;
    }
    Ok(())
}

fn with_port(address: &str) -> String {
    let has_port =
        address.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    if has_port { address.to_owned() } else { format!("{address}:{PORT}") }
}

async fn print_join_command(client: &Client, node: &str, role: &str) -> Outcome {
    let node = client.get(&Target::new(["nodes", node])).await?;
    let swarm = client.get(&Target::new(["swarm"])).await?;
    let token = token(&swarm, role);
    let address = node["ManagerStatus"]["Addr"].as_str().unwrap_or_default();
    output::line(format!(
        "To add a {role} to this swarm, run the following command:\n\n    docker swarm join --token {token} {address}\n"
    ))
}

fn token<'a>(swarm: &'a Value, role: &str) -> &'a str {
    let field = if role == "manager" { "Manager" } else { "Worker" };
    swarm["JoinTokens"][field].as_str().unwrap_or_default()
}

async fn join(client: &Client, options: Join) -> Outcome {
    let body = json!({
        "ListenAddr": with_port(&options.listen_addr),
        "AdvertiseAddr": options.advertise_addr,
        "DataPathAddr": options.data_path_addr,
        "RemoteAddrs": [options.remote],
        "JoinToken": options.token,
        "Availability": availability(&options.availability)?,
    });
    client.post(&Target::new(["swarm", "join"]), Some(&body)).await?;
    let info = client.get(&Target::new(["info"])).await?;
    let manager = info["Swarm"]["ControlAvailable"] == json!(true);
    output::line(format!("This node joined a swarm as a {}.", if manager { "manager" } else { "worker" }))
}

async fn join_token(client: &Client, options: JoinToken) -> Outcome {
    let role = options.role.as_str();
    if !matches!(role, "worker" | "manager") {
        return Err(Failure::refused(format!("unknown role {role}")));
    }
    let mut swarm = client.get(&Target::new(["swarm"])).await?;
    if options.rotate {
        let flag = if role == "manager" { "rotateManagerToken" } else { "rotateWorkerToken" };
        client.post(&change(&swarm).with(flag, "true"), Some(&swarm["Spec"])).await?;
        if !options.quiet {
            output::line(format!("Successfully rotated {role} join token.\n"))?;
        }
        swarm = client.get(&Target::new(["swarm"])).await?;
    }
    if options.quiet {
        return output::line(token(&swarm, role));
    }
    let info = client.get(&Target::new(["info"])).await?;
    print_join_command(client, info["Swarm"]["NodeID"].as_str().unwrap_or_default(), role).await
}

/// Where to change a swarm that is in the state in which we saw it.
fn change(swarm: &Value) -> Target {
    Target::new(["swarm", "update"]).with("version", &swarm["Version"]["Index"].to_string())
}

async fn update(client: &Client, options: Update) -> Outcome {
    if options.settings.is_empty() && options.autolock.is_none() {
        return Err(Failure::refused("there is nothing to update; see 'docker swarm update --help'"));
    }
    let swarm = client.get(&Target::new(["swarm"])).await?;
    let mut specification = swarm["Spec"].clone();
    let locked_before = specification["EncryptionConfig"]["AutoLockManagers"] == json!(true);
    options.settings.apply(&mut specification)?;
    if let Some(autolock) = options.autolock {
        specification["EncryptionConfig"]["AutoLockManagers"] = json!(autolock);
    }
    client.post(&change(&swarm), Some(&specification)).await?;
    output::line("Swarm updated.")?;
    if options.autolock == Some(true) && !locked_before {
        let key = client.get(&Target::new(["swarm", "unlockkey"])).await?;
        print_unlock_command(&key)?;
    }
    Ok(())
}

async fn ca(client: &Client, options: Ca) -> Outcome {
    let swarm = client.get(&Target::new(["swarm"])).await?;
    if !options.rotate {
        if options.ca_cert.is_some() || options.ca_key.is_some() || !options.settings.is_empty() {
            return Err(Failure::refused("the options of a rotation need --rotate"));
        }
        return output::line(swarm["TLSInfo"]["TrustRoot"].as_str().unwrap_or_default().trim_end());
    }
    let mut specification = swarm["Spec"].clone();
    options.settings.apply(&mut specification)?;
    match (&options.ca_cert, &options.ca_key) {
        (Some(certificate), key) => {
            specification["CAConfig"]["SigningCACert"] = json!(pem(certificate)?);
            specification["CAConfig"]["SigningCAKey"] = match key {
                Some(key) => json!(pem(key)?),
                None => json!(""),
            };
        }
        (None, Some(_)) => return Err(Failure::refused("the --ca-key option needs --ca-cert")),
        (None, None) => {
            let rotations = specification["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0);
            specification["CAConfig"]["ForceRotate"] = json!(rotations + 1);
            specification["CAConfig"]["SigningCACert"] = json!("");
            specification["CAConfig"]["SigningCAKey"] = json!("");
        }
    }
    client.post(&change(&swarm), Some(&specification)).await?;
    if options.detach {
        return Ok(());
    }
    loop {
        let swarm = client.get(&Target::new(["swarm"])).await?;
        if swarm["RootRotationInProgress"] != json!(true) {
            return output::line(swarm["TLSInfo"]["TrustRoot"].as_str().unwrap_or_default().trim_end());
        }
        if !options.quiet {
            output::say("The nodes get new certificates …");
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn unlock(client: &Client) -> Outcome {
    let info = client.get(&Target::new(["info"])).await?;
    match info["Swarm"]["LocalNodeState"].as_str() {
        Some("inactive") => return Err(Failure::refused("Error: This node is not part of a swarm")),
        Some("locked") => {}
        _ => return Err(Failure::refused("Error: swarm is not locked")),
    }
    output::raw("Enter unlock key: ")?;
    let mut key = String::new();
    io::stdin().lock().read_line(&mut key).map_err(Failure::Input)?;
    let body = json!({"UnlockKey": key.trim()});
    client.post(&Target::new(["swarm", "unlock"]), Some(&body)).await.map(|_| ())
}

fn print_unlock_command(key: &Value) -> Outcome {
    let key = key["UnlockKey"].as_str().unwrap_or_default();
    output::line(format!(
        "To unlock a swarm manager after it restarts, run the `docker swarm unlock`\ncommand and provide the following key:\n\n    {key}\n\nRemember to store this key in a password manager, since without it you\nwill not be able to restart the manager."
    ))
}

async fn unlock_key(client: &Client, options: UnlockKey) -> Outcome {
    if options.rotate {
        let swarm = client.get(&Target::new(["swarm"])).await?;
        if swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] != json!(true) {
            return Err(Failure::refused("cannot rotate because autolock is not turned on"));
        }
        client.post(&change(&swarm).with("rotateManagerUnlockKey", "true"), Some(&swarm["Spec"])).await?;
        if !options.quiet {
            output::line("Successfully rotated manager unlock key.\n")?;
        }
    }
    let key = client.get(&Target::new(["swarm", "unlockkey"])).await?;
    match key["UnlockKey"].as_str().filter(|text| !text.is_empty()) {
        None => Err(Failure::refused("no unlock key is set")),
        Some(text) if options.quiet => output::line(text),
        Some(_) => print_unlock_command(&key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_port() {
        assert_eq!(with_port("0.0.0.0:2377"), "0.0.0.0:2377");
        assert_eq!(with_port("eth0"), "eth0:2377");
        assert_eq!(with_port("[::1]:99"), "[::1]:99");
    }

    #[test]
    fn settings_go_into_the_specification() {
        let mut specification = json!({"CAConfig": {}});
        let settings = Settings {
            cert_expiry: Some("1h".to_owned()),
            dispatcher_heartbeat: None,
            external_ca: vec!["protocol=cfssl,url=https://x".to_owned()],
            max_snapshots: Some(3),
            snapshot_interval: None,
            task_history_limit: None,
        };
        assert!(settings.apply(&mut specification).is_ok());
        assert_eq!(specification["CAConfig"]["NodeCertExpiry"], json!(3_600_000_000_000_i64));
        assert_eq!(specification["CAConfig"]["ExternalCAs"][0]["URL"], json!("https://x"));
        assert_eq!(specification["Raft"]["KeepOldSnapshots"], json!(3));
        assert!(external_authority("url=x").is_err());
    }
}
