//! `network` and `volume`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::inspect::{self, OfKind};
use super::lifecycle::each;
use super::system::{self, Prune};
use crate::client::{Client, Target};
use crate::create::environment;
use crate::failure::{Failure, Outcome};
use crate::filters::{self, Filter};
use crate::format::{self, Kind, Row, label_text};
use crate::{output, units};

/// Manage networks
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Connect a container to a network
    Connect(Connect),
    /// Create a network
    Create(Create),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Display detailed information on one or more networks
    Inspect(OfKind),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove all unused networks
    Prune(Prune),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

/// Manage volumes
#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Create a volume
    Create(CreateVolume),
    /// Display detailed information on one or more volumes
    Inspect(OfKind),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove unused local volumes
    Prune(Prune),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Show only what matches
    #[arg(long, short, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Format: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Show only IDs or names
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Do not mind what does not exist
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// Add a name of the container in the network
    #[arg(long, value_name = "strings")]
    alias: Vec<String>,
    /// IPv4 address
    #[arg(long, value_name = "string", default_value = "")]
    ip: String,
    /// IPv6 address
    #[arg(long, value_name = "string", default_value = "")]
    ip6: String,
    network: String,
    container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Disconnect {
    /// Disconnect it in any case
    #[arg(long, short)]
    force: bool,
    network: String,
    container: String,
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Containers may be attached by hand
    #[arg(long)]
    attachable: bool,
    /// Driver of the network
    #[arg(long, short, value_name = "string", default_value = "bridge")]
    driver: String,
    /// Gateway of the subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    gateway: Vec<String>,
    /// No way out of the network
    #[arg(long)]
    internal: bool,
    /// Range of the containers' addresses
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// Give IPv6 addresses
    #[arg(long)]
    ipv6: bool,
    /// Set a label
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Options of the driver
    #[arg(long, short, value_name = "map")]
    opt: Vec<String>,
    /// Scope of the network
    #[arg(long, value_name = "string", default_value = "")]
    scope: String,
    /// Subnet in CIDR form
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    subnet: Vec<String>,
    #[arg(value_name = "NETWORK")]
    name: String,
}

