//! One host of the list, with the fields that `--format` and `--json` name.

use std::time::Duration;

use machine_driver::State;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    lifecycle::Row,
    store::{Record, StoreError},
};

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

/// The headers by field, as the data of a template.
pub(super) fn headers() -> Value {
    Value::Object(FIELDS.iter().map(|(field, header)| ((*field).to_owned(), json!(header))).collect())
}

/// One line of the list.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Item {
    #[serde(skip)]
    pub(super) name: String,
    /// Whether its record could not be read.
    #[serde(skip)]
    pub(super) broken: bool,
    pub(super) fields: Value,
}

/// How response times are given to a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// `2ms`, as Go prints a duration.
    Text,
    /// Nanoseconds: `printf "%d"` of Go's type, which was a number.
    Nanoseconds,
}

impl Item {
    pub(super) fn of(record: &Record, row: &Row, docker_host: &str, times: Times) -> Self {
        let active = !row.url.is_empty() && crate::cli::active::same_url(&row.url, docker_host);
        let options = &record.host_options;
        let response = match (row.state, times) {
            (None, _) => json!(""),
            (Some(_), Times::Nanoseconds) => json!(row.response_time.as_nanos()),
            (Some(_), Times::Text) => json!(duration(row.response_time)),
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
            "State": row.state.map_or_else(|| "Timeout".to_owned(), |state| state.to_string()),
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

    /// What is recorded of a host whose driver has not answered yet. What may still change is marked.
    pub(super) fn last_known(record: &Record, docker_host: &str) -> Self {
        let mut item = Self::while_asking(record, &Row::last_known(record), docker_host);
        item.fields["State"] = json!(format!("{} …", record.state).trim_start());
        item
    }

    /// What is known of a host while others, or its engine, are still being asked.
    pub(super) fn while_asking(record: &Record, row: &Row, docker_host: &str) -> Self {
        let mut item = Self::of(record, row, docker_host, Times::Text);
        if row.pending {
            let known = record.engine_version.as_deref().map(|version| format!("v{version} "));
            item.fields["DockerVersion"] = json!(format!("{}…", known.unwrap_or_default()));
        }
        item
    }

    pub(super) fn broken(name: &str, error: &StoreError) -> Self {
        let mut fields: Map<String, Value> =
            FIELDS.iter().map(|(field, _)| ((*field).to_owned(), json!(""))).collect();
        for (field, value) in [
            ("Name", json!(name)),
            ("Active", json!("-")),
            ("ActiveHost", json!(false)),
            ("ActiveSwarm", json!(false)),
            ("DriverName", json!("not found")),
            ("State", json!(State::Error.to_string())),
            ("SwarmOptions", json!({})),
            ("EngineOptions", json!({})),
            ("Error", json!(crate::ui::chain(error).join(": "))),
            ("DockerVersion", json!("Unknown")),
        ] {
            fields.insert(field.to_owned(), value);
        }
        Self { name: name.to_owned(), broken: true, fields: Value::Object(fields) }
    }

    pub(super) fn state(&self) -> &str {
        self.fields["State"].as_str().unwrap_or_default()
    }
}

fn duration(time: Duration) -> String {
    if time.as_millis() > 0 { format!("{}ms", time.as_millis()) } else { format!("{}µs", time.as_micros()) }
}
