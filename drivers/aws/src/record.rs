//! What the record of a host says: its options, and what was made; in our words or in docker-machine's.

use machine_driver::{DriverError, HostView, Journal, parse_state};
use serde_json::Value;

use crate::{
    config::Config,
    docker_machine, rules,
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
    let mut made: Made = parse_state(state)?;
    // Since rules are told, it is recorded of each instance which groups it is in.
    made.is_of_before = made.instance.is_some() && made.joined.is_empty() && made.admitted.is_none();
    if made.is_of_before {
        made.joined = made.groups.iter().cloned().collect();
    }
    if made.let_in.is_empty() { Ok(made) } else { Ok(with_rules(made, &config(host)?)) }
}

/// Earlier versions recorded whom they let in, and knew on which ports: read as the rules that they made, which are ours to
/// take back.
fn with_rules(mut made: Made, config: &Config) -> Made {
    let let_in = std::mem::take(&mut made.let_in);
    if made.own_group.is_some() && made.rules.is_empty() {
        let mut rules = rules::for_callers_once(config.ssh_port, config.swarm_manager);
        rules.extend(rules::for_open_ports(&config.open_ports));
        made.rules = rules::from_networks(&rules, &let_in);
    }
    made
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
