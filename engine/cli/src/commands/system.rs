//! `system df`, the prunes and `events`.

use std::fmt::Write as _;
use std::io;

use clap::Args;
use gotemplate::{MissingField, Parser, Template};
use http_body_util::BodyExt as _;
use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::inspect::AnyCase;
use super::{build, images, ps};
use crate::client::{Client, Target, empty};
use crate::failure::{Failure, Outcome};
use crate::filters::{self, Filter};
use crate::format::{self, Kind, Row, label_map};
use crate::{confirm::confirmed, output, units};

/// The longest event.
const EVENT_LIMIT: usize = 1 << 20;

/// Show docker disk usage
#[derive(Args, Debug)]
pub(crate) struct DiskUsage {
    /// Format: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show each object
    #[arg(long, short)]
    verbose: bool,
}

const USAGE: Kind = Kind {
    type_name: "*formatter.diskUsageContext",
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
};

const USED_IMAGES: Kind = Kind {
    type_name: "*formatter.imageContext",
    headers: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
};

const USED_CONTAINERS: Kind = Kind {
    type_name: "*formatter.ContainerContext",
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
};

const USED_VOLUMES: Kind = Kind {
    type_name: "*formatter.volumeContext",
    headers: &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
    table: "{{.Name}}\t{{.Links}}\t{{.Size}}",
};

