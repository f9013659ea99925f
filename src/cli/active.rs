//! `machine active`: which host the docker client talks to.

use std::{fmt, time::Duration};

use clap::Args;
use machine_driver::{HostName, State};
use serde::Serialize;

use super::settings::Settings;
use crate::{
    lifecycle::{Context, survey},
    ui::{Failure, Report},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Seconds to wait for a driver's answer
    #[arg(short, long, default_value_t = 10)]
    timeout: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Active<'a> {
    name: &'a HostName,
}

impl fmt::Display for Active<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name.as_str())
    }
}

pub(super) fn run(context: &Context, settings: &Settings, arguments: &Arguments) -> Result<Report, Failure> {
    let docker_host = &settings.environment.docker_host;
    let none = || Failure::text("No active host found").verbatim();
    if docker_host.is_empty() {
        return Err(none());
    }
    let listed = context.store.list()?;
    let candidates: Vec<_> = listed
        .iter()
        .filter_map(|(_, record)| record.as_ref().ok())
        .filter(|record| {
            record.endpoint.as_ref().is_some_and(|endpoint| same_url(&endpoint.url(), docker_host))
        })
        .collect();
    let limit = Duration::from_secs(arguments.timeout);
    let Some(rows) = super::block_on(survey(context, &candidates, false, limit, |_, _| {}))? else {
        return Ok(Report::status(super::INTERRUPTED));
    };
    let mut timed_out = false;
    for (record, row) in candidates.iter().zip(rows) {
        match row.state {
            Some(State::Running) => return Report::lines(&[Active { name: &record.name }]),
            None => timed_out = true,
            Some(_) => {}
        }
    }
    if timed_out {
        return Err(Failure::text("Error getting active host: timeout").verbatim());
    }
    Err(none())
}

/// Two spellings of one engine's URL.
pub(super) fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}
