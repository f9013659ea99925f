//! `ps`: the containers.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::client::{Client, Target};
use crate::failure::Outcome;
use crate::filters::{self, Filter};
use crate::format::{self, Kind, Row, label_text};
use crate::{output, units};

/// List containers
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "Each is a flag of the stock client")]
pub(crate) struct Options {
    /// Show all, not only those that run
    #[arg(long, short)]
    all: bool,
    /// Show only what matches
    #[arg(long, short, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Format: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show the newest so many, running or not
    #[arg(long, short = 'n', value_name = "int", default_value_t = -1, allow_hyphen_values = true)]
    last: i64,
    /// Show the newest, running or not
    #[arg(long, short)]
    latest: bool,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Show only IDs
    #[arg(long, short)]
    quiet: bool,
    /// Show sizes
    #[arg(long, short)]
    size: bool,
}

const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

const TABLE: Kind = Kind {
    type_name: "*formatter.ContainerContext",
    headers: HEADERS,
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
};

const TABLE_WITH_SIZE: Kind = Kind {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..TABLE
};

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    let limit = if options.latest { 1 } else { options.last };
    let wants_size = options.size || options.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let mut target = Target::new(["containers", "json"]).with_flag("all", options.all);
    if limit > 0 {
        target = target.with("limit", &limit.to_string());
    }
    target = target.with_flag("size", wants_size);
    if !options.filter.is_empty() {
        target = target.with("filters", &filters::to_json(&options.filter).to_string());
    }
    let answer = client.get(&target).await?;
    let containers = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if options.quiet && options.format.is_none() {
        for container in containers {
            let id = container["Id"].as_str().unwrap_or_default();
            output::line(if options.no_trunc { id.to_owned() } else { units::short_id(id) })?;
        }
        return Ok(());
    }
    let now = Timestamp::now();
    let rows: Vec<Row> = containers.iter().map(|container| row(container, options.no_trunc, now)).collect();
    format::print(if options.size { &TABLE_WITH_SIZE } else { &TABLE }, options.format.as_deref(), &rows)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// What people call an image: without the registry that is everybody's, and without a digest.
fn familiar_image(image: &str, image_id: &str, whole: bool) -> String {
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if whole {
        return image.to_owned();
    }
    let short = units::short_id(image_id);
    if !short.is_empty() && short == units::short_id(image) {
        return short;
    }
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name =
        name.strip_prefix("docker.io/library/").or_else(|| name.strip_prefix("docker.io/")).unwrap_or(name);
    name.to_owned()
}

fn names(container: &Value, whole: bool) -> String {
    let names = container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names = names.map(|name| name.strip_prefix('/').unwrap_or(name));
    // Names through links have a slash.
    names.filter(|name| whole || !name.contains('/')).collect::<Vec<_>>().join(",")
}

fn size(container: &Value) -> String {
    let written = units::short_size(container["SizeRw"].as_i64().unwrap_or(0));
    match container["SizeRootFs"].as_i64().unwrap_or(0) {
        0 => written,
        all => format!("{written} (virtual {})", units::short_size(all)),
    }
}

