//! The grammar of the command line, and the way to each command.

mod refusal;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::arguments;
use super::client::Client;
use super::commands::{
    attach, build, cleaning, context, cp, images, inspect, lifecycle, login, making, network, ps, pull, push,
    run, search, stats, swarm, system, version,
};
use super::endpoint::Global;
use super::failure::Outcome;
pub(crate) use refusal::Refusal;

const HELP: &str = "Usage:  {usage}\n\n{about}\n\n{all-args}{after-help}";

#[derive(Debug, Parser)]
#[command(
    name = "docker",
    about = "A self-sufficient runtime for containers",
    version = version_text(),
    disable_help_subcommand = true,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    help_template = HELP,
    subcommand_help_heading = "Commands",
    next_help_heading = "Global Options",
    max_term_width = 100
)]
struct Line {
    #[command(flatten)]
    global: Global,
    /// Print version information and quit
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

/// What scripts cut out of `docker --version`.
fn version_text() -> String {
    format!("{}, build {}", env!("CARGO_PKG_VERSION"), version::COMMIT)
}

/// A command line that makes sense.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) global: Global,
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create and run a new container from an image
    Run(Box<run::Run>),
    /// Execute a command in a running container
    Exec(attach::Exec),
    /// List containers
    Ps(ps::Options),
    /// Download an image from a registry
    Pull(pull::Options),
    /// List images
    Images(images::List),
    /// Show the version information
    Version(version::Options),
    /// Display system-wide information
    Info(version::Options),
    /// Build an image from a Dockerfile
    Build(Box<build::Options>),
    /// Manage builds
    #[command(subcommand, arg_required_else_help = true)]
    Builder(Builder),
    /// Manage containers
    #[command(subcommand, arg_required_else_help = true)]
    Container(Container),
    /// Manage contexts
    #[command(subcommand, arg_required_else_help = true)]
    Context(context::Context),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(Image),
    /// Manage networks
    #[command(subcommand, arg_required_else_help = true)]
    Network(network::Network),
    /// Manage the daemon
    #[command(subcommand, arg_required_else_help = true)]
    System(System),
    /// Manage volumes
    #[command(subcommand, arg_required_else_help = true)]
    Volume(network::Volume),
    /// Manage Swarm
    #[command(subcommand, arg_required_else_help = true)]
    Swarm(swarm::Swarm),
    /// Attach local standard input, output, and error streams to a running container
    Attach(attach::Attach),
    /// Create a new image from a container's changes
    Commit(making::Commit),
    /// Copy files/folders between a container and the local filesystem
    Cp(cp::Options),
    /// Create a new container
    Create(Box<run::Create>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(inspect::Diff),
    /// Get real time events from the server
    Events(system::Events),
    /// Export a container's filesystem as a tar archive
    Export(making::Export),
    /// Show the history of an image
    History(images::History),
    /// Import the contents from a tarball to create a filesystem image
    Import(making::Import),
    /// Return low-level information on Docker objects
    Inspect(inspect::Options),
    /// Kill one or more running containers
    Kill(lifecycle::Kill),
    /// Load an image from a tar archive or STDIN
    Load(images::Load),
    /// Authenticate to a registry
    Login(login::Options),
    /// Log out from a registry
    Logout(login::Logout),
    /// Fetch the logs of a container
    Logs(attach::Logs),
    /// Pause all processes within one or more containers
    Pause(lifecycle::Names),
    /// List port mappings or a specific mapping for the container
    Port(inspect::Port),
    /// Upload an image to a registry
    Push(push::Options),
    /// Search a registry for images
    Search(search::Options),
    /// Clean up now as the engine does by itself every day (of this engine only)
    Prune(cleaning::Options),
    /// Rename a container
    Rename(lifecycle::Rename),
    /// Restart one or more containers
    Restart(lifecycle::Stop),
    /// Remove one or more containers
    Rm(lifecycle::Remove),
    /// Remove one or more images
    Rmi(images::Remove),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(images::Save),
    /// Start one or more stopped containers
    Start(lifecycle::Start),
    /// Display a live stream of container(s) resource usage statistics
    Stats(stats::Options),
    /// Stop one or more running containers
    Stop(lifecycle::Stop),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(images::Tag),
    /// Display the running processes of a container
    Top(inspect::Top),
    /// Unpause all processes within one or more containers
    Unpause(lifecycle::Names),
    /// Update configuration of one or more containers
    Update(lifecycle::Update),
    /// Block until one or more containers stop, then print their exit codes
    Wait(lifecycle::Names),
}

/// Manage containers
#[derive(Debug, Subcommand)]
pub(crate) enum Container {
    /// Attach local standard input, output, and error streams to a running container
    Attach(attach::Attach),
    /// Create a new image from a container's changes
    Commit(making::Commit),
    /// Copy files/folders between a container and the local filesystem
    Cp(cp::Options),
    /// Create a new container
    Create(Box<run::Create>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(inspect::Diff),
    /// Export a container's filesystem as a tar archive
    Export(making::Export),
    /// Execute a command in a running container
    Exec(attach::Exec),
    /// Display detailed information on one or more containers
    Inspect(inspect::OfKind),
    /// Kill one or more running containers
    Kill(lifecycle::Kill),
    /// Fetch the logs of a container
    Logs(attach::Logs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Options),
    /// Pause all processes within one or more containers
    Pause(lifecycle::Names),
    /// List port mappings or a specific mapping for the container
    Port(inspect::Port),
    /// Remove all stopped containers
    Prune(system::Prune),
    /// Rename a container
    Rename(lifecycle::Rename),
    /// Restart one or more containers
    Restart(lifecycle::Stop),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(lifecycle::Remove),
    /// Create and run a new container from an image
    Run(Box<run::Run>),
    /// Start one or more stopped containers
    Start(lifecycle::Start),
    /// Display a live stream of container(s) resource usage statistics
    Stats(stats::Options),
    /// Stop one or more running containers
    Stop(lifecycle::Stop),
    /// Display the running processes of a container
    Top(inspect::Top),
    /// Unpause all processes within one or more containers
    Unpause(lifecycle::Names),
    /// Update configuration of one or more containers
    Update(lifecycle::Update),
    /// Block until one or more containers stop, then print their exit codes
    Wait(lifecycle::Names),
}

/// Manage builds
#[derive(Debug, Subcommand)]
pub(crate) enum Builder {
    /// Build an image from a Dockerfile
    Build(Box<build::Options>),
    /// Remove build cache
    Prune(build::Prune),
}

/// Manage images
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an image from a Dockerfile
    Build(Box<build::Options>),
    /// Show the history of an image
    History(images::History),
    /// Import the contents from a tarball to create a filesystem image
    Import(making::Import),
    /// Display detailed information on one or more images
    Inspect(inspect::OfKind),
    /// Load an image from a tar archive or STDIN
    Load(images::Load),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::List),
    /// Remove unused images
    Prune(system::Prune),
    /// Download an image from a registry
    Pull(pull::Options),
    /// Upload an image to a registry
    Push(push::Options),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(images::Remove),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(images::Save),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(images::Tag),
}

