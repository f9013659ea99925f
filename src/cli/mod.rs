//! The command line: one file for each command, and the parsing that they share.

mod active;
mod arguments;
mod completions;
mod config;
mod create;
mod driver_flags;
mod env;
mod gc;
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
mod ssh;
mod status;
mod system_ssh;
mod url;
mod version;

use std::{ffi::OsString, future::Future, path::PathBuf};

use clap::{ArgMatches, Args, FromArgMatches as _, Parser, Subcommand};

use crate::{
    bundle::Bundle,
    drivers::Registry,
    lifecycle::Context,
    store::{Certificates, Store},
    ui::{Failure, Ui},
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

/// Options before the command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Tell on stderr what is being done
    #[arg(short = 'D', long, global = true)]
    pub(crate) debug: bool,
    /// The folder of hosts, certificates and images [default: ~/.docker/machine]
    #[arg(short = 's', long, env = "MACHINE_STORAGE_PATH", value_name = "FOLDER")]
    pub(crate) storage_path: Option<PathBuf>,
    /// The certificate of the authority [default: certs/ca.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CA_CERT", value_name = "FILE")]
    pub(crate) tls_ca_cert: Option<PathBuf>,
    /// The private key of the authority [default: certs/ca-key.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CA_KEY", value_name = "FILE")]
    pub(crate) tls_ca_key: Option<PathBuf>,
    /// The certificate of the client [default: certs/cert.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CLIENT_CERT", value_name = "FILE")]
    pub(crate) tls_client_cert: Option<PathBuf>,
    /// The private key of the client [default: certs/key.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CLIENT_KEY", value_name = "FILE")]
    pub(crate) tls_client_key: Option<PathBuf>,
    /// The folder of engines to install instead of the ones inside this program
    #[arg(long, env = crate::bundle::BUNDLE_VARIABLE, hide = true, value_name = "FOLDER")]
    pub(crate) engine_bundle: Option<PathBuf>,
    /// Accepted for scripts written for docker-machine; SSH is always built in
    #[arg(long, env = "MACHINE_NATIVE_SSH", hide = true)]
    pub(crate) native_ssh: bool,
    /// Accepted for scripts written for docker-machine; nothing is reported to anybody
    #[arg(long, env = "MACHINE_BUGSNAG_API_TOKEN", hide = true, value_name = "TOKEN")]
    pub(crate) bugsnag_api_token: Option<String>,
    /// Accepted for scripts written for docker-machine; nothing is downloaded
    #[arg(long, env = "MACHINE_GITHUB_API_TOKEN", hide = true, value_name = "TOKEN")]
    pub(crate) github_api_token: Option<String>,
    /// Show the version
    #[arg(short = 'v', long)]
    pub(crate) version: bool,
    /// Tell what happens as one JSON object a line, on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print which host is active
    Active(active::Arguments),
    /// Print a script for a shell that completes commands
    Completions(completions::Arguments),
    /// Print the connection options for a host
    Config(config::Arguments),
    /// Create hosts
    Create(create::Arguments),
    /// Print the commands that point a docker client at a host
    Env(env::Arguments),
    /// Find what is left at a provider and belongs to no host, and remove it
    Gc(gc::Arguments),
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
    Status(hosts::MaybeOne),
    /// Stop hosts
    Stop(hosts::Named),
    /// Bring the engines of hosts to the version of this program
    Upgrade(hosts::Named),
    /// Print the URL of a host's engine
    Url(hosts::MaybeOne),
    /// Print the version of this program, or of a host's engine
    Version(hosts::MaybeOne),
}

/// The exit status of a command that was interrupted with Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Runs the command line `words` (the program's name first) and returns the exit status.
pub fn main(words: Vec<OsString>) -> u8 {
    let program = arguments::program_name(&words);
    let words = arguments::normalise(&command(&program, &words), words);
    let matches = match command(&program, &words).try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) => return arguments::report(&program, &error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return arguments::report(&program, &error),
    };
    let evaluated = matches!(cli.command, Some(Command::Env(_) | Command::Config(_)));
    let ui = Ui::new(cli.global.json, evaluated);
    log_to_stderr(cli.global.debug);
    match run(cli, &matches, &words, &ui) {
        Ok(status) => match ui.output_failure() {
            Some(failure) => {
                ui.report(&failure);
                failure.status()
            }
            None => status,
        },
        Err(failure) => {
            ui.report(&failure);
            failure.status()
        }
    }
}

/// The whole command line, with the options of the driver that `create` uses.
fn command(program: &str, words: &[OsString]) -> clap::Command {
    let command =
        <Cli as clap::CommandFactory>::command().name(program.to_owned()).bin_name(program.to_owned());
    driver_flags::with_driver_flags(command, words)
}

