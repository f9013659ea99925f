//! `machine inspect`: a host's record as JSON, or a part of it by a template.

use clap::Args;
use serde_json::Value;

use super::{hosts, settings::Settings};
use crate::ui::{Failure, Report, safe};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host [default: the host called `default`]
    name: Option<String>,
    /// A Go template, such as `{{.Driver.IPAddress}}`
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub(super) fn run(settings: &Settings, arguments: &Arguments) -> Result<Report, Failure> {
    settings.refuse_with_json("--format", arguments.format.is_some())?;
    let store = settings.store()?;
    let name = hosts::resolve_one(&store, arguments.name.as_deref())?;
    let text = store.load(&name)?.to_json();
    let record: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::because(format!("Could not show the record of `{name}`"), &error))?;
    let Some(format) = &arguments.format else {
        return Report::with_text(format!("{}\n", safe::json(&text)), &[record]);
    };
    let template = gotemplate::Parser::decoded()
        .parse(format)
        .map_err(|error| Failure::because("template parsing error", &error))?;
    let part = template
        .render(&safe::texts(&record, safe::printable))
        .map_err(|error| Failure::text(error.to_string()))?;
    Report::with_text(format!("{part}\n"), &[record])
}
