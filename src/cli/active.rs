//! `machine active`: which host the docker client talks to.

use std::time::Duration;

use clap::Args;
use machine_driver::State;

use crate::{
    lifecycle::{Context, survey},
    ui::{Failure, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Seconds to wait for a driver's answer
    #[arg(short, long, default_value_t = 10)]
    timeout: u64,
    /// The engine that the client is pointed at
    #[arg(long, env = "DOCKER_HOST", hide = true, default_value = "")]
    docker_host: String,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    if arguments.docker_host.is_empty() {
        return Err(anyhow::anyhow!("No active host found").into());
    }
    let listed = context.store.list()?;
    let candidates: Vec<_> = listed
        .iter()
        .filter_map(|(_, record)| record.as_ref().ok())
        .filter(|record| {
            record.endpoint.as_ref().is_some_and(|endpoint| same_url(&endpoint.url(), &arguments.docker_host))
        })
        .collect();
    let limit = Duration::from_secs(arguments.timeout);
    let Some(rows) = super::block_on(survey(context, &candidates, false, limit))? else {
        return Ok(super::INTERRUPTED);
    };
    let mut timed_out = false;
    for (record, row) in candidates.iter().zip(rows) {
        match row.state {
            Some(State::Running) => {
                ui.data(&format!("{}\n", record.name));
                return Ok(0);
            }
            None => timed_out = true,
            Some(_) => {}
        }
    }
    if timed_out {
        return Err(anyhow::anyhow!("Error getting active host: timeout").into());
    }
    Err(anyhow::anyhow!("No active host found").into())
}

/// Two spellings of one engine's URL.
pub(super) fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}