const USED_CACHE: Kind = Kind {
    type_name: "*formatter.buildCacheContext",
    headers: &[
        ("ID", "CACHE ID"),
        ("CacheType", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("UsageCount", "USAGE"),
        ("Shared", "SHARED"),
    ],
    table: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
};

/// Count, active count, bytes and bytes that would be free.
struct Usage {
    kind: &'static str,
    total: usize,
    active: usize,
    size: i64,
    reclaimable: i64,
    /// Whether the part that would be free is shown also in per cent.
    percent: bool,
}

fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn usages(answer: &Value) -> [Usage; 4] {
    let list = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
    let (images, containers, volumes, cache) =
        (list("Images"), list("Containers"), list("Volumes"), list("BuildCache"));
    let layers = integer(&answer["LayersSize"]);
    let used: i64 = images
        .iter()
        .filter(|image| integer(&image["Containers"]) > 0)
        .map(|image| integer(&image["Size"]) - integer(&image["SharedSize"]).max(0))
        .sum();
    let runs =
        |container: &&Value| matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"));
    let volume_size = |volume: &Value| integer(&volume["UsageData"]["Size"]).max(0);
    let is_used = |volume: &&Value| integer(&volume["UsageData"]["RefCount"]) > 0;
    [
        Usage {
            kind: "Images",
            total: images.len(),
            active: images.iter().filter(|image| integer(&image["Containers"]) > 0).count(),
            size: layers,
            reclaimable: layers - used,
            percent: true,
        },
        Usage {
            kind: "Containers",
            total: containers.len(),
            active: containers.iter().filter(runs).count(),
            size: containers.iter().map(|container| integer(&container["SizeRw"])).sum(),
            reclaimable: containers.iter().filter(|c| !runs(c)).map(|c| integer(&c["SizeRw"])).sum(),
            percent: true,
        },
        Usage {
            kind: "Local Volumes",
            total: volumes.len(),
            active: volumes.iter().filter(is_used).count(),
            size: volumes.iter().map(volume_size).sum(),
            reclaimable: volumes.iter().filter(|v| !is_used(v)).map(volume_size).sum(),
            percent: true,
        },
        Usage {
            kind: "Build Cache",
            total: cache.len(),
            active: cache.iter().filter(|entry| entry["InUse"] == Value::Bool(true)).count(),
            size: cache.iter().map(|entry| integer(&entry["Size"])).sum(),
            reclaimable: cache
                .iter()
                .filter(|entry| entry["InUse"] != Value::Bool(true))
                .map(|entry| integer(&entry["Size"]))
                .sum(),
            percent: false,
        },
    ]
}

pub(crate) async fn disk_usage(client: &Client, options: DiskUsage) -> Outcome {
    let answer = client.get(&Target::new(["system", "df"])).await?;
    if options.verbose {
        return verbose_usage(&answer);
    }
    let rows: Vec<Row> = usages(&answer)
        .into_iter()
        .map(|usage| {
            let mut reclaimable = units::size(usage.reclaimable);
            if usage.percent && usage.size > 0 {
                let _ = write!(reclaimable, " ({}%)", usage.reclaimable.saturating_mul(100) / usage.size);
            }
            Row::new([
                ("Type", Value::from(usage.kind)),
                ("TotalCount", Value::from(usage.total.to_string())),
                ("Active", Value::from(usage.active.to_string())),
                ("Size", Value::from(units::size(usage.size))),
                ("Reclaimable", Value::from(reclaimable)),
            ])
        })
        .collect();
    format::print(&USAGE, options.format.as_deref(), &rows)
}

fn verbose_usage(answer: &Value) -> Outcome {
    let now = Timestamp::now();
    let list = |field: &str| answer[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = String::from("Images space usage:\n\n");
    let rows: Vec<Row> = list("Images")
        .iter()
        .filter_map(|image| images::rows(image, false, false, now).into_iter().next())
        .collect();
    out.push_str(&format::render(&USED_IMAGES, None, &rows)?);
    out.push_str("\nContainers space usage:\n\n");
    let mut rows: Vec<Row> = Vec::new();
    for container in list("Containers") {
        let mut row = ps::row(container, false, now);
        row.fields.insert("Size".to_owned(), Value::from(units::short_size(integer(&container["SizeRw"]))));
        rows.push(row);
    }
    out.push_str(&format::render(&USED_CONTAINERS, None, &rows)?);
    out.push_str("\nLocal Volumes space usage:\n\n");
    let rows: Vec<Row> = list("Volumes")
        .iter()
        .map(|volume| {
            Row::new([
                ("Name", volume["Name"].clone()),
                ("Links", Value::from(integer(&volume["UsageData"]["RefCount"]).to_string())),
                ("Size", Value::from(units::size(integer(&volume["UsageData"]["Size"])))),
            ])
        })
        .collect();
    out.push_str(&format::render(&USED_VOLUMES, None, &rows)?);
    let cache: i64 = list("BuildCache").iter().map(|entry| integer(&entry["Size"])).sum();
    let _ = write!(out, "\nBuild cache usage: {}\n\n", units::size(cache));
    let rows: Vec<Row> = list("BuildCache")
        .iter()
        .map(|entry| {
            Row::new([
                ("ID", Value::from(units::short_id(entry["ID"].as_str().unwrap_or_default()))),
                ("CacheType", entry["Type"].clone()),
                ("Size", Value::from(units::size(integer(&entry["Size"])))),
                ("CreatedSince", Value::from("")),
                ("LastUsedSince", Value::from("")),
                ("UsageCount", Value::from(integer(&entry["UsageCount"]).to_string())),
                ("Shared", entry["Shared"].clone()),
            ])
        })
        .collect();
    out.push_str(&format::render(&USED_CACHE, None, &rows)?);
    output::raw(out)
}

/// Remove what is not used
#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// Remove all that is unused, not only what has no name
    #[arg(long, short)]
    all: bool,
    /// Remove only what matches
    #[arg(long, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Do not ask
    #[arg(long, short)]
    force: bool,
    /// Remove anonymous volumes too
    #[arg(long)]
    volumes: bool,
}

/// What one kind of prune removed.
#[derive(Default)]
struct Pruned {
    text: String,
    reclaimed: i64,
}

async fn prune_one(client: &Client, collection: &str, wanted: &[Filter]) -> Outcome<Pruned> {
    let mut target = Target::new([collection, "prune"]);
    if !wanted.is_empty() {
        target = target.with("filters", &filters::to_json(wanted).to_string());
    }
    let answer = client.post(&target, None).await?;
    let (field, title) = match collection {
        "containers" => ("ContainersDeleted", "Deleted Containers:"),
        "networks" => ("NetworksDeleted", "Deleted Networks:"),
        "volumes" => ("VolumesDeleted", "Deleted Volumes:"),
        _ => ("ImagesDeleted", "Deleted Images:"),
    };
    let mut pruned = Pruned { reclaimed: integer(&answer["SpaceReclaimed"]), ..Pruned::default() };
    for removed in answer[field].as_array().into_iter().flatten() {
        if pruned.text.is_empty() {
            let _ = writeln!(pruned.text, "{title}");
        }
        let _ = match (removed.as_str(), removed["Untagged"].as_str(), removed["Deleted"].as_str()) {
            (Some(name), ..) => writeln!(pruned.text, "{name}"),
            (_, Some(untagged), _) if !untagged.is_empty() => writeln!(pruned.text, "untagged: {untagged}"),
            (_, _, Some(deleted)) => writeln!(pruned.text, "deleted: {deleted}"),
            _ => Ok(()),
        };
    }
    Ok(pruned)
}

fn with_dangling(wanted: &[Filter], all: bool) -> Vec<Filter> {
    let dangling = Filter { name: "dangling".to_owned(), value: (!all).to_string() };
    wanted.iter().cloned().chain([dangling]).collect()
}

/// `container prune`, `image prune`, `network prune`, `volume prune`.
pub(crate) async fn prune(client: &Client, options: Prune, collection: &str) -> Outcome {
    let warning = match collection {
        "containers" => "This will remove all stopped containers.",
        "networks" => "This will remove all custom networks not used by at least one container.",
        "volumes" if options.all => "This will remove all local volumes not used by at least one container.",
        "volumes" => "This will remove anonymous local volumes not used by at least one container.",
        _ if options.all => "This will remove all images without at least one container associated to them.",
        _ => "This will remove all dangling images.",
    };
    if !confirmed(warning, options.force)? {
        return Ok(());
    }
    let wanted = match collection {
        "images" => with_dangling(&options.filter, options.all),
        "volumes" if options.all => {
            let all = Filter { name: "all".to_owned(), value: "1".to_owned() };
            options.filter.iter().cloned().chain([all]).collect()
        }
        _ => options.filter,
    };
    let pruned = prune_one(client, collection, &wanted).await?;
    if !pruned.text.is_empty() {
        output::line(&pruned.text)?;
    }
    if collection == "networks" {
        return Ok(());
    }
    output::line(format!("Total reclaimed space: {}", units::size(pruned.reclaimed)))
}

/// `system prune`.
pub(crate) async fn prune_all(client: &Client, options: Prune) -> Outcome {
    let mut warning = String::from(
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if options.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if options.all {
        "  - all images without at least one container associated to them\n  - all build cache\n"
    } else {
        "  - all dangling images\n  - unused build cache\n"
    });
    if !confirmed(&warning, options.force)? {
        return Ok(());
    }
    let mut collections = vec!["containers", "networks"];
    if options.volumes {
        collections.push("volumes");
    }
    collections.push("images");
    let mut reclaimed = 0;
    for collection in collections {
        let wanted = if collection == "images" {
            with_dangling(&options.filter, options.all)
        } else {
            options.filter.clone()
        };
        let pruned = prune_one(client, collection, &wanted).await?;
        reclaimed += pruned.reclaimed;
        if !pruned.text.is_empty() {
            output::line(&pruned.text)?;
        }
    }
    reclaimed += build::prune_cache(client, options.all, &options.filter).await?;
    output::line(format!("Total reclaimed space: {}", units::size(reclaimed)))
}

/// Get real time events from the server
#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Show only what matches
    #[arg(long, short, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Format: `json` or a Go template
    #[arg(long, value_name = "string", default_value = "")]
    format: String,
    /// Begin at this time, or this long ago
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// End at this time
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

pub(crate) async fn events(client: &Client, options: Events) -> Outcome {
    let now = Timestamp::now();
    let time = |text: &Option<String>| text.as_deref().map(|text| units::parse_since(text, now)).transpose();
    let since = time(&options.since).map_err(Failure::Refused)?;
    let until = time(&options.until).map_err(Failure::Refused)?;
    let template = match options.format.as_str() {
        "" => None,
        "json" => Some("{{json .}}"),
        other => Some(other),
    };
    let template = match template {
        None => None,
        Some(text) => Some(
            Parser::docker()
                .missing(MissingField::OfType("events.Message"))
                .parse(text)
                .map_err(|error| Failure::refused(format!("Error parsing format: {error}")))?,
        ),
    };
    let mut target = Target::new(["events"]);
    if !options.filter.is_empty() {
        target = target.with("filters", &filters::to_json(&options.filter).to_string());
    }
    target = target.with_some("since", since.as_deref()).with_some("until", until.as_deref());
    let mut body = client.stream(Method::GET, &target, None, empty()).await?.into_body();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Input(io::Error::other(error)))?;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        let mut events = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        let mut used = 0;
        for event in events.by_ref() {
            match event {
                Ok(event) => print_event(&event, template.as_ref())?,
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(Failure::Answer(error.to_string())),
            }
            used += 1;
        }
        let read = events.byte_offset();
        drop(events);
        if used > 0 {
            pending.drain(..read);
        }
        if pending.len() > EVENT_LIMIT {
            return Err(Failure::Answer(format!("an event is longer than {EVENT_LIMIT} bytes")));
        }
    }
    Ok(())
}

