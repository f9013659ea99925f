//! The command line: one file for each command, and the parsing that they share.

mod active;
mod arguments;
mod completions;
mod config;
mod console;
mod create;
mod driver_flags;
mod env;
mod gc;
mod host_key;
mod hosts;
mod iam_policy;
mod inspect;
mod ip;
mod ls;
mod mount;
mod power;
mod prompter;
mod provision;
mod regenerate_certs;
mod rm;
mod scp;
mod settings;
mod shell;
mod ssh;
mod status;
mod system_ssh;
mod url;
mod version;

use std::{ffi::OsString, future::Future};

use clap::{ArgMatches, FromArgMatches as _, Parser, Subcommand};
use settings::{Environment, Global, Settings};

use crate::{
    lifecycle::Power,
    signals::{self, Termination},
    ui::{self, Failure, Report, Talk, Ui},
};

/// Create and manage container hosts and swarms, anywhere
#[derive(Debug, Parser)]
#[command(
    name = "machine",
    disable_version_flag = true,
    after_help = "Run 'machine COMMAND --help' for more information on a command."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print which host is active
    Active(active::Arguments),
    /// Print a script for a shell that completes commands
    Completions(completions::Arguments),
    /// Print the connection options for a host
    Config(config::Arguments),
    /// Print the end of a host's serial log
    Console(console::Arguments),
    /// Create hosts
    Create(Box<create::Arguments>),
    /// Print the commands that point a docker client at a host
    Env(env::Arguments),
    /// Find what is left at a provider and belongs to no host, and remove it
    Gc(gc::Arguments),
    /// Show, record or forget the SSH host key that is accepted of a host
    HostKey(host_key::Arguments),
    /// Print the permissions that a driver needs at its provider
    IamPolicy(iam_policy::Arguments),
    /// Print a host's record
    Inspect(inspect::Arguments),
    /// Print the addresses of hosts
    Ip(ip::Arguments),
    /// Stop hosts at once, as if the power was cut
    Kill(hosts::Named),
    /// List hosts
    Ls(ls::Arguments),
    /// Mount a folder of a host with sshfs, or unmount it
    Mount(mount::Arguments),
    /// Provision hosts again
    Provision(hosts::Named),
    /// Renew the certificates of hosts
    RegenerateCerts(regenerate_certs::Arguments),
    /// Restart hosts
    Restart(hosts::Named),
    /// Remove hosts
    Rm(rm::Arguments),
    /// Copy files to, from and between hosts
    Scp(scp::Arguments),
    /// Log in to a host, or run a command on it
    Ssh(ssh::Arguments),
    /// Start hosts
    Start(hosts::Named),
    /// Print the state of a host
    Status(hosts::OptionalName),
    /// Stop hosts
    Stop(hosts::Named),
    /// Bring the engines of hosts to the version of this program
    Upgrade(hosts::Named),
    /// Print the URL of a host's engine
    Url(hosts::OptionalName),
    /// Print the version of this program, or of a host's engine
    Version(hosts::OptionalName),
}

impl Command {
    /// Where it talks: beside its answer, if it has one (see [`crate::ui`]).
    fn talk(&self) -> Talk {
        match self {
            Self::Active(_)
            | Self::Completions(_)
            | Self::Config(_)
            | Self::Console(_)
            | Self::Env(_)
            | Self::Gc(_)
            | Self::HostKey(_)
            | Self::IamPolicy(_)
            | Self::Inspect(_)
            | Self::Ip(_)
            | Self::Ls(_)
            | Self::Mount(_)
            | Self::Scp(_)
            | Self::Ssh(_)
            | Self::Status(_)
            | Self::Url(_)
            | Self::Version(_) => Talk::Stderr,
            Self::Create(_)
            | Self::Kill(_)
            | Self::Provision(_)
            | Self::RegenerateCerts(_)
            | Self::Restart(_)
            | Self::Rm(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Upgrade(_) => Talk::Stdout,
        }
    }
}

/// The exit status of a command that was interrupted with Ctrl-C.
const INTERRUPTED: u8 = 130;
/// And of one that was ended with SIGTERM.
const TERMINATED: u8 = 143;

/// Runs the command line `words` (the program's name first) and returns the exit status.
pub fn main(words: Vec<OsString>) -> u8 {
    match run_words(words) {
        INTERRUPTED if signals::was_terminated() => TERMINATED,
        status => status,
    }
}

fn run_words(words: Vec<OsString>) -> u8 {
    let program = settings::program_name(&words);
    let environment = Environment::read();
    let words = arguments::normalise(&command(&program, &words, &environment), words);
    let parsed = command(&program, &words, &environment)
        .try_get_matches_from(&words)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let unknown = error.kind() == clap::error::ErrorKind::UnknownArgument;
            let plain = <Cli as clap::CommandFactory>::command();
            // Its options are unknown because the driver is: that is what has to be said.
            if let Some(refusal) =
                unknown.then(|| driver_flags::refusal(&plain, &words, &environment)).flatten()
            {
                let failure = Failure::from(refusal);
                Ui::new(words.iter().any(|word| word == "--json"), Talk::Stderr).report(&failure);
                return failure.status();
            }
            let json = words.iter().any(|word| word == "--json");
            return Ui::new(json, Talk::Stderr).usage(&program, &error);
        }
    };
    let Cli { global, command } = cli;
    let version_only = command.is_none() && global.version;
    let settings = Settings::resolve(global, words, environment);
    let ui = Ui::new(settings.json, command.as_ref().map_or(Talk::Stderr, Command::talk));
    log_to_stderr(settings.debug);
    let done = match command {
        Some(command) => run(command, &settings, &matches, &ui),
        None if version_only => version::own(&settings),
        None => {
            ui.help(&self::command(&program, &settings.words, &settings.environment).render_help());
            Ok(Report::default())
        }
    };
    let done = done.and_then(|report| {
        ui.print(&report);
        ui.output_failure().map_or_else(|| Ok(report.exit_status()), Err)
    });
    done.unwrap_or_else(|failure| {
        ui.report(&failure);
        failure.status()
    })
}