/// The row of one container; also used for `system df -v`.
pub(crate) fn row(container: &Value, whole: bool, now: Timestamp) -> Row {
    let id = text(container, "Id");
    let command = text(container, "Command");
    let command = if whole { command.to_owned() } else { units::ellipsis(command, 20) };
    let created = container["Created"].as_i64().unwrap_or(0);
    let mounts = container["Mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mount_names = mounts.iter().map(|mount| {
        let name = Some(text(mount, "Name"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| text(mount, "Source"));
        if whole { name.to_owned() } else { units::ellipsis(name, 15) }
    });
    let local = mounts.iter().filter(|mount| text(mount, "Driver") == "local").count();
    let networks = container["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    let mut networks: Vec<&str> = networks.map(|(name, _)| name.as_str()).collect();
    networks.sort_unstable();
    Row::new([
        ("ID", Value::from(if whole { id.to_owned() } else { units::short_id(id) })),
        ("Names", Value::from(names(container, whole))),
        ("Image", Value::from(familiar_image(text(container, "Image"), text(container, "ImageID"), whole))),
        ("Command", Value::from(gotemplate::quote(&command))),
        ("CreatedAt", Value::from(units::local_time(created))),
        ("RunningFor", Value::from(units::ago(created, now))),
        ("Ports", Value::from(ports(&container["Ports"]))),
        ("State", Value::from(text(container, "State"))),
        ("Status", Value::from(text(container, "Status"))),
        ("Size", Value::from(size(container))),
        ("Labels", Value::from(label_text(&container["Labels"]))),
        ("Mounts", Value::from(mount_names.collect::<Vec<_>>().join(","))),
        ("LocalVolumes", Value::from(local.to_string())),
        ("Networks", Value::from(networks.join(","))),
        ("Platform", container["ImageManifestDescriptor"]["platform"].clone()),
    ])
    .with_labels(&container["Labels"])
}

struct Port<'a> {
    private: u64,
    ip: &'a str,
    public: u64,
    protocol: &'a str,
}

fn host_and_port(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`: neighbours that map to themselves become ranges.
fn ports(ports: &Value) -> String {
    let mut ports: Vec<Port<'_>> = ports
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| Port {
            private: port["PrivatePort"].as_u64().unwrap_or(0),
            ip: text(port, "IP"),
            public: port["PublicPort"].as_u64().unwrap_or(0),
            protocol: text(port, "Type"),
        })
        .collect();
    ports.sort_by_key(|port| (port.private, port.ip, port.public, port.protocol));
    let group_text = |(ip, protocol, first, last): &(&str, &str, u64, u64)| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if ip.is_empty() {
            format!("{range}/{protocol}")
        } else {
            format!("{}->{range}/{protocol}", host_and_port(ip, &range))
        }
    };
    let mut shown = Vec::new();
    let mut mapped = Vec::new();
    // Address, protocol, first and last port.
    let mut groups: Vec<(&str, &str, u64, u64)> = Vec::new();
    for port in &ports {
        if !port.ip.is_empty() && port.public != port.private {
            let host = host_and_port(port.ip, &port.public.to_string());
            mapped.push(format!("{host}->{}/{}", port.private, port.protocol));
            continue;
        }
        match groups.iter_mut().find(|(ip, protocol, ..)| (*ip, *protocol) == (port.ip, port.protocol)) {
            None => groups.push((port.ip, port.protocol, port.private, port.private)),
            Some((.., last)) if port.private == *last + 1 => *last = port.private,
            Some(group) => {
                shown.push(group_text(group));
                (group.2, group.3) = (port.private, port.private);
            }
        }
    }
    shown.extend(groups.iter().map(group_text));
    shown.extend(mapped);
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The stock client printed these for the same answers.
    #[test]
    fn ports_are_shown_as_the_stock_client_does() {
        let answer = json!([
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 443, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 9000, "PublicPort": 9000, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 9001, "PublicPort": 9001, "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"},
        ]);
        assert_eq!(
            ports(&answer),
            "53/udp, 443/tcp, 0.0.0.0:9000-9001->9000-9001/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(ports(&Value::Null), "");
        assert_eq!(
            ports(&json!([{"PrivatePort": 1, "Type": "tcp"}, {"PrivatePort": 3, "Type": "tcp"}])),
            "1/tcp, 3/tcp"
        );
    }

    #[test]
    fn images_are_shown_by_their_familiar_name() {
        let id = "sha256:ab12cd34ef5600";
        assert_eq!(familiar_image("busybox:latest", id, false), "busybox:latest");
        assert_eq!(familiar_image(id, id, false), "ab12cd34ef56");
        assert_eq!(familiar_image(id, id, true), id);
        assert_eq!(familiar_image("docker.io/library/x:1@sha256:00", id, false), "x:1");
        assert_eq!(familiar_image("", id, false), "<no image>");
    }
}
