//! `machine ip`: the addresses of hosts, one a line.

use std::fmt;

use clap::Args;
use machine_driver::HostName;
use serde::Serialize;

use super::hosts;
use crate::{
    store::Store,
    ui::{Failure, Report},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    named: hosts::Named,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    name: HostName,
    #[serde(rename = "IPAddress")]
    ip_address: String,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.ip_address)
    }
}

pub(super) fn run(store: &Store, arguments: &Arguments) -> Result<Report, Failure> {
    let mut addresses = Vec::new();
    for name in hosts::resolve(store, &arguments.named.names)? {
        let record = store.load(&name)?;
        let ip_address = record.driver.ip_address.clone();
        super::env::url_of(&record).map_err(|failure| {
            if ip_address.is_empty() {
                Failure::text(format!("Error getting IP address: `{name}` has none yet"))
            } else {
                failure
            }
        })?;
        addresses.push(Address { name, ip_address });
    }
    Report::lines(&addresses)
}