fn print_event(event: &Value, template: Option<&Template>) -> Outcome {
    if let Some(template) = template {
        let text =
            template.render_with(event, &AnyCase).map_err(|error| Failure::refused(error.to_string()))?;
        return output::line(text);
    }
    output::line(event_text(event))
}

fn event_text(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanoseconds = match event["timeNano"].as_i64() {
        Some(nanoseconds) if nanoseconds != 0 => nanoseconds,
        _ => integer(&event["time"]).saturating_mul(1_000_000_000),
    };
    let time = Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let stamp = zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string().replace("+00:00", "Z");
    let mut out = format!(
        "{stamp} {} {} {}",
        text(&event["Type"]),
        text(&event["Action"]),
        text(&event["Actor"]["ID"])
    );
    let attributes = label_map(&event["Actor"]["Attributes"]);
    if !attributes.is_empty() {
        let pairs: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let _ = write!(out, " ({})", pairs.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_lines() {
        let event = json!({
            "Type": "container", "Action": "start", "time": 1_700_000_000, "timeNano": 1_700_000_000_123_456_789_i64,
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}},
        });
        let text = event_text(&event);
        assert!(text.ends_with(" container start abc (image=busybox, name=web)"), "{text}");
        assert!(text.contains(".123456789"), "{text}");
    }

    #[test]
    fn usage_counts_what_would_be_free() {
        let usages = usages(&json!({
            "LayersSize": 5_000_000,
            "Images": [{"Size": 4_261_550, "SharedSize": 0, "Containers": 1}],
            "Containers": [{"State": "running", "SizeRw": 1_234_567}, {"State": "exited", "SizeRw": 5}],
            "Volumes": [{"UsageData": {"RefCount": 0, "Size": 333}}],
            "BuildCache": null,
        }));
        let numbers: Vec<_> =
            usages.iter().map(|usage| (usage.total, usage.active, usage.size, usage.reclaimable)).collect();
        assert_eq!(
            numbers,
            [(1, 1, 5_000_000, 738_450), (2, 1, 1_234_572, 5), (1, 0, 333, 333), (0, 0, 0, 0)]
        );
    }
}
