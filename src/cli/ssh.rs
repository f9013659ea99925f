//! `machine ssh`: a shell, a command, or ports that lead through a host, over one session with the pinned host key.

use std::io::{self, IsTerminal as _};

use clap::Args;
use machine_driver::State;

use super::{hosts, settings::Settings, system_ssh};
use crate::{
    lifecycle::{Context, LoginError, log_in_and_pin},
    ssh::{Forward, Session, SshError},
    store::Record,
    ui::{Failure, Report, Ui, chain},
};

/// The exit status where there was no connection, or it was lost; as `ssh` has it. Everything else is the command's.
pub(super) const NO_CONNECTION: u8 = 255;

/// The words after the command are the remote command's, whatever they look like.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "\
Options of ssh, between the host and the command:
  -t                         Give the command a terminal
  -L [BIND:]PORT:HOST:PORT   A port here leads to one that the host reaches
  -L [BIND:]PORT:/SOCKET     A port here leads to a socket on the host
  -N                         Run no command, only have the ports
  any other                  The system's ssh takes over, with the same host key

What the command prints is passed on as it is, which is why `--json` goes with `-N` alone.

The exit status is the command's; 255 if there was no connection or it was lost.")]
pub(crate) struct Arguments {
    /// The host, options of ssh, then the command; without a command, a shell
    #[arg(value_name = "NAME [OPTION]... [COMMAND]...", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// What is asked for, as far as we do it ourselves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    terminal: bool,
    forwards: Vec<Forward>,
    no_command: bool,
    command: Option<String>,
}

impl Wanted {
    /// Reads what comes after the name; nothing if there is an option for the system's ssh among it.
    fn read(words: &[&str]) -> Option<Self> {
        let mut wanted = Self::default();
        let mut words = words.iter().copied().peekable();
        while let Some(option) = words.next_if(|word| word.starts_with('-')) {
            match option {
                "--" => break,
                "-t" => wanted.terminal = true,
                "-N" => wanted.no_command = true,
                "-L" => wanted.forwards.push(Forward::parse(words.next()?)?),
                _ => wanted.forwards.push(Forward::parse(option.strip_prefix("-L")?)?),
            }
        }
        let command: Vec<&str> = words.collect();
        wanted.command = (!command.is_empty()).then(|| command.join(" "));
        Some(wanted)
    }
}

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    settings: &Settings,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let mut words = arguments.words.iter().map(String::as_str);
    let first = words.next();
    if matches!(first, Some("-h" | "--help" | "-help")) {
        let mut command = <super::Cli as clap::CommandFactory>::command();
        command.build();
        if let Some(ssh) = command.find_subcommand_mut("ssh") {
            ui.help(&ssh.render_help());
        }
        return Ok(Report::default());
    }
    let name = hosts::resolve_one(&context.store, first)?;
    let record = context.store.load(&name)?;
    let rest: Vec<&str> = words.collect();
    let wanted = Wanted::read(&rest);
    if !wanted.as_ref().is_some_and(|wanted| wanted.no_command) {
        settings.refuse_json("`ssh` passes on what the host prints", "Leave out `--json`")?;
    }
    let Some(wanted) = wanted else {
        return system_ssh::ssh(context, ui, &record, &rest).map(Report::status);
    };
    if wanted.no_command && wanted.command.is_some() {
        return Err(
            Failure::text("`-N` runs no command, and there is one").with_hint("Leave out one of the two")
        );
    }
    match super::block_on(connect(context, ui, &record, &wanted))? {
        Some(Ok(status)) => Ok(Report::status(status)),
        Some(Err(failure)) => Err(failure.with_status(NO_CONNECTION)),
        None => Ok(Report::status(super::INTERRUPTED)),
    }
}

async fn connect(context: &Context, ui: &Ui, record: &Record, wanted: &Wanted) -> Result<u8, Failure> {
    let mut listeners = Vec::new();
    for forward in &wanted.forwards {
        listeners.push(forward.listen().await?);
    }
    let session = match log_in(context, ui, record).await {
        Ok(session) => session,
        Err(error) => return Err(not_running(context, record).await.unwrap_or_else(|| error.into())),
    };
    for listener in &listeners {
        ui.say(&listener.to_string());
    }
    let terminal = io::stdin().is_terminal() && (wanted.command.is_none() || wanted.terminal);
    let on_failure = |error: &SshError| {
        // A terminal that belongs to the host is not written to by others.
        if !terminal {
            ui.say(&chain(error).join(": "));
        }
    };
    let forwarding = session.forward(&listeners, on_failure);
    if wanted.no_command {
        return Err(forwarding.await.into());
    }
    let status = tokio::select! {
        biased;
        status = session.run(wanted.command.as_deref(), terminal) => status?.code(),
        lost = forwarding, if !listeners.is_empty() => return Err(lost.into()),
    };
    session.close().await;
    Ok(status)
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
        let why = chain(&error).join(": ");
        ui.warn(&format!("The host key of `{}` was accepted, but could not be kept: {why}", record.name));
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn options_end_where_the_command_begins() {
        let forward = |text| Forward::parse(text).unwrap();
        let command = |text: &str| Some(text.to_owned());
        for (words, expected) in [
            (&[][..], Wanted::default()),
            (&["ls", "-L", "x"], Wanted { command: command("ls -L x"), ..Wanted::default() }),
            (&["--", "-N"], Wanted { command: command("-N"), ..Wanted::default() }),
            (
                &["-t", "top", "-t"],
                Wanted { terminal: true, command: command("top -t"), ..Wanted::default() },
            ),
            (
                &["-N", "-L", "1:a:2", "-L3:b:4"],
                Wanted {
                    no_command: true,
                    forwards: vec![forward("1:a:2"), forward("3:b:4")],
                    ..Wanted::default()
                },
            ),
        ] {
            assert_eq!(Wanted::read(words), Some(expected), "{words:?}");
        }
        for words in
            [&["-A"][..], &["-t", "-A"], &["-L"], &["-L", "nonsense"], &["-NL", "1:a:2"], &["-D", "1080"]]
        {
            assert_eq!(Wanted::read(words), None, "{words:?}");
        }
    }
}
