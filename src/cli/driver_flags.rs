//! The options of drivers on the command line: declared by the drivers as data, and given back to them checked.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};
use machine_driver::{Flag, FlagKind, Options};

use super::settings::Environment;
use crate::{
    drivers::{DEFAULT_DRIVER, Registry},
    ui::Failure,
};

/// Adds the options of the driver that `words` name.
pub(super) fn with_driver_flags(
    command: clap::Command,
    words: &[OsString],
    environment: &Environment,
) -> clap::Command {
    let registry = Registry::built_in();
    let known = Registry::names().join(", ");
    let named =
        driver_in(words).or_else(|| environment.driver.clone()).unwrap_or_else(|| DEFAULT_DRIVER.to_owned());
    let driver = registry.find(&named).ok();
    let heading = format!("Options of the driver {named} (drivers: {known})");
    let arguments = |flags: Vec<Flag>| {
        let heading = heading.clone();
        flags.into_iter().map(move |flag| argument(flag).help_heading(heading.clone()))
    };
    command
        .mut_subcommand("create", |create| {
            create.args(arguments(driver.as_ref().map(|driver| driver.flags()).unwrap_or_default()))
        })
        .mut_subcommand("gc", |gc| {
            gc.args(arguments(driver.as_ref().map(|driver| driver.scope_flags()).unwrap_or_default()))
        })
}

/// The driver named on a command line that is not parsed yet.
fn driver_in(words: &[OsString]) -> Option<String> {
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let rest = word.trim_start_matches('-');
        if !word.starts_with('-') {
            continue;
        }
        match rest.split_once('=') {
            Some(("d" | "driver", value)) => return Some(value.to_owned()),
            None if rest == "d" || rest == "driver" => {
                return words.next().map(std::borrow::Cow::into_owned);
            }
            None if !word.starts_with("--") && rest.starts_with('d') && !rest.starts_with("driver") => {
                return Some(rest[1..].to_owned());
            }
            _ => {}
        }
    }
    None
}

fn argument(flag: Flag) -> Arg {
    let mut argument =
        Arg::new(flag.name.clone()).long(flag.name).visible_aliases(flag.aliases).help(flag.help);
    if let Some(variable) = flag.environment {
        argument = argument.env(variable);
    }
    if let Some(default) = flag.default {
        argument = argument.default_value(default);
    }
    match flag.kind {
        FlagKind::Text | FlagKind::Integer => argument.value_name(flag.value_name).action(ArgAction::Set),
        FlagKind::Retired => {
            argument.hide(true).action(ArgAction::Set).num_args(0..=1).default_missing_value("")
        }
        FlagKind::List => argument.value_name(flag.value_name).action(ArgAction::Append).value_delimiter(','),
        FlagKind::Switch => argument
            .value_name("BOOL")
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true),
    }
}

/// The values of a driver's options that were given, by environment or on the command line, and defaults.
pub(super) fn options(flags: &[Flag], matches: &ArgMatches) -> Result<Options, Failure> {
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for flag in flags {
        let Some(values) = matches.get_many::<String>(&flag.name) else { continue };
        // A variable that is set to nothing says nothing.
        let is_set = matches.value_source(&flag.name) != Some(ValueSource::EnvVariable)
            || values.clone().any(|value| !value.is_empty());
        if is_set {
            given.insert(flag.name.clone(), values.cloned().collect());
        }
    }
    Options::resolve(flags, &given).map_err(|error| Failure::text(error.to_string()))
}
