//! `machine gc`: finds, and removes, what is left at a provider and belongs to no host.

use clap::{ArgMatches, Args};
use machine_driver::Leftover;
use serde::Serialize;

use super::driver_flags;
use crate::{
    lifecycle::{self, Context, LeftoversError},
    ui::{Failure, Report, Ui, aligned},
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

/// Something that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    /// The host that it was made for.
    name: String,
    /// That host's id; `None` for what several hosts share.
    host_id: Option<String>,
    kind: String,
    id: String,
    place: String,
    owner: String,
    /// Whether it was made by this store.
    yours: bool,
    /// `None`: removing it was begun and not finished.
    removed: Option<bool>,
}

impl Found {
    fn of(leftover: &Leftover, me: &str) -> Self {
        let Leftover { kind, id, place, host_id, host_name, owner } = leftover.clone();
        let yours = owner == me;
        Self { name: host_name, host_id, kind, id, place, owner, yours, removed: Some(false) }
    }
}

/// Nothing at all where nothing was found.
fn table(found: &[Found]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut lines = vec!["HOST\tKIND\tID\tPLACE\tOWNER".to_owned()];
    lines.extend(found.iter().map(|one| {
        let Found { name, kind, id, place, owner, .. } = one;
        format!("{name}\t{kind}\t{id}\t{place}\t{owner}")
    }));
    aligned(&lines)
}

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    arguments: &Arguments,
    matches: &ArgMatches,
) -> Result<Report, Failure> {
    let driver = context.drivers.find(&arguments.driver)?;
    let options = driver_flags::options("gc", &driver.scope_flags(), matches)?;
    let Some(leftovers) = super::block_on(lifecycle::leftovers(context, &*driver, &options))? else {
        return Ok(Report::status(super::INTERRUPTED));
    };
    let lifecycle::Leftovers { found: leftovers, unreadable } = leftovers?;
    for (host, _) in &unreadable {
        ui.warn(&format!("The record of `{host}` cannot be read: some of what is found may be of that host"));
    }
    let me = context.store.ensure_id()?;
    // What is yours comes first.
    let (mut chosen, others): (Vec<Leftover>, Vec<Leftover>) =
        leftovers.into_iter().partition(|one| arguments.any_owner || one.owner == me);
    let mut found: Vec<Found> = chosen.iter().chain(&others).map(|one| Found::of(one, &me)).collect();
    if found.is_empty() {
        ui.say("Nothing is left over");
    } else if !arguments.yes {
        ui.say("Nothing was removed; `--yes` removes what is yours");
    } else if !others.is_empty() {
        ui.warn(&format!(
            "{} of these are not yours ({me}) and stay; `--any-owner` removes them as well",
            others.len()
        ));
    }
    if !arguments.yes {
        chosen.clear();
    }
    let mut status = 0;
    if !chosen.is_empty() {
        let lane = ui.lane("gc");
        let removing = lifecycle::remove_leftovers(&*driver, &options, unreadable, &chosen, &lane);
        let removed = super::block_on(removing)?;
        drop(lane);
        let became = match removed {
            Some(Ok(())) => {
                ui.say(&format!("Removed {}", chosen.len()));
                Some(true)
            }
            Some(Err(error)) => {
                // What was found is the answer all the same.
                let begun = !matches!(error, LeftoversError::Unreadable { .. });
                let failure = Failure::new(error);
                status = failure.status();
                ui.report(&failure);
                if begun { None } else { Some(false) }
            }
            None => {
                ui.warn("Interrupted; run the same command again to go on");
                status = super::INTERRUPTED;
                None
            }
        };
        found.iter_mut().take(chosen.len()).for_each(|one| one.removed = became);
    }
    Ok(Report::with_text(table(&found), &found)?.with_status(status))
}
