//! `machine console`: the end of a host's serial log, as its provider keeps it.

use clap::Args;
use serde_json::json;

use super::hosts;
use crate::{
    lifecycle::Context,
    ui::{Failure, Report, safe},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host [default: the host called `default`]
    name: Option<String>,
    /// How many lines to print, counted from the end
    #[arg(short = 'n', long, default_value_t = 100, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Report, Failure> {
    let name = hosts::resolve_one(&context.store, arguments.name.as_deref())?;
    let record = context.store.load(&name)?;
    let lines = usize::try_from(arguments.lines).unwrap_or(usize::MAX);
    let Some(log) = super::block_on(context.console(&record, lines))? else {
        return Ok(Report::status(super::INTERRUPTED));
    };
    let Some(log) = log? else {
        let refused = format!("There is no serial log of `{name}`");
        return Err(Failure::text(refused).with_hint(format!(
            "The driver {} keeps none, or the host has not written one yet",
            record.driver_name
        )));
    };
    // What a guest writes is hostile, through a pipe as well: pagers and CI logs show it raw.
    let log: Vec<String> =
        log.lines().map(|line| safe::printable(line.trim_end_matches('\r')).into_owned()).collect();
    let text = log.iter().map(|line| format!("{line}\n")).collect();
    Report::with_text(text, &[json!({ "Name": name, "Console": log })])
}