/// Manage the daemon
#[derive(Debug, Subcommand)]
pub(crate) enum System {
    /// Show disk usage
    Df(system::DiskUsage),
    /// Get real time events from the server
    Events(system::Events),
    /// Display system-wide information
    Info(version::Options),
    /// Remove unused data
    Prune(system::Prune),
}

/// Runs the command.
pub(crate) async fn dispatch(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Run(options) | Command::Container(Container::Run(options)) => {
            run::run(client, *options).await
        }
        Command::Create(options) | Command::Container(Container::Create(options)) => {
            run::create(client, *options).await
        }
        Command::Exec(options) | Command::Container(Container::Exec(options)) => {
            attach::exec(client, options).await
        }
        Command::Attach(options) | Command::Container(Container::Attach(options)) => {
            attach::attach(client, options).await
        }
        Command::Logs(options) | Command::Container(Container::Logs(options)) => {
            attach::logs(client, options).await
        }
        Command::Ps(options) | Command::Container(Container::Ls(options)) => ps::run(client, options).await,
        Command::Pull(options) | Command::Image(Image::Pull(options)) => pull::run(client, options).await,
        Command::Push(options) | Command::Image(Image::Push(options)) => push::run(client, options).await,
        Command::Login(options) => login::login(client, options).await,
        Command::Logout(options) => login::logout(client, options),
        Command::Search(options) => search::run(client, options).await,
        Command::Images(options) | Command::Image(Image::Ls(options)) => images::list(client, options).await,
        Command::History(options) | Command::Image(Image::History(options)) => {
            images::history(client, options).await
        }
        Command::Commit(options) | Command::Container(Container::Commit(options)) => {
            making::commit(client, options).await
        }
        Command::Export(options) | Command::Container(Container::Export(options)) => {
            making::export(client, options).await
        }
        Command::Import(options) | Command::Image(Image::Import(options)) => {
            making::import(client, options).await
        }
        Command::Load(options) | Command::Image(Image::Load(options)) => images::load(client, options).await,
        Command::Save(options) | Command::Image(Image::Save(options)) => images::save(client, options).await,
        Command::Tag(options) | Command::Image(Image::Tag(options)) => images::tag(client, options).await,
        Command::Rmi(options) | Command::Image(Image::Rm(options)) => images::remove(client, options).await,
        Command::Build(options)
        | Command::Builder(Builder::Build(options))
        | Command::Image(Image::Build(options)) => build::run(client, *options).await,
        Command::Builder(Builder::Prune(options)) => build::prune(client, options).await,
        // Answered before there is a client.
        Command::Context(_) => Ok(()),
        Command::Version(options) => version::version(client, options).await,
        Command::Info(options) | Command::System(System::Info(options)) => {
            version::info(client, options).await
        }
        Command::Inspect(options) => inspect::run(client, options).await,
        Command::Container(Container::Inspect(options)) => {
            inspect::of_kind(client, options, "container").await
        }
        Command::Image(Image::Inspect(options)) => inspect::of_kind(client, options, "image").await,
        Command::Port(options) | Command::Container(Container::Port(options)) => {
            inspect::port(client, options).await
        }
        Command::Top(options) | Command::Container(Container::Top(options)) => {
            inspect::top(client, options).await
        }
        Command::Diff(options) | Command::Container(Container::Diff(options)) => {
            inspect::diff(client, options).await
        }
        Command::Start(options) | Command::Container(Container::Start(options)) => {
            lifecycle::start(client, options).await
        }
        Command::Stop(options) | Command::Container(Container::Stop(options)) => {
            lifecycle::stop(client, options, "stop").await
        }
        Command::Restart(options) | Command::Container(Container::Restart(options)) => {
            lifecycle::stop(client, options, "restart").await
        }
        Command::Kill(options) | Command::Container(Container::Kill(options)) => {
            lifecycle::kill(client, options).await
        }
        Command::Rm(options) | Command::Container(Container::Rm(options)) => {
            lifecycle::remove(client, options).await
        }
        Command::Pause(options) | Command::Container(Container::Pause(options)) => {
            lifecycle::simple(client, options, "pause").await
        }
        Command::Unpause(options) | Command::Container(Container::Unpause(options)) => {
            lifecycle::simple(client, options, "unpause").await
        }
        Command::Wait(options) | Command::Container(Container::Wait(options)) => {
            lifecycle::wait(client, options).await
        }
        Command::Rename(options) | Command::Container(Container::Rename(options)) => {
            lifecycle::rename(client, options).await
        }
        Command::Update(options) | Command::Container(Container::Update(options)) => {
            lifecycle::update(client, options).await
        }
        Command::Stats(options) | Command::Container(Container::Stats(options)) => {
            stats::run(client, options).await
        }
        Command::Cp(options) | Command::Container(Container::Cp(options)) => cp::run(client, options).await,
        Command::Events(options) | Command::System(System::Events(options)) => {
            system::events(client, options).await
        }
        Command::Container(Container::Prune(options)) => system::prune(client, options, "containers").await,
        Command::Image(Image::Prune(options)) => system::prune(client, options, "images").await,
        Command::System(System::Df(options)) => system::disk_usage(client, options).await,
        Command::System(System::Prune(options)) => system::prune_all(client, options).await,
        Command::Prune(options) => cleaning::run(client, options).await,
        Command::Network(command) => network::network(client, command).await,
        Command::Volume(command) => network::volume(client, command).await,
        Command::Swarm(command) => swarm::run(client, command).await,
    }
}