/// The whole command line, with the options of the driver that `create` uses.
fn command(program: &str, words: &[OsString], environment: &Environment) -> clap::Command {
    let command = <Cli as clap::CommandFactory>::command()
        .name(program.to_owned())
        .bin_name(program.to_owned())
        .max_term_width(HELP_WIDTH);
    settings::with_variables(driver_flags::with_driver_flags(command, words, environment))
}

/// The widest that a line of help becomes, in columns.
const HELP_WIDTH: usize = 100;

fn run(command: Command, settings: &Settings, matches: &ArgMatches, ui: &Ui) -> Result<Report, Failure> {
    let power = |named: &hosts::Named, what| power::run(&settings.context(ui)?, ui, named, what);
    match command {
        Command::Active(arguments) => active::run(&settings.context(ui)?, settings, &arguments),
        Command::Completions(arguments) => completions::run(settings, &arguments),
        Command::Config(arguments) => config::run(&settings.store()?, &arguments),
        Command::Console(arguments) => console::run(&settings.context(ui)?, &arguments),
        Command::Create(arguments) => {
            let given = matches.subcommand_matches("create").unwrap_or(matches);
            create::run(&settings.context(ui)?, ui, &arguments, given, settings)
        }
        Command::Env(arguments) => env::run(settings, &arguments),
        Command::Gc(arguments) => {
            let given = matches.subcommand_matches("gc").unwrap_or(matches);
            gc::run(&settings.context(ui)?, ui, &arguments, given)
        }
        Command::HostKey(arguments) => host_key::run(&settings.context(ui)?, ui, &arguments),
        Command::IamPolicy(arguments) => iam_policy::run(&arguments),
        Command::Inspect(arguments) => inspect::run(settings, &arguments),
        Command::Ip(arguments) => ip::run(&settings.store()?, &arguments),
        Command::Kill(named) => power(&named, Power::Kill),
        Command::Ls(arguments) => ls::run(&settings.context(ui)?, ui, settings, &arguments),
        Command::Mount(arguments) => mount::run(&settings.context(ui)?, ui, &arguments),
        Command::Provision(named) => provision::run(&settings.context(ui)?, ui, &named),
        Command::RegenerateCerts(arguments) => regenerate_certs::run(&settings.context(ui)?, ui, &arguments),
        Command::Restart(named) => power(&named, Power::Restart),
        Command::Rm(arguments) => rm::run(&settings.context(ui)?, ui, &arguments),
        Command::Scp(arguments) => scp::run(&settings.context(ui)?, ui, settings, &arguments),
        Command::Ssh(arguments) => ssh::run(&settings.context(ui)?, ui, settings, &arguments),
        Command::Start(named) => power(&named, Power::Start),
        Command::Status(one) => status::run(&settings.context(ui)?, &one),
        Command::Stop(named) => power(&named, Power::Stop),
        Command::Upgrade(named) => provision::upgrade(&settings.context(ui)?, ui, &named),
        Command::Url(one) => url::run(&settings.store()?, &one),
        Command::Version(one) => version::run(settings, ui, &one),
    }
}

/// Runs `work` to its end, or until Ctrl-C or another wish that it ends: then it is dropped where it stands, and `None` is
/// returned.
fn block_on<T>(work: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::because("Could not start the program's threads", &error))?;
    let result = runtime.block_on(async {
        let mut end = Termination::listen()
            .map_err(|error| Failure::because("Could not listen for signals", &error))?;
        Ok::<_, Failure>(tokio::select! {
            done = work => Some(done),
            () = end.wished() => None,
        })
    })?;
    // Blocking reads of standard input must not keep the process alive, nor the terminal as they changed it.
    runtime.shutdown_background();
    crate::terminal::restore();
    ui::go_on();
    Ok(result)
}

fn log_to_stderr(debug: bool) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::prelude::*;
    let filter = if debug {
        Targets::new().with_default(LevelFilter::DEBUG).with_target("russh", LevelFilter::INFO)
    } else {
        Targets::new()
    };
    let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| ui::Log);
    // A second call, in tests, is no failure.
    let _ = tracing_subscriber::registry().with(log.with_filter(filter)).try_init();
}
