//! Runs a driver that is a program through the suite that every driver passes.
//!
//! ```text
//! cargo run -p machine-driver-plugin --example conformance -- PATH --option NAME=VALUE --refuses NAME=VALUE
//! ```

#![allow(clippy::print_stdout, reason = "an example has no other way to speak")]

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use machine_driver::conformance::{Crashes, Suite};
use machine_driver_plugin::PlugIn;

/// Try a driver that is a program against the contract of drivers; it has to answer the call `resources`
#[derive(Debug, Parser)]
struct Cli {
    /// The program, called machine-driver-NAME
    program: PathBuf,
    /// An option of the driver that its hosts need; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    option: Vec<String>,
    /// A value that the driver has to refuse; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    refuses: Vec<String>,
    /// Do not interrupt it anywhere: for hosts that take minutes
    #[arg(long)]
    no_crashes: bool,
}

fn pair(text: &str) -> Result<(&str, &str)> {
    text.split_once('=').with_context(|| format!("`{text}` is not NAME=VALUE"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let file = cli.program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = file.strip_prefix("machine-driver-").context("The program is called machine-driver-NAME")?;
    let program = std::path::absolute(&cli.program)?;
    let driver = PlugIn::open(name, &program).await?;
    let mut suite = Suite::new(&driver, &driver);
    for option in &cli.option {
        let (name, value) = pair(option)?;
        suite = suite.option(name, value);
    }
    for refused in &cli.refuses {
        let (name, value) = pair(refused)?;
        suite = suite.refuses(name, value);
    }
    if cli.no_crashes {
        suite = suite.crashes(Crashes::Nowhere);
    }
    let report = suite.run().await?;
    for rule in &report.kept {
        println!("kept: {rule}");
    }
    println!("interrupted {} times", report.crashes);
    Ok(())
}
