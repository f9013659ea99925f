//! `engine prune`: the automatic cleaning, shown or made at once.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use crate::client::{Client, Target};
use crate::failure::Outcome;
use crate::format::{self, Kind, Row};
use crate::{output, units};

/// Clean up now as the engine does by itself every day: images without a name, networks that nothing uses, containers
/// that stopped long ago. Never volumes. `prune` in /etc/engine/daemon.json sets the times.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Format of what `--dry-run` shows: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string", requires = "dry_run")]
    format: Option<String>,
}

const PLANNED: Kind = Kind {
    type_name: "*formatter.pruneContext",
    headers: &[("Kind", "KIND"), ("ID", "ID"), ("Name", "NAME"), ("Size", "SIZE")],
    table: "{{.Kind}}\t{{.ID}}\t{{.Name}}\t{{.Size}}",
};

/// In the order in which they are removed, and as each is called.
const KINDS: [(&str, &str); 3] = [("Images", "image"), ("Networks", "network"), ("Containers", "container")];

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    let target = Target::new(["engine", "prune"]);
    if options.dry_run {
        let plan = client.get(&target).await?;
        return format::print(&PLANNED, options.format.as_deref(), &rows(&plan));
    }
    let answer = client.post(&target, None).await?;
    let mut text = String::new();
    for (field, kind) in KINDS {
        for removed in answer[field].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(text, "deleted {kind}: {removed}");
        }
    }
    let bytes = answer["SpaceReclaimed"].as_i64().unwrap_or(0);
    let _ = write!(text, "Total reclaimed space: {}", units::size(bytes));
    output::line(&text)
}

fn rows(plan: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for (field, kind) in KINDS {
        for candidate in plan[field].as_array().into_iter().flatten() {
            rows.push(Row::new([
                ("Kind", Value::from(kind)),
                ("ID", Value::from(units::short_id(candidate["Id"].as_str().unwrap_or_default()))),
                ("Name", candidate["Name"].clone()),
                ("Size", Value::from(units::size(candidate["Size"].as_i64().unwrap_or(0)))),
            ]));
        }
    }
    rows
}
