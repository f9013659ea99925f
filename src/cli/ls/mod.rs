//! `machine ls`: the hosts, with their state and their engine's version.

mod filters;
mod item;
mod layout;
mod order;

use std::{fmt, time::Duration};

use clap::Args;
use filters::Filters;
use item::Item;
use layout::Layout;
use serde::Serialize;

use super::settings::Settings;
use crate::{
    lifecycle::{Context, survey},
    store::{Record, StoreError},
    ui::{Failure, Report, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// Show only some: name=REGEX, driver=, state=, swarm=, label=KEY=VALUE; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Seconds to wait for each host
    #[arg(short, long, default_value_t = 10)]
    timeout: u64,
    /// A Go template; beginning with `table`, with headers
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// What `--quiet` prints of a host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Named<'a> {
    name: &'a str,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// The hosts of the store with their records, or why these cannot be read.
type Listed = Vec<(String, Result<Record, StoreError>)>;

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    settings: &Settings,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    settings.refuse_with_json("--format", arguments.format.is_some())?;
    let filters = Filters::parse(&arguments.filter)?;
    let layout = Layout::parse(arguments.format.as_deref())?;
    let listed: Listed = context
        .store
        .list()?
        .into_iter()
        .filter(|(_, record)| filters.keeps_record(record.as_ref()))
        .collect();
    if arguments.quiet && !filters.needs_state() {
        let readable = listed.iter().filter(|(_, record)| record.is_ok());
        return Report::lines(&readable.map(|(name, _)| Named { name }).collect::<Vec<_>>());
    }
    let Some(mut items) = ask(context, ui, settings, arguments, &layout, &listed)? else {
        return Ok(Report::status(super::INTERRUPTED));
    };
    items.retain(|item| filters.keeps_state(item.state()));
    if arguments.quiet {
        let readable = items.iter().filter(|item| !item.broken);
        return Report::lines(&readable.map(|item| Named { name: &item.name }).collect::<Vec<_>>());
    }
    items.sort_by(|one, other| order::natural(&one.name, &other.name));
    let text = if settings.json { String::new() } else { layout.render(&items)? };
    Report::with_text(text, &items)
}

/// Asks drivers and engines. Whoever looks at a terminal sees meanwhile what was known last, and each answer as it comes.
/// `None`: it was interrupted. The items are in the order of `listed`.
fn ask(
    context: &Context,
    ui: &Ui,
    settings: &Settings,
    arguments: &Arguments,
    layout: &Layout,
    listed: &Listed,
) -> Result<Option<Vec<Item>>, Failure> {
    let docker_host = &settings.environment.docker_host;
    let records: Vec<&Record> = listed.iter().filter_map(|(_, record)| record.as_ref().ok()).collect();
    let ask_engines = !arguments.quiet && (settings.json || layout.shows_versions());
    let limit = Duration::from_secs(arguments.timeout.max(1));
    let live = ui.live();
    let watched = live.is_seen() && layout.is_table() && !arguments.quiet && arguments.filter.is_empty();
    let mut shown = Shown::new(listed, docker_host, layout);
    let draw = |shown: &Shown<'_>| {
        if watched {
            live.draw(|rows| shown.text(rows));
        }
    };
    draw(&shown);
    let rows = survey(context, &records, ask_engines, limit, |index, row| {
        shown.answer(index, Item::while_asking(records[index], row, docker_host));
        draw(&shown);
    });
    let Some(rows) = super::block_on(rows)? else { return Ok(None) };
    let mut answers = records.iter().zip(&rows);
    let items = listed.iter().filter_map(|(name, record)| match record {
        Ok(_) => answers.next().map(|(record, row)| Item::of(record, row, docker_host, layout.times())),
        Err(error) => Some(Item::broken(name, error)),
    });
    Ok(Some(items.collect()))
}

/// The table as it stands while answers come in.
struct Shown<'a> {
    items: Vec<Item>,
    /// For each record that can be read, where its item is.
    places: Vec<usize>,
    layout: &'a Layout,
}

impl<'a> Shown<'a> {
    fn new(listed: &Listed, docker_host: &str, layout: &'a Layout) -> Self {
        let mut items: Vec<(usize, Item)> = listed
            .iter()
            .map(|(name, record)| match record {
                Ok(record) => Item::last_known(record, docker_host),
                Err(error) => Item::broken(name, error),
            })
            .enumerate()
            .collect();
        items.sort_by(|(_, one), (_, other)| order::natural(&one.name, &other.name));
        let mut places: Vec<(usize, usize)> = items
            .iter()
            .enumerate()
            .filter(|(_, (_, item))| !item.broken)
            .map(|(place, (index, _))| (*index, place))
            .collect();
        places.sort_unstable();
        Self {
            items: items.into_iter().map(|(_, item)| item).collect(),
            places: places.into_iter().map(|(_, place)| place).collect(),
            layout,
        }
    }

    fn answer(&mut self, index: usize, item: Item) {
        self.items[self.places[index]] = item;
    }

    /// As many lines as there is room for.
    fn text(&self, rows: usize) -> String {
        let room = rows.saturating_sub(1);
        if self.items.len() <= room {
            return self.layout.render(&self.items).unwrap_or_default();
        }
        let shown = &self.items[..room.saturating_sub(1)];
        let text = self.layout.render(shown).unwrap_or_default();
        format!("{text}… and {} more", self.items.len() - shown.len())
    }
}
