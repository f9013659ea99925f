//! `machine man-pages`: the manual, a page for each command. For those who package the program.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::settings::Settings;
use crate::ui::{Failure, Report};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder that the pages are written to
    folder: PathBuf,
}

pub(super) fn run(settings: &Settings, arguments: &Arguments) -> Result<Report, Failure> {
    let folder = &arguments.folder;
    let failed = |error: std::io::Error| {
        Failure::because(format!("Could not write the manual to `{}`", folder.display()), &error)
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let command = super::command("machine", &[], &settings.environment);
    clap_mangen::generate_to(command, folder).map_err(failed)?;
    Report::with_text(String::new(), &[json!({ "Folder": folder })])
}
