//! `machine gc`: finds, and removes, what is left at a provider and belongs to no host.

use clap::{ArgMatches, Args};
use machine_driver::Leftover;

use super::driver_flags;
use crate::{
    lifecycle::{self, Context},
    ui::{Failure, Ui, aligned},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The provider's driver; `gc -d DRIVER --help` lists its options
    #[arg(short, long, env = "MACHINE_DRIVER")]
    driver: String,
    /// Remove what is yours; without this it is only listed
    #[arg(short, long)]
    yes: bool,
    /// Remove what belongs to other stores as well, yours and others': hosts that live among it
    #[arg(long)]
    any_owner: bool,
}

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    arguments: &Arguments,
    matches: &ArgMatches,
    json: bool,
) -> Result<u8, Failure> {
    let driver = context.drivers.find(&arguments.driver)?;
    let options = driver_flags::options("gc", &driver.scope_flags(), matches)?;
    let Some(found) = super::block_on(lifecycle::leftovers(context, &*driver, &options))? else {
        return Ok(super::INTERRUPTED);
    };
    let lifecycle::Leftovers { found, unreadable } = found?;
    for (host, _) in &unreadable {
        ui.warn(&format!("The record of `{host}` cannot be read: some of what is found may be of that host"));
    }
    let me = context.store.ensure_id()?;
    let (chosen, others): (Vec<Leftover>, Vec<Leftover>) =
        found.into_iter().partition(|one| arguments.any_owner || one.owner == me);
    let all = || chosen.iter().chain(&others);
    if json {
        ui.data(&all().map(|one| format!("{}\n", serde_json::json!(one))).collect::<String>());
    } else if all().next().is_none() {
        ui.say("Nothing is left over");
    } else {
        let mut lines = vec!["HOST\tKIND\tID\tPLACE\tOWNER".to_owned()];
        lines.extend(all().map(|one| {
            let Leftover { kind, id, place, host_name, owner, .. } = one;
            format!("{host_name}\t{kind}\t{id}\t{place}\t{owner}")
        }));
        ui.data(&aligned(&lines));
    }
    if !arguments.yes {
        if !json && all().next().is_some() {
            ui.say("Nothing was removed; `--yes` removes what is yours");
        }
        return Ok(0);
    }
    if !others.is_empty() {
        ui.warn(&format!(
            "{} of these are not yours ({me}) and stay; `--any-owner` removes them as well",
            others.len()
        ));
    }
    if chosen.is_empty() {
        return Ok(0);
    }
    let lane = ui.lane("gc");
    let Some(removed) =
        super::block_on(lifecycle::remove_leftovers(&*driver, &options, unreadable, &chosen, &lane))?
    else {
        ui.warn("Interrupted; run the same command again to go on");
        return Ok(super::INTERRUPTED);
    };
    drop(lane);
    removed?;
    ui.say(&format!("Removed {}", chosen.len()));
    Ok(0)
}
