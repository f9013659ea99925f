//! `machine ls`: the hosts, with their state and their engine's version.

use std::{cmp::Ordering, time::Duration};

use clap::Args;
use machine_driver::State;
use serde_json::{Value, json};

use crate::{
    lifecycle::{Context, Row, survey},
    store::{Record, StoreError},
    ui::{Failure, Ui, aligned},
};

const DEFAULT_FORMAT: &str = "table {{.Name}}\t{{.Active}}\t{{.DriverName}}\t{{.State}}\t{{.URL}}\t{{.Swarm}}\t{{.DockerVersion}}\t{{.Error}}";

/// What `--format` may name, and the header that stands above it in a table.
const FIELDS: [(&str, &str); 15] = [
    ("Name", "NAME"),
    ("Active", "ACTIVE"),
    ("ActiveHost", "ACTIVE_HOST"),
    ("ActiveSwarm", "ACTIVE_SWARM"),
    ("DriverName", "DRIVER"),
    ("State", "STATE"),
    ("URL", "URL"),
    ("SwarmOptions", "SWARM_OPTIONS"),
    ("Swarm", "SWARM"),
    ("EngineOptions", "ENGINE_OPTIONS"),
    ("Error", "ERRORS"),
    ("DockerVersion", "DOCKER"),
    ("ResponseTime", "RESPONSE"),
    ("Phase", "PHASE"),
    ("Id", "ID"),
];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// Show only some: name=REGEX, driver=, state=, swarm=, label=KEY=VALUE; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Seconds to wait for each host
    #[arg(short, long, default_value_t = 10)]
    timeout: u64,
    /// A Go template; beginning with `table`, with headers
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    #[arg(long, env = "DOCKER_HOST", hide = true, default_value = "")]
    docker_host: String,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments, json: bool) -> Result<u8, Failure> {
    let filters = Filters::parse(&arguments.filter)?;
    let format = arguments.format.as_deref().unwrap_or(DEFAULT_FORMAT);
    let (table, text) = match format.strip_prefix("table") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, format),
    };
    let text = text.replace("\\t", "\t").replace("\\n", "\n");
    let template = gotemplate::Parser::standard()
        .missing(gotemplate::MissingField::OfType("HostListItem"))
        .parse(&text)
        .map_err(|error| anyhow::Error::new(error).context("template parsing error"))?;
    let listed: Vec<_> = context
        .store
        .list()?
        .into_iter()
        .filter(|(_, record)| filters.keeps_record(record.as_ref()))
        .collect();
    let records: Vec<&Record> = listed.iter().filter_map(|(_, record)| record.as_ref().ok()).collect();
    if arguments.quiet && !filters.needs_state() {
        let names: String =
            listed.iter().filter(|(_, record)| record.is_ok()).map(|(name, _)| format!("{name}\n")).collect();
        ui.data(&names);
        return Ok(0);
    }
    // A response time prints like `2ms`, but `printf "%d"` of it gives nanoseconds: Go's type was a number.
    let nanoseconds = text.contains("%d");
    let ask_engines = !arguments.quiet && (json || text.contains(".DockerVersion"));
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let Some(rows) = super::block_on(survey(context, &records, ask_engines, limit))? else {
        return Ok(super::INTERRUPTED);
    };
    let mut rows = rows.into_iter();
    let mut items: Vec<Item> = listed
        .iter()
        .filter_map(|(name, record)| {
            let item = match record {
                Ok(record) => Item::of(record, &rows.next()?, &arguments.docker_host, nanoseconds),
                Err(error) => Item::broken(name, error),
            };
            filters.keeps_state(&item.fields).then_some(item)
        })
        .collect();
    if arguments.quiet {
        let names: String =
            items.iter().filter(|item| !item.broken).map(|item| format!("{}\n", item.name)).collect();
        ui.data(&names);
        return Ok(0);
    }
    items.sort_by(|one, other| natural(&one.name, &other.name));
    if json {
        ui.data(&items.iter().map(|item| format!("{}\n", item.fields)).collect::<String>());
        return Ok(0);
    }
    let mut lines = Vec::new();
    if table {
        let header: serde_json::Map<String, Value> =
            FIELDS.iter().map(|(field, header)| ((*field).to_owned(), json!(header))).collect();
        lines.push(template.render(&Value::Object(header))?);
    }
    for item in &items {
        lines.push(template.render(&item.fields)?);
    }
    ui.data(&if table { aligned(&lines) } else { lines.iter().map(|line| format!("{line}\n")).collect() });
    Ok(0)
}

/// One line of the list.
#[derive(Debug)]
struct Item {
    name: String,
    broken: bool,
    fields: Value,
}