fn run(cli: Cli, matches: &ArgMatches, words: &[OsString], ui: &Ui) -> Result<u8, Failure> {
    let global = &cli.global;
    let Some(command) = cli.command else {
        if !global.version {
            ui.data(&<Cli as clap::CommandFactory>::command().render_help().to_string());
            return Ok(0);
        }
        ui.data(&version::own(&arguments::program_name(words)));
        return Ok(0);
    };
    match command {
        Command::Active(arguments) => active::run(&global.context(ui)?, ui, &arguments),
        Command::Completions(arguments) => Ok(completions::run(ui, &arguments)),
        Command::Config(arguments) => config::run(&global.store()?, ui, &arguments),
        Command::Create(arguments) => {
            let given = matches.subcommand_matches("create").unwrap_or(matches);
            create::run(&global.context(ui)?, ui, arguments, given, &arguments::program_word(words))
        }
        Command::Env(arguments) => env::run(&global.store()?, ui, &arguments, words),
        Command::Gc(arguments) => {
            let given = matches.subcommand_matches("gc").unwrap_or(matches);
            gc::run(&global.context(ui)?, ui, &arguments, given, global.json)
        }
        Command::IamPolicy(arguments) => iam_policy::run(ui, &arguments),
        Command::Inspect(arguments) => inspect::run(&global.store()?, ui, &arguments),
        Command::Ip(arguments) => ip::run(&global.store()?, ui, &arguments),
        Command::Kill(named) => power::run(&global.context(ui)?, ui, &named, crate::lifecycle::Power::Kill),
        Command::Ls(arguments) => ls::run(&global.context(ui)?, ui, &arguments, global.json),
        Command::Mount(arguments) => mount::run(&global.context(ui)?, ui, &arguments),
        Command::Provision(named) => provision::run(&global.context(ui)?, ui, &named),
        Command::RegenerateCerts(arguments) => regenerate_certs::run(&global.context(ui)?, ui, &arguments),
        Command::Restart(named) => {
            power::run(&global.context(ui)?, ui, &named, crate::lifecycle::Power::Restart)
        }
        Command::Rm(arguments) => rm::run(&global.context(ui)?, ui, &arguments),
        Command::Scp(arguments) => scp::run(&global.context(ui)?, ui, &arguments),
        Command::Ssh(arguments) => ssh::run(&global.context(ui)?, ui, &arguments),
        Command::Start(named) => power::run(&global.context(ui)?, ui, &named, crate::lifecycle::Power::Start),
        Command::Status(one) => status::run(&global.context(ui)?, ui, &one),
        Command::Stop(named) => power::run(&global.context(ui)?, ui, &named, crate::lifecycle::Power::Stop),
        Command::Upgrade(named) => provision::upgrade(&global.context(ui)?, ui, &named),
        Command::Url(one) => url::run(&global.store()?, ui, &one),
        Command::Version(one) => version::run(&global.context(ui)?, ui, &one, words),
    }
}

impl Global {
    fn store(&self) -> Result<Store, Failure> {
        let root = match &self.storage_path {
            Some(path) if !path.as_os_str().is_empty() => path.clone(),
            _ => std::env::home_dir()
                .ok_or_else(|| {
                    Failure::new(crate::ui::Hinted {
                        message: "There is no home folder to keep hosts in".into(),
                        hint: "Set `MACHINE_STORAGE_PATH`".into(),
                    })
                })?
                .join(".docker")
                .join("machine"),
        };
        Ok(Store::at(&root)?)
    }

    fn certificates(&self, store: &Store) -> Certificates {
        store.certificates().with_files(
            self.tls_ca_cert.clone(),
            self.tls_ca_key.clone(),
            self.tls_client_cert.clone(),
            self.tls_client_key.clone(),
        )
    }

    fn context(&self, ui: &Ui) -> Result<Context, Failure> {
        let store = self.store()?;
        let certificates = self.certificates(&store);
        let bundle = Bundle::read_or_embedded(self.engine_bundle.as_deref())?;
        let prompter = prompter::at_the_terminal(ui);
        Ok(Context { store, certificates, drivers: Registry::built_in(), bundle, prompter })
    }
}

/// Runs `work` to its end, or until Ctrl-C or SIGTERM: then it is dropped where it stands, and `None` is returned.
fn block_on<T>(work: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        Ok::<_, std::io::Error>(tokio::select! {
            done = work => Some(done),
            _ = tokio::signal::ctrl_c() => None,
            _ = terminated.recv() => None,
        })
    })?;
    // Blocking reads of standard input must not keep the process alive, nor the terminal as they changed it.
    runtime.shutdown_background();
    crate::terminal::restore();
    Ok(result)
}

fn log_to_stderr(debug: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = if debug { EnvFilter::new("debug,russh=info") } else { EnvFilter::new("off") };
    // A second call, in tests, is no failure.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
