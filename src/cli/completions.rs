//! `machine completions`: a script that completes commands and options in a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use crate::ui::Ui;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(ui: &Ui, arguments: &Arguments) -> u8 {
    let mut script = Vec::new();
    let command = super::driver_flags::with_driver_flags(Cli::command(), &[]);
    clap_complete::generate(arguments.shell, &mut command.name("machine"), "machine", &mut script);
    ui.data(&String::from_utf8_lossy(&script));
    0
}
