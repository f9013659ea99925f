//! `machine iam-policy`: the permissions that a driver needs at its provider.

use clap::Args;

use crate::{
    drivers::Registry,
    ui::{Failure, Hinted, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The driver
    #[arg(value_name = "DRIVER")]
    driver: String,
}

pub(super) fn run(ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let drivers = Registry::built_in();
    let driver = drivers.find(&arguments.driver)?;
    let Some(policy) = super::block_on(driver.permissions())? else { return Ok(super::INTERRUPTED) };
    let Some(policy) = policy? else {
        let mut with = Vec::new();
        for name in Registry::names() {
            let driver = drivers.find(name)?;
            if let Some(Ok(Some(_))) = super::block_on(driver.permissions())? {
                with.push(name);
            }
        }
        return Err(Failure::new(Hinted {
            message: format!("The driver {} needs no permissions at a provider", arguments.driver),
            hint: if with.is_empty() {
                "No driver of this build does".into()
            } else {
                format!("These do: {}", with.join(", "))
            },
        }));
    };
    ui.data(&format!("{policy:#}\n"));
    Ok(0)
}
