//! `search`.

use clap::Args;
use serde_json::{Value, json};

use crate::client::{Client, Target};
use crate::credentials;
use crate::failure::Outcome;
use crate::filters::{self, Filter};
use crate::format::{self, Kind, Row};

/// Wider ones are cut in a table.
const WIDTH: usize = 45;

/// Search a registry for images
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Show only what matches
    #[arg(long, short, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Format: a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// The most results
    #[arg(long, value_name = "int")]
    limit: Option<u32>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "TERM")]
    term: String,
}

const TABLE: Kind = Kind {
    type_name: "*formatter.searchContext",
    headers: &[("StarCount", "STARS"), ("IsOfficial", "OFFICIAL"), ("IsAutomated", "AUTOMATED")],
    table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
};

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    let limit = options.limit.map(|limit| limit.to_string());
    let mut target =
        Target::new(["images", "search"]).with("term", &options.term).with_some("limit", limit.as_deref());
    if !options.filter.is_empty() {
        target = target.with("filters", &filters::to_json(&options.filter).to_string());
    }
    let header = credentials::header(client.config(), &options.term)?;
    let headers: Vec<(&str, &str)> = header.iter().map(|value| ("x-registry-auth", value.as_str())).collect();
    let answer = client.get_with(&target, &headers).await?;
    let mut found: Vec<&Value> = answer.as_array().into_iter().flatten().collect();
    found.sort_by_key(|one| std::cmp::Reverse(one["star_count"].as_i64().unwrap_or(0)));
    let rows: Vec<Row> = found.into_iter().map(|one| row(one, options.no_trunc)).collect();
    format::print(&TABLE, options.format.as_deref(), &rows)
}

fn row(found: &Value, whole: bool) -> Row {
    let text = found["description"].as_str().unwrap_or_default();
    let mut description: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    if !whole && description.chars().count() > WIDTH {
        description = description.chars().take(WIDTH - 1).chain(['…']).collect();
    }
    let mark = |key: &str| if found[key] == true { "[OK]" } else { "" };
    Row::new([
        ("Name", json!(found["name"].as_str().unwrap_or_default())),
        ("Description", json!(description)),
        ("StarCount", json!(found["star_count"].as_i64().unwrap_or(0).to_string())),
        ("IsOfficial", json!(mark("is_official"))),
        ("IsAutomated", json!(mark("is_automated"))),
    ])
}