impl Item {
    fn of(record: &Record, row: &Row, docker_host: &str, nanoseconds: bool) -> Self {
        let active = !row.url.is_empty() && super::active::same_url(&row.url, docker_host);
        let options = &record.host_options;
        let (state, response) = match row.state {
            Some(state) if nanoseconds => (state.to_string(), json!(row.response_time.as_nanos())),
            Some(state) => (state.to_string(), json!(duration(row.response_time))),
            None => ("Timeout".to_owned(), json!("")),
        };
        let version = match (&row.engine_version, row.state) {
            (Some(version), _) => format!("v{}", version.trim_start_matches('v')),
            (None, Some(_)) => "Unknown".to_owned(),
            (None, None) => String::new(),
        };
        let swarm =
            if options.swarm_options.master { format!("{} (master)", record.name) } else { String::new() };
        let fields = json!({
            "Name": record.name,
            "Active": if active { "*" } else { "-" },
            "ActiveHost": active,
            "ActiveSwarm": false,
            "DriverName": record.driver_name,
            "State": state,
            "URL": row.url,
            "SwarmOptions": serde_json::to_value(&options.swarm_options).unwrap_or_default(),
            "Swarm": swarm,
            "EngineOptions": serde_json::to_value(&options.engine_options).unwrap_or_default(),
            "Error": row.error,
            "DockerVersion": version,
            "ResponseTime": response,
            "Phase": record.phase,
            "Id": record.id,
        });
        Self { name: record.name.to_string(), broken: false, fields }
    }

    fn broken(name: &str, error: &StoreError) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let fields = json!({
            "Name": name,
            "Active": "-",
            "ActiveHost": false,
            "ActiveSwarm": false,
            "DriverName": "not found",
            "State": State::Error.to_string(),
            "URL": "",
            "SwarmOptions": {},
            "Swarm": "",
            "EngineOptions": {},
            "Error": format!("{error}{cause}"),
            "DockerVersion": "Unknown",
            "ResponseTime": "",
            "Phase": "",
            "Id": "",
        });
        Self { name: name.to_owned(), broken: true, fields }
    }
}

fn duration(time: Duration) -> String {
    if time.as_millis() > 0 { format!("{}ms", time.as_millis()) } else { format!("{}µs", time.as_micros()) }
}

/// Case-insensitive, with numbers by their value: m9 before m10.
fn natural(one: &str, other: &str) -> Ordering {
    let pieces = |text: &str| {
        let mut pieces: Vec<(bool, String)> = Vec::new();
        for character in text.to_lowercase().chars() {
            let digit = character.is_ascii_digit();
            match pieces.last_mut() {
                Some((kind, piece)) if *kind == digit => piece.push(character),
                _ => pieces.push((digit, character.to_string())),
            }
        }
        pieces
    };
    let (left, right) = (pieces(one), pieces(other));
    for ((left_digit, left), (right_digit, right)) in left.iter().zip(&right) {
        let order = if *left_digit && *right_digit {
            let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
            left.len().cmp(&right.len()).then_with(|| left.cmp(right))
        } else {
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| one.cmp(other))
}

/// `--filter`: the same key again widens, different keys narrow.
#[derive(Debug, Default)]
struct Filters {
    names: Vec<regex_lite::Regex>,
    drivers: Vec<String>,
    states: Vec<String>,
    swarms: Vec<String>,
    labels: Vec<String>,
}

impl Filters {
    fn parse(texts: &[String]) -> Result<Self, Failure> {
        let mut filters = Self::default();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                return Err(anyhow::anyhow!("Unsupported filter syntax").into());
            };
            let value_text = value.to_owned();
            match key.to_lowercase().as_str() {
                "name" => {
                    filters.names.push(regex_lite::Regex::new(value).map_err(|error| {
                        anyhow::Error::new(error).context("Could not use the filter `name`")
                    })?);
                }
                "driver" => filters.drivers.push(value_text),
                "state" => filters.states.push(value_text),
                "swarm" => filters.swarms.push(value_text),
                "label" => filters.labels.push(value_text),
                _ => return Err(anyhow::anyhow!("Unsupported filter key '{key}'").into()),
            }
        }
        Ok(filters)
    }

    fn needs_state(&self) -> bool {
        !self.states.is_empty()
    }

    /// Broken hosts are hidden by any filter that they cannot be shown to match.
    fn keeps_record(&self, record: Result<&Record, &StoreError>) -> bool {
        let Ok(record) = record else {
            return self.names.is_empty()
                && self.drivers.is_empty()
                && self.swarms.is_empty()
                && self.labels.is_empty();
        };
        let any = |wanted: &[String], found: &str| {
            wanted.is_empty() || wanted.iter().any(|text| text.eq_ignore_ascii_case(found))
        };
        let labels = &record.host_options.engine_options.labels;
        let swarm = if record.host_options.swarm_options.master { record.name.as_str() } else { "" };
        (self.names.is_empty() || self.names.iter().any(|regex| regex.is_match(record.name.as_str())))
            && any(&self.drivers, &record.driver_name)
            && any(&self.swarms, swarm)
            && (self.labels.is_empty()
                || self.labels.iter().any(|text| labels.iter().any(|label| label.eq_ignore_ascii_case(text))))
    }

    fn keeps_state(&self, fields: &Value) -> bool {
        let state = fields["State"].as_str().unwrap_or_default();
        self.states.is_empty() || self.states.iter().any(|wanted| wanted.eq_ignore_ascii_case(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_sort_by_value() {
        let mut names = ["m10", "M9", "m1", "a", "m01"];
        names.sort_by(|one, other| natural(one, other));
        assert_eq!(names, ["a", "m01", "m1", "M9", "m10"]);
    }

    #[test]
    fn columns_are_padded_but_the_last() {
        let lines = ["NAME\tERRORS".to_owned(), "a\t".to_owned(), "longname\tx".to_owned()];
        assert_eq!(aligned(&lines), "NAME       ERRORS\na          \nlongname   x\n");
    }
}
