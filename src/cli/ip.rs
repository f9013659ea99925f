//! `machine ip`: the addresses of hosts, one a line.

use clap::Args;

use super::hosts;
use crate::{
    store::Store,
    ui::{Failure, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    named: hosts::Named,
}

pub(super) fn run(store: &Store, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let mut text = String::new();
    for name in hosts::resolve(store, &arguments.named.names)? {
        let record = store.load(&name)?;
        super::env::url_of(&record)
            .map_err(|failure| if record.driver.ip_address.is_empty() { missing(&name) } else { failure })?;
        text.push_str(&record.driver.ip_address);
        text.push('\n');
    }
    ui.data(&text);
    Ok(0)
}

fn missing(name: &machine_driver::HostName) -> Failure {
    anyhow::anyhow!("Error getting IP address: `{name}` has none yet").into()
}
