//! `machine provision` and `machine upgrade`: bring a host to what its record and this program say.

use super::hosts::{self, Named};
use crate::{
    lifecycle::{self, Context, Power, PowerError},
    ui::{Failure, Outcome, Report, Ui},
};

pub(super) fn run(context: &Context, ui: &Ui, named: &Named) -> Result<Report, Failure> {
    let names = hosts::resolve(&context.store, &named.names)?;
    let status = hosts::for_each(ui, &names, |name| async move {
        let lane = ui.lane(name.as_str());
        match lifecycle::reprovision(context, &name, &lane).await {
            Ok((_, changed)) if changed.is_empty() => {
                lane.finish(Outcome::Done, "Nothing to change");
                Ok(())
            }
            Ok((_, changed)) => {
                lane.finish(Outcome::Done, &format!("Changed: {}", changed.join(", ")));
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })?;
    Ok(Report::status(status))
}

/// As `provision`, on a host that is started first if need be, and with the versions said.
pub(super) fn upgrade(context: &Context, ui: &Ui, named: &Named) -> Result<Report, Failure> {
    let names = hosts::resolve(&context.store, &named.names)?;
    let status = hosts::for_each(ui, &names, |name| async move {
        let lane = ui.lane(name.as_str());
        let before = context.store.load(&name)?.engine_version.unwrap_or_else(|| "none".to_owned());
        let upgraded = async {
            // Starting provisions as well.
            match lifecycle::power(context, &name, Power::Start, &lane).await {
                Ok(record) => return Ok(record),
                Err(PowerError::Already { .. }) => {}
                Err(PowerError::Driver(error)) if *error.kind() == machine_driver::ErrorKind::Unsupported => {
                }
                Err(error) => return Err(error),
            }
            Ok(lifecycle::reprovision(context, &name, &lane).await?.0)
        };
        match upgraded.await {
            Ok(record) => {
                let after = record.engine_version.unwrap_or_default();
                let text = if before == after {
                    format!("Engine {after} is what this program brings")
                } else {
                    format!("Engine {before} became {after}")
                };
                lane.finish(Outcome::Done, &text);
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })?;
    Ok(Report::status(status))
}
