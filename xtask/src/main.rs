//! The project's own chores: build what travels, show it working, test it, measure it.

mod aws;
mod bench;
mod bollard;
mod build;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod image;
mod kills;
mod peers;
mod plugins;
mod python;
mod report;
mod run;
mod setup;
mod takeover;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Builds, shows, tests and measures `machine`; installs what that needs from Debian's packages
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Build the engine, the image of MachineOS and `machine` into target/dist
    Build,
    /// Build the same, and pack it for others: an archive and a Debian package, in target/packages
    Dist {
        /// As the tests use it: not optimised as a whole, and without the drivers that need a provider's SDK
        #[arg(long)]
        quick: bool,
    },
    /// Boot a VM, install the engine on it and run a container there, from nothing
    Demo {
        /// Leave the host running at the end
        #[arg(long)]
        keep: bool,
    },
    /// Run all tests; cheap ones first
    Test {
        /// Only what needs no VM
        #[arg(long)]
        quick: bool,
    },
    /// Kill `machine` at every write of `create`, `regenerate-certs` and `rm`, with a VM for each: an hour and more
    Kills {
        /// Only on one of them
        which: Option<kills::Which>,
    },
    /// Replace an engine of an older commit, which is built for it, by today's while its containers run
    Takeover {
        /// Record what the old engine leaves instead, for the tests
        #[arg(long)]
        record: bool,
    },
    /// Run what the makers of clients' libraries test of an engine against ours
    Clients,
    /// Ask a dockerd what the tests ask the engine, and compare the answers field by field
    Dockerd {
        /// Record what dockerd answers for the tests
        #[arg(long)]
        record: bool,
    },
    /// Give hostile inputs to every parser, or to one of them: `references`, `tar`, `daemon_json`, …
    Fuzz {
        /// A part of the target's name
        target: Option<String>,
        /// How many inputs each target gets
        #[arg(long, default_value_t = 1_000_000)]
        inputs: u64,
        /// What the inputs are made from
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Check the licences, sources, bans and advisories of all dependencies
    Deny,
    /// Print the figures of the budget, and those of the engine beside dockerd
    Bench {
        /// Those of the driver for AWS
        #[arg(long)]
        aws: bool,
        /// Only the engine beside dockerd
        #[arg(long, conflicts_with = "aws")]
        engine: bool,
        /// Of the engine beside dockerd, only these parts
        #[arg(long, requires = "engine")]
        part: Vec<peers::Part>,
    },
    /// Ask the names' server of the network that this runs in, for the benchmark
    #[command(hide = true)]
    AskNames,
    /// Play AWS on loopback, with a VM for each instance, until Ctrl-C
    Aws,
    /// Build one image of a VM
    Image { which: Image },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Image {
    Machineos,
    Debian,
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Build => build::all(build::Make::Release),
        Chore::Dist { quick } => dist::all(if quick { build::Make::Quick } else { build::Make::Release }),
        Chore::Demo { keep } => demo::run(keep),
        Chore::Test { quick } => test::run(quick),
        Chore::Kills { which } => kills::run(which),
        Chore::Takeover { record } => takeover::run(record),
        Chore::Clients => test::clients(),
        Chore::Dockerd { record } => peers::ask(record),
        Chore::Fuzz { target, inputs, seed } => fuzz::run(target.as_deref(), inputs, seed),
        Chore::Deny => setup::for_deny().and_then(|()| deny::run()),
        Chore::Bench { aws: true, .. } => aws::figures(),
        Chore::Bench { engine: true, part, .. } => peers::run(&part),
        Chore::Bench { .. } => bench::run().and_then(|()| peers::run(&[])),
        Chore::AskNames => peers::ask_names(),
        Chore::Aws => aws::play(),
        Chore::Image { which: Image::Machineos } => build::machineos(build::Make::Release),
        Chore::Image { which: Image::Debian } => build::debian(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
