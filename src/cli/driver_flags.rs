//! The options of drivers on the command line: declared by the drivers as data, and given back to them checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};
use machine_driver::{DriverError, Flag, FlagKind, Options};

use super::settings::Environment;
use crate::{
    drivers::{DEFAULT_DRIVER, Registry},
    ui::Failure,
};

/// The commands that take the options of a driver.
const WITH_DRIVER: [&str; 2] = ["create", "gc"];

/// Adds the options of the driver that `words` name, for the commands that take them. For no other one is a driver looked
/// for: it may be a program that has to be asked.
pub(super) fn with_driver_flags(
    command: clap::Command,
    words: &[OsString],
    environment: &Environment,
) -> clap::Command {
    let Some(named) = driver_wanted(&command, words, environment) else { return command };
    let driver = Registry::built_in().find(&named).ok();
    let heading = format!("Options of the driver {named} (drivers: {})", Registry::names().join(", "));
    let flags = |of: &str| match &driver {
        None => Vec::new(),
        Some(driver) if of == "gc" => driver.scope_flags(),
        Some(driver) => driver.flags(),
    };
    WITH_DRIVER.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |subcommand| {
            let own = own_options(&subcommand);
            let free = flags(name).into_iter().filter(|flag| clash(&own, flag).is_none());
            let arguments: Vec<Arg> = free.map(|flag| argument(flag).help_heading(heading.clone())).collect();
            subcommand.args(arguments)
        })
    })
}

/// Why the driver that is named cannot be used, when that is the reason why its options are not known.
pub(super) fn refusal(
    command: &clap::Command,
    words: &[OsString],
    environment: &Environment,
) -> Option<DriverError> {
    let named = driver_wanted(command, words, environment)?;
    Registry::built_in().find(&named).err()
}

/// The driver that the command needs to know before it can be parsed.
fn driver_wanted(command: &clap::Command, words: &[OsString], environment: &Environment) -> Option<String> {
    let rest = after_subcommand(command, words)?;
    Some(driver_in(rest).or_else(|| environment.driver.clone()).unwrap_or_else(|| DEFAULT_DRIVER.to_owned()))
}

/// The words after a command that takes a driver's options.
fn after_subcommand<'a>(command: &clap::Command, words: &'a [OsString]) -> Option<&'a [OsString]> {
    let mut index = 1;
    while let Some(word) = words.get(index) {
        let word = word.to_string_lossy();
        index += 1;
        let Some(name) = word.strip_prefix('-') else {
            return WITH_DRIVER.contains(&word.as_ref()).then(|| &words[index..]);
        };
        // The value of a global option is no command.
        let name = name.trim_start_matches('-');
        let takes_value = command.get_arguments().any(|argument| {
            argument.get_action().takes_values()
                && (argument.get_long() == Some(name)
                    || argument.get_short().is_some_and(|short| name == short.to_string()))
        });
        index += usize::from(takes_value);
    }
    None
}

/// The names of the options that a command has without any driver.
fn own_options(command: &clap::Command) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["help".to_owned()]);
    for argument in command.get_arguments() {
        names.insert(argument.get_id().to_string());
        names.extend(argument.get_long().map(str::to_owned));
        names.extend(argument.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned));
    }
    names
}

/// A name of a driver's option that is taken.
fn clash<'a>(own: &BTreeSet<String>, flag: &'a Flag) -> Option<&'a String> {
    std::iter::once(&flag.name).chain(&flag.aliases).find(|name| own.contains(*name))
}

/// The driver named on a command line that is not parsed yet.
fn driver_in(words: &[OsString]) -> Option<String> {
    let mut words = words.iter().map(|word| word.to_string_lossy());
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
pub(super) fn options(command: &str, flags: &[Flag], matches: &ArgMatches) -> Result<Options, Failure> {
    let whole = <super::Cli as clap::CommandFactory>::command();
    let own = whole.find_subcommand(command).map(own_options).unwrap_or_default();
    if let Some(name) = flags.iter().find_map(|flag| clash(&own, flag)) {
        let text = format!("The driver has an option `--{name}`, which `machine {command}` has already");
        return Err(Failure::text(text).with_hint("Its author can give it another name"));
    }
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
