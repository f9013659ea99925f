//! `stats`: what containers use.

use clap::Args;
use serde_json::Value;

use crate::client::{Client, Target};
use crate::failure::{Failure, Outcome};
use crate::format::{self, Kind, Row};
use crate::{output, terminal, units};

/// Display a live stream of container(s) resource usage statistics
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Show all containers, not only those that run
    #[arg(long, short)]
    all: bool,
    /// Format: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show one measurement and end
    #[arg(long)]
    no_stream: bool,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const TABLE: Kind = Kind {
    type_name: "*container.statsContext",
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
};

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    loop {
        let names = match options.containers.as_slice() {
            [] => running(client, options.all).await?,
            names => names.to_vec(),
        };
        let mut rows = Vec::with_capacity(names.len());
        for name in &names {
            let target = Target::new(["containers", name, "stats"]).with("stream", "0");
            match client.get(&target).await {
                Ok(answer) => rows.push(row(name, &answer, options.no_trunc)),
                // Without names, a container may be gone since it was listed.
                Err(error) if error.is_not_found() && options.containers.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        let text = format::render(&TABLE, options.format.as_deref(), &rows)?;
        if !options.no_stream && terminal::output_is_terminal() {
            // From the top of an empty screen.
            output::raw("\x1b[H\x1b[2J")?;
        }
        output::raw(text)?;
        if options.no_stream {
            return Ok(());
        }
        if names.is_empty() && !options.containers.is_empty() {
            return Err(Failure::refused("there is nothing to show"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

async fn running(client: &Client, all: bool) -> Outcome<Vec<String>> {
    let answer = client.get(&Target::new(["containers", "json"]).with_flag("all", all)).await?;
    let ids = answer.as_array().into_iter().flatten().filter_map(|container| container["Id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

#[expect(clippy::cast_precision_loss, reason = "Two digits of a percentage are shown")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn unsigned(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What was used between the two measurements, of one processor.
#[expect(clippy::cast_precision_loss, reason = "Two digits of a percentage are shown")]
fn cpu_percent(stats: &Value) -> f64 {
    let (now, before) = (&stats["cpu_stats"], &stats["precpu_stats"]);
    let total = |value: &Value| unsigned(&value["cpu_usage"]["total_usage"]);
    let used = total(now).saturating_sub(total(before));
    let system = unsigned(&now["system_cpu_usage"]).saturating_sub(unsigned(&before["system_cpu_usage"]));
    let online = match unsigned(&now["online_cpus"]) {
        0 => now["cpu_usage"]["percpu_usage"].as_array().map_or(0, |list| list.len() as u64),
        online => online,
    };
    percent(used, system) * online as f64
}

/// Memory without what the kernel can take back at once.
fn memory(stats: &Value) -> u64 {
    let usage = unsigned(&stats["usage"]);
    let details = &stats["stats"];
    let inactive = details["total_inactive_file"].as_u64().or_else(|| details["inactive_file"].as_u64());
    match inactive {
        Some(inactive) if inactive < usage => usage - inactive,
        _ => usage,
    }
}

fn row(asked: &str, stats: &Value, whole: bool) -> Row {
    let id = stats["id"].as_str().unwrap_or_default();
    let name = stats["name"].as_str().unwrap_or_default();
    let used = memory(&stats["memory_stats"]);
    let limit = unsigned(&stats["memory_stats"]["limit"]);
    let networks = || stats["networks"].as_object().into_iter().flatten();
    let received: u64 = networks().map(|(_, network)| unsigned(&network["rx_bytes"])).sum();
    let sent: u64 = networks().map(|(_, network)| unsigned(&network["tx_bytes"])).sum();
    let blocks = |operation: &str| -> u64 {
        let entries = stats["blkio_stats"]["io_service_bytes_recursive"].as_array().into_iter().flatten();
        let matching =
            entries.filter(|entry| entry["op"].as_str().is_some_and(|op| op.eq_ignore_ascii_case(operation)));
        matching.map(|entry| unsigned(&entry["value"])).sum()
    };
    let pair = |first: u64, second: u64| {
        format!("{} / {}", units::short_size(signed(first)), units::short_size(signed(second)))
    };
    Row::new([
        ("ID", Value::from(if whole { id.to_owned() } else { units::short_id(id) })),
        ("Container", Value::from(asked)),
        ("Name", Value::from(name.strip_prefix('/').unwrap_or(name))),
        ("CPUPerc", Value::from(format!("{:.2}%", cpu_percent(stats)))),
        (
            "MemUsage",
            Value::from(format!(
                "{} / {}",
                units::binary_size(signed(used)),
                units::binary_size(signed(limit))
            )),
        ),
        ("MemPerc", Value::from(format!("{:.2}%", percent(used, limit)))),
        ("NetIO", Value::from(pair(received, sent))),
        ("BlockIO", Value::from(pair(blocks("read"), blocks("write")))),
        ("PIDs", Value::from(unsigned(&stats["pids_stats"]["current"]).to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The stock client printed these for the same answer.
    #[test]
    fn measurements_become_a_row() {
        let cpu = |total: u64, system: u64| json!({"cpu_usage": {"total_usage": total}, "system_cpu_usage": system, "online_cpus": 2});
        let stats = json!({
            "id": "c1d2e3f4a5b6000", "name": "/web", "pids_stats": {"current": 3},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 1_048_576}, {"op": "write", "value": 2000}]},
            "cpu_stats": cpu(300_000_000, 10_000_000_000), "precpu_stats": cpu(100_000_000, 9_000_000_000),
            "memory_stats": {"usage": 20_000_000, "limit": 67_108_864, "stats": {"inactive_file": 1_000_000}},
            "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 700_000}},
        });
        let fields = Value::Object(row("web", &stats, false).fields);
        assert_eq!(
            fields.to_string(),
            r#"{"BlockIO":"1.05MB / 2kB","CPUPerc":"40.00%","Container":"web","ID":"c1d2e3f4a5b6","MemPerc":"28.31%","MemUsage":"18.12MiB / 64MiB","Name":"web","NetIO":"1.5kB / 700kB","PIDs":"3"}"#
        );
    }
}
