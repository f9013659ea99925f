//! `machine rm`: removes hosts, at the provider and here.

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use machine_driver::HostName;

use super::hosts;
use crate::{
    lifecycle::{self, Context, RemoveError},
    store::StoreError,
    ui::{Failure, Report, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The hosts
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Remove the record even if the host cannot be removed; asks nothing
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short)]
    yes: bool,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<Report, Failure> {
    // Names are checked first, all of them: one that is none must never reach a path.
    let mut names: Vec<HostName> = Vec::new();
    for text in &arguments.names {
        let name: HostName = text.parse().map_err(|_| {
            Failure::text(format!("`{text}` is no name of a host; nothing was removed"))
                .with_hint("`machine ls` lists the hosts that there are")
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if !arguments.yes && !arguments.force {
        ui.say(&format!(
            "About to remove {}\nWARNING: This action will delete both local reference and remote instance.",
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
        match ui.confirm("Are you sure? (y/n): ") {
            Some(true) => {}
            Some(false) => return Ok(Report::default()),
            // A script that goes on would believe that the host is gone.
            None => {
                return Err(Failure::text("Nobody answered whether to remove; nothing was removed")
                    .with_hint("Say yes beforehand with `-y`"));
            }
        }
    }
    let work = async |name: HostName| {
        let lane = ui.lane(name.as_str());
        let removed = lifecycle::remove(context, &name, arguments.force, &lane).await;
        drop(lane);
        told(ui, &name, removed, arguments.force)
    };
    let all = stream::iter(names).map(work).buffer_unordered(hosts::AT_ONCE).collect::<Vec<u8>>();
    let Some(statuses) = super::block_on(all)? else {
        ui.warn("Interrupted; run the same command again to go on");
        return Ok(Report::status(super::INTERRUPTED));
    };
    Ok(Report::status(statuses.into_iter().max().unwrap_or(0)))
}

/// Says what became of a host, and returns the exit status.
fn told(ui: &Ui, name: &HostName, removed: Result<Option<RemoveError>, RemoveError>, force: bool) -> u8 {
    match removed {
        Ok(problem) => {
            if let Some(problem) = problem {
                ui.report(&Failure::new(problem));
            }
            ui.say(&format!("Successfully removed {name}"));
            0
        }
        Err(error) => {
            let missing = matches!(error, RemoveError::Store(StoreError::Missing { .. }));
            ui.report(&Failure::new(error));
            if missing && force {
                return 0;
            }
            ui.say(&format!("Can't remove \"{name}\""));
            1
        }
    }
}