/// The grammar, with the same style of help everywhere.
fn grammar() -> clap::Command {
    fn dress(command: clap::Command, path: &str) -> clap::Command {
        let usage = usage(&command, path);
        let command = command
            .help_template(HELP)
            .override_usage(usage)
            .styles(clap::builder::Styles::plain())
            .disable_help_subcommand(true)
            .mut_args(|argument| {
                // A default of nothing says nothing.
                let defaults = argument.get_default_values();
                let says_nothing = !defaults.is_empty() && defaults.iter().all(|value| value.is_empty());
                if says_nothing { argument.hide_default_value(true) } else { argument }
            });
        command.mut_subcommands(|sub| {
            let path = format!("{path} {}", sub.get_name());
            dress(sub, &path)
        })
    }
    let mut grammar = dress(Line::command(), "docker");
    grammar.build();
    grammar
}

/// `docker rm [OPTIONS] CONTAINER [CONTAINER...]`.
fn usage(command: &clap::Command, path: &str) -> String {
    let mut usage = path.to_owned();
    if command.has_subcommands() {
        usage.push_str(if path == "docker" { " [OPTIONS] COMMAND" } else { " COMMAND" });
        return usage;
    }
    if command.get_arguments().any(|argument| !argument.is_positional() && argument.get_id() != "help") {
        usage.push_str(" [OPTIONS]");
    }
    for positional in command.get_positionals() {
        let names = positional.get_value_names().unwrap_or_default();
        let name =
            names.first().map_or_else(|| positional.get_id().as_str().to_uppercase(), ToString::to_string);
        let required = positional.is_required_set();
        let many = matches!(positional.get_action(), clap::ArgAction::Append);
        let text = match (name.as_str(), required, many) {
            ("COMMAND", true, _) => " COMMAND [ARG...]".to_owned(),
            ("COMMAND", false, _) => " [COMMAND] [ARG...]".to_owned(),
            ("ps OPTIONS", ..) => " [ps OPTIONS]".to_owned(),
            (name, true, true) => format!(" {name} [{name}...]"),
            (name, true, false) => format!(" {name}"),
            (name, false, true) => format!(" [{name}...]"),
            (name, false, false) => format!(" [{name}]"),
        };
        usage.push_str(&text);
    }
    usage
}

/// Reads a command line.
pub(crate) fn parse(line: &[OsString]) -> Result<Parsed, Refusal> {
    let mut grammar = grammar();
    let line = arguments::normalise(&grammar, line);
    let matches = grammar.try_get_matches_from_mut(&line);
    match matches.and_then(|matches| Line::from_arg_matches(&matches)) {
        Ok(line) => Ok(Parsed { global: line.global, command: line.command }),
        Err(error) => Err(refusal::refuse(&error, &grammar, &line)),
    }
}
