//! `machine status`: the state of a host, by its driver.

use std::fmt;

use machine_driver::HostName;
use serde::Serialize;

use super::hosts;
use crate::{
    lifecycle::Context,
    ui::{Failure, Report},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    name: HostName,
    /// One of docker-machine's words.
    state: String,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.state)
    }
}

pub(super) fn run(context: &Context, one: &hosts::OptionalName) -> Result<Report, Failure> {
    let name = hosts::resolve_one(&context.store, one.name.as_deref())?;
    let record = context.store.load(&name)?;
    let Some(state) = super::block_on(context.state(&record))? else {
        return Ok(Report::status(super::INTERRUPTED));
    };
    let state =
        state.map_err(|error| Failure::new(error).context(format!("error getting state for host {name}")))?;
    Report::lines(&[Status { name, state: state.to_string() }])
}
