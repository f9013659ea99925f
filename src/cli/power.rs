//! `machine start`, `stop`, `restart` and `kill`.

use super::hosts::{self, Named};
use crate::{
    lifecycle::{self, Context, Power, PowerError},
    ui::{Failure, Outcome, Report, Ui},
};

pub(super) fn run(context: &Context, ui: &Ui, named: &Named, what: Power) -> Result<Report, Failure> {
    let names = hosts::resolve(&context.store, &named.names)?;
    let status = hosts::for_each(ui, &names, |name| async move {
        let lane = ui.lane(name.as_str());
        match lifecycle::power(context, &name, what, &lane).await {
            Ok(_) => {
                lane.finish(
                    Outcome::Done,
                    match what {
                        Power::Start => "Started",
                        Power::Stop => "Stopped",
                        Power::Restart => "Restarted",
                        Power::Kill => "Killed",
                    },
                );
                Ok(())
            }
            Err(error @ PowerError::Already { .. }) => {
                ui.say(&error.to_string());
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })?;
    let started = match what {
        Power::Start => "Started",
        Power::Restart => "Restarted",
        Power::Stop | Power::Kill => return Ok(Report::status(status)),
    };
    if status == 0 {
        ui.say(&format!(
            "{started} machines may have new IP addresses. You may need to re-run the `machine env` command."
        ));
    }
    Ok(Report::status(status))
}
