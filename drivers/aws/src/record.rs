//! What the record of a host says: its options, and what was made; in our words or in docker-machine's.

use machine_driver::{DriverError, HostView, Journal, parse_state};
use serde_json::Value;

use crate::{
    config::Config,
    docker_machine,
    state::{Book, Made},
};

/// The options of a host.
pub(crate) fn config(host: &HostView) -> Result<Config, DriverError> {
    if docker_machine::is_its(&host.config) {
        return docker_machine::config(&host.config);
    }
    Config::from_value(&host.config).map_err(|error| {
        DriverError::failed(format!("Could not read the options of `{}` in its record", host.name))
            .with_source(error)
    })
}

/// What was made for a host, by us or by docker-machine.
pub(crate) fn made(host: &HostView, state: &Value) -> Result<Made, DriverError> {
    if state.is_null() && docker_machine::is_its(&host.config) {
        return Ok(docker_machine::made(&host.config));
    }
    parse_state(state)
}

/// The host's state with its journal.
pub(crate) fn open<'a>(host: &HostView, journal: &'a mut dyn Journal) -> Result<Book<'a>, DriverError> {
    let made = made(host, &journal.state())?;
    Ok(with(journal, made))
}

/// A journal with a state that is known otherwise.
pub(crate) fn with(journal: &mut dyn Journal, made: Made) -> Book<'_> {
    let place = made.plan.as_ref().map(|plan| plan.region.clone());
    Book { journal, made, place }
}
