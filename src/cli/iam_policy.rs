//! `machine iam-policy`: the permissions that a driver needs at its provider.

use clap::Args;
use serde_json::Value;

use crate::{
    drivers::Registry,
    ui::{Failure, Report},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The driver
    #[arg(value_name = "DRIVER")]
    driver: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let drivers = Registry::built_in();
    let permissions = |name: &str| -> Result<Option<Option<Value>>, Failure> {
        let driver = drivers.find(name)?;
        Ok(super::block_on(driver.permissions())?.transpose()?)
    };
    match permissions(&arguments.driver)? {
        None => return Ok(Report::status(super::INTERRUPTED)),
        Some(Some(policy)) => return Report::with_text(format!("{policy:#}\n"), &[policy]),
        Some(None) => {}
    }
    let with: Vec<&str> =
        Registry::built_in_names().filter(|name| matches!(permissions(name), Ok(Some(Some(_))))).collect();
    let refused = format!("The driver {} needs no permissions at a provider", arguments.driver);
    Err(Failure::text(refused).with_hint(if with.is_empty() {
        "No driver of this build does".to_owned()
    } else {
        format!("These do: {}", with.join(", "))
    }))
}
