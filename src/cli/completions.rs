//! `machine completions`: a script that completes commands and options in a shell.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::settings::Settings;
use crate::ui::{Failure, Report};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(settings: &Settings, arguments: &Arguments) -> Result<Report, Failure> {
    const PROGRAM: &str = "machine";
    let mut script = Vec::new();
    let mut command = super::command(PROGRAM, &[], &settings.environment);
    clap_complete::generate(arguments.shell, &mut command, PROGRAM, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "Shell": arguments.shell.to_string(), "Script": script });
    Report::with_text(script, &[json])
}
