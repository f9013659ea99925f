//! `machine ssh`: a shell or a command on a host, over one session with the pinned host key.

use std::io::{self, IsTerminal as _};

use clap::Args;
use machine_driver::State;

use super::{hosts, system_ssh};
use crate::{
    lifecycle::{Context, LoginError, log_in_and_pin},
    ssh::Session,
    store::{Record, StoreError},
    ui::{Failure, Ui},
};

/// The words after the command are the remote command's, whatever they look like.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// The host, then the command; options of ssh (such as `-L`, `-N`, `-A`) hand over to the system's ssh
    #[arg(value_name = "NAME [COMMAND]...", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let mut words = arguments.words.iter().map(String::as_str);
    let first = words.next();
    if matches!(first, Some("-h" | "--help" | "-help")) {
        let mut command = <super::Cli as clap::CommandFactory>::command();
        command.build();
        if let Some(ssh) = command.find_subcommand_mut("ssh") {
            ui.help(&ssh.render_help());
        }
        return Ok(0);
    }
    let name = hosts::resolve_one(&context.store, first)?;
    let record = context.store.load(&name)?;
    let mut rest: Vec<&str> = words.collect();
    let terminal_wanted = rest.first() == Some(&"-t");
    if terminal_wanted {
        rest.remove(0);
    }
    if rest.first() == Some(&"--") {
        rest.remove(0);
    } else if rest.first().is_some_and(|word| word.starts_with('-')) {
        return system_ssh::ssh(context, ui, &record, &rest);
    }
    let command = (!rest.is_empty()).then(|| rest.join(" "));
    let terminal = io::stdin().is_terminal() && (command.is_none() || terminal_wanted);
    let ran = super::block_on(async {
        let session = match log_in(context, ui, &record).await {
            Ok(session) => session,
            Err(error) => return Err(not_running(context, &record).await.unwrap_or_else(|| error.into())),
        };
        let status = session.run(command.as_deref(), terminal).await?;
        session.close().await;
        Ok::<_, Failure>(status.code())
    })?;
    match ran {
        Some(result) => result,
        None => Ok(super::INTERRUPTED),
    }
}

/// The simple reason why nobody answers, if that is it.
async fn not_running(context: &Context, record: &Record) -> Option<Failure> {
    match context.state(record).await {
        Ok(State::Running | State::Starting) | Err(_) => None,
        Ok(_) => Some(
            Failure::text(format!("Cannot run SSH command: Host \"{}\" is not running", record.name))
                .with_hint(format!("Start it with `machine start {}`", record.name)),
        ),
    }
}

/// Logs in, and says so if a host key that was accepted could not be kept.
pub(super) async fn log_in(context: &Context, ui: &Ui, record: &Record) -> Result<Session, LoginError> {
    let (session, not_kept) = log_in_and_pin(context, record).await?;
    if let Some(error) = not_kept {
        ui.warn(&not_kept_text(record, &error));
    }
    Ok(session)
}

fn not_kept_text(record: &Record, error: &StoreError) -> String {
    format!("The host key of `{}` was accepted, but could not be kept: {error}", record.name)
}
