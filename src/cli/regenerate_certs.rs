//! `machine regenerate-certs`: new server certificates for hosts, or a new client certificate for the store.

use clap::Args;

use super::hosts::{self, Named};
use crate::{
    lifecycle::{self, Context},
    ui::{Failure, Outcome, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Renew the client certificate as well
    #[arg(long)]
    client_certs: bool,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let names = hosts::resolve(&context.store, &arguments.named.names)?;
    if !arguments.force {
        match ui.confirm("Regenerate TLS machine certs?  Warning: this is irreversible. (y/n): ") {
            Some(true) => {}
            Some(false) => return Ok(0),
            None => {
                return Err(Failure::text("Nobody answered the question")
                    .with_hint("Say yes beforehand with `--force`"));
            }
        }
    }
    if arguments.client_certs {
        ui.say("Regenerating local certificates");
        let report = lifecycle::regenerate_client(context)?;
        for (name, reason) in &report.left_alone {
            ui.say(&format!("({name}) keeps its client certificate: {reason}"));
        }
    }
    ui.say("Regenerating TLS certificates");
    hosts::for_each(ui, &names, |name| async move {
        let lane = ui.lane(name.as_str());
        match lifecycle::regenerate_server(context, &name, &lane).await {
            Ok(()) => {
                lane.finish(Outcome::Done, "Certificates renewed");
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })
}