#[derive(Args, Debug)]
pub(crate) struct CreateVolume {
    /// Driver of the volume
    #[arg(long, short, value_name = "string", default_value = "local")]
    driver: String,
    /// Set a label
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Options of the driver
    #[arg(long, short, value_name = "map")]
    opt: Vec<String>,
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

const NETWORKS: Kind = Kind {
    type_name: "*network.networkContext",
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("CreatedAt", "CREATED AT"),
        ("Internal", "INTERNAL"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
};

const VOLUMES: Kind = Kind {
    type_name: "*formatter.volumeContext",
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Availability", "AVAILABILITY"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
    table: "{{.Driver}}\t{{.Name}}",
};

pub(crate) async fn network(client: &Client, command: Network) -> Outcome {
    match command {
        Network::Ls(options) => list_networks(client, options).await,
        Network::Inspect(options) => inspect::of_kind(client, options, "network").await,
        Network::Prune(options) => system::prune(client, options, "networks").await,
        Network::Rm(options) => remove(client, options, "networks").await,
        Network::Create(options) => create(client, options).await,
        Network::Connect(options) => {
            let mut endpoint = Map::new();
            if !options.alias.is_empty() {
                endpoint.insert("Aliases".to_owned(), json!(options.alias));
            }
            if !options.ip.is_empty() || !options.ip6.is_empty() {
                let addresses = json!({"IPv4Address": options.ip, "IPv6Address": options.ip6});
                endpoint.insert("IPAMConfig".to_owned(), addresses);
            }
            let body = json!({"Container": options.container, "EndpointConfig": endpoint});
            client
                .post(&Target::new(["networks", &options.network, "connect"]), Some(&body))
                .await
                .map(|_| ())
        }
        Network::Disconnect(options) => {
            let body = json!({"Container": options.container, "Force": options.force});
            client
                .post(&Target::new(["networks", &options.network, "disconnect"]), Some(&body))
                .await
                .map(|_| ())
        }
    }
}

pub(crate) async fn volume(client: &Client, command: Volume) -> Outcome {
    match command {
        Volume::Ls(options) => list_volumes(client, options).await,
        Volume::Inspect(options) => inspect::of_kind(client, options, "volume").await,
        Volume::Prune(options) => system::prune(client, options, "volumes").await,
        Volume::Rm(options) => remove(client, options, "volumes").await,
        Volume::Create(options) => {
            let mut body = json!({"Driver": options.driver});
            if let Some(name) = &options.name {
                body["Name"] = json!(name);
            }
            for (field, given) in [("DriverOpts", &options.opt), ("Labels", &options.label)] {
                if !given.is_empty() {
                    body[field] = Value::Object(environment::map(given));
                }
            }
            let answer = client.post(&Target::new(["volumes", "create"]), Some(&body)).await?;
            output::line(answer["Name"].as_str().unwrap_or_default())
        }
    }
}

async fn remove(client: &Client, options: Remove, collection: &str) -> Outcome {
    each(&options.names, async |name| {
        if name.is_empty() {
            return Err(Failure::refused("the name is empty"));
        }
        let target =
            Target::new([collection, name]).with_flag("force", options.force && collection == "volumes");
        match client.delete(&target).await {
            Err(error) if options.force && error.is_not_found() => Ok(name.to_owned()),
            outcome => outcome.map(|_| name.to_owned()),
        }
    })
    .await
}

fn listing(collection: &str, wanted: &[Filter]) -> Target {
    let target = Target::new([collection]);
    if wanted.is_empty() { target } else { target.with("filters", &filters::to_json(wanted).to_string()) }
}

fn by_name(list: &Value) -> Vec<&Value> {
    let name = |value: &Value| value["Name"].as_str().unwrap_or_default().to_owned();
    let mut sorted: Vec<&Value> = list.as_array().into_iter().flatten().collect();
    sorted.sort_by(|first, second| units::natural_order(&name(first), &name(second)));
    sorted
}

async fn list_networks(client: &Client, options: List) -> Outcome {
    let answer = client.get(&listing("networks", &options.filter)).await?;
    let rows: Vec<Row> = by_name(&answer)
        .into_iter()
        .map(|network| {
            let text = |field: &str| network[field].as_str().unwrap_or_default();
            let flag = |field: &str| Value::from((network[field] == Value::Bool(true)).to_string());
            let id = if options.no_trunc { text("Id").to_owned() } else { units::short_id(text("Id")) };
            Row::new([
                ("ID", Value::from(id)),
                ("Name", Value::from(text("Name"))),
                ("Driver", Value::from(text("Driver"))),
                ("Scope", Value::from(text("Scope"))),
                ("CreatedAt", Value::from(go_time(text("Created")))),
                ("Internal", flag("Internal")),
                ("IPv4", flag("EnableIPv4")),
                ("IPv6", flag("EnableIPv6")),
                ("Labels", Value::from(label_text(&network["Labels"]))),
            ])
            .with_labels(&network["Labels"])
        })
        .collect();
    if options.quiet && options.format.is_none() {
        for row in &rows {
            output::line(row.fields["ID"].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    format::print(&NETWORKS, options.format.as_deref(), &rows)
}

/// `2026-11-20 10:00:00.123456789 +0000 UTC`.
fn go_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string(),
        Err(_) => text.to_owned(),
    }
}

async fn list_volumes(client: &Client, options: List) -> Outcome {
    let answer = client.get(&listing("volumes", &options.filter)).await?;
    let rows: Vec<Row> = by_name(&answer["Volumes"])
        .into_iter()
        .map(|volume| {
            let text = |field: &str| Value::from(volume[field].as_str().unwrap_or_default());
            let usage = &volume["UsageData"];
            let known = |value: &Value, text: String| {
                Value::from(if value.is_null() { "N/A".to_owned() } else { text })
            };
            Row::new([
                ("Name", text("Name")),
                ("Driver", text("Driver")),
                ("Scope", text("Scope")),
                ("Mountpoint", text("Mountpoint")),
                ("Labels", Value::from(label_text(&volume["Labels"]))),
                ("Links", known(usage, usage["RefCount"].to_string())),
                ("Size", known(usage, units::size(usage["Size"].as_i64().unwrap_or(0)))),
                ("Availability", Value::from("N/A")),
                ("Group", Value::from("N/A")),
                ("Status", Value::from("N/A")),
            ])
            .with_labels(&volume["Labels"])
        })
        .collect();
    if options.quiet && options.format.is_none() {
        for row in &rows {
            output::line(row.fields["Name"].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    format::print(&VOLUMES, options.format.as_deref(), &rows)
}

async fn create(client: &Client, options: Create) -> Outcome {
    if options.subnet.is_empty() && !(options.gateway.is_empty() && options.ip_range.is_empty()) {
        return Err(Failure::refused("every ip-range or gateway must have a corresponding subnet"));
    }
    let mut pools = Vec::with_capacity(options.subnet.len());
    for (index, subnet) in options.subnet.iter().enumerate() {
        let mut pool = json!({"Subnet": subnet});
        if let Some(range) = options.ip_range.get(index) {
            pool["IPRange"] = json!(range);
        }
        if let Some(gateway) = options.gateway.get(index) {
            pool["Gateway"] = json!(gateway);
        }
        pools.push(pool);
    }
    let body = json!({
        "Name": options.name,
        "Driver": options.driver,
        "Scope": options.scope,
        "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
        "Internal": options.internal,
        "Attachable": options.attachable,
        "EnableIPv6": options.ipv6,
        "Ingress": false,
        "ConfigOnly": false,
        "Options": environment::map(&options.opt),
        "Labels": environment::map(&options.label),
    });
    let answer = client.post(&Target::new(["networks", "create"]), Some(&body)).await?;
    if let Some(warning) = answer["Warning"].as_str().filter(|warning| !warning.is_empty()) {
        output::say(format!("WARNING: {warning}"));
    }
    output::line(answer["Id"].as_str().unwrap_or_default())
}
