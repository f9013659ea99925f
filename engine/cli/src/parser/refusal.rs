//! The refusals of command lines that do not fit the grammar.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::super::output;
use super::version_text;

/// A command line that is answered without a daemon: help, or what is wrong with it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(super) code: u8,
    pub(super) text: String,
    /// Whether it is what was asked for, and so data.
    pub(super) asked_for: bool,
}

impl Refusal {
    pub(crate) fn report(&self) -> ExitCode {
        if self.asked_for {
            // Nobody may be reading; that is no failure.
            let _ = output::raw(&self.text);
        } else {
            output::say(&self.text);
        }
        ExitCode::from(self.code)
    }
}

/// The command that the words of the line name, as `docker image ls`, and its grammar.
fn named<'a>(grammar: &'a clap::Command, line: &[OsString]) -> (String, &'a clap::Command) {
    let mut path = String::from("docker");
    let mut command = grammar;
    for word in line.iter().skip(1).filter_map(|word| word.to_str()) {
        if word.starts_with('-') {
            continue;
        }
        match command.find_subcommand(word) {
            Some(sub) => {
                path.push(' ');
                path.push_str(sub.get_name());
                command = sub;
            }
            None => break,
        }
    }
    (path, command)
}

fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}

/// Says what the parser found, in the words and with the exit codes of the stock client.
pub(super) fn refuse(error: &clap::Error, grammar: &clap::Command, line: &[OsString]) -> Refusal {
    let (path, command) = named(grammar, line);
    let usage = || format!("Usage:  {}", super::usage(command, &path));
    let argument = context(error, ContextKind::InvalidArg);
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    let both = || {
        let found = command.get_arguments().find(|argument| argument.get_long() == flag.strip_prefix("--"));
        match found.and_then(clap::Arg::get_short) {
            Some(short) => format!("-{short}, {flag}"),
            None => flag.to_owned(),
        }
    };
    let refusal = |code: u8, message: String| Refusal { code, text: message, asked_for: false };
    let misused = |message: String| {
        refusal(125, format!("{message}\n\n{}\n\nRun '{path} --help' for more information", usage()))
    };
    let miscounted = |message: &str| {
        // So does the stock client.
        let verb = if message.contains("at least") { "See" } else { "Run" };
        let usage = usage();
        refusal(
            1,
            format!("docker: '{path}' {message}\n\n{usage}\n\n{verb} '{path} --help' for more information"),
        )
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Refusal { code: 0, text: error.render().to_string(), asked_for: true }
        }
        ErrorKind::DisplayVersion => {
            Refusal { code: 0, text: format!("Docker version {}\n", version_text()), asked_for: true }
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(error, ContextKind::InvalidSubcommand);
            let usage = if path == "docker" { String::new() } else { format!("\n\nUsage:  {path}") };
            refusal(
                1,
                format!(
                    "docker: unknown command: {path} {word}{usage}\n\nRun '{path} --help' for more information"
                ),
            )
        }
        ErrorKind::UnknownArgument if argument.starts_with("--") => misused(format!("unknown flag: {flag}")),
        ErrorKind::UnknownArgument if argument.starts_with('-') && argument.len() > 1 => {
            let letter = argument.chars().nth(1).unwrap_or('-');
            misused(format!("unknown shorthand flag: '{letter}' in {argument}"))
        }
        ErrorKind::UnknownArgument => {
            let takes = command.get_positionals().count();
            miscounted(&match takes {
                0 => "accepts no arguments".to_owned(),
                1 => "requires 1 argument".to_owned(),
                count => format!("requires {count} arguments"),
            })
        }
        ErrorKind::MissingRequiredArgument => {
            let required: Vec<_> =
                command.get_positionals().filter(|positional| positional.is_required_set()).collect();
            let more = command.get_positionals().any(|positional| {
                positional.is_trailing_var_arg_set()
                    || matches!(positional.get_action(), clap::ArgAction::Append)
            });
            let least = if more { "at least " } else { "" };
            let plural = if required.len() == 1 { "argument" } else { "arguments" };
            miscounted(&format!("requires {least}{} {plural}", required.len()))
        }
        ErrorKind::InvalidValue if context(error, ContextKind::InvalidValue).is_empty() => {
            misused(format!("flag needs an argument: {flag}"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(error, ContextKind::InvalidValue);
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            let cause = match cause.as_str() {
                "" => "invalid syntax".to_owned(),
                "invalid digit found in string" => {
                    format!("strconv.ParseInt: parsing {value:?}: invalid syntax")
                }
                cause => cause.to_owned(),
            };
            misused(format!("invalid argument {value:?} for \"{}\" flag: {cause}", both()))
        }
        _ => misused(error.render().to_string().trim_end().trim_start_matches("error: ").to_owned()),
    }
}
