//! `machine mount`: a folder of a host as a folder here, through sshfs.

use std::process::Command;

use clap::Args;

use super::{hosts, system_ssh};
use crate::{
    lifecycle::Context,
    ui::{Failure, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host and the folder on it; without `HOST:`, the host called `default`
    #[arg(value_name = "[HOST:]PATH")]
    remote: String,
    /// The folder here [default: the same path]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<String>,
    /// Unmount instead
    #[arg(short, long)]
    unmount: bool,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let store = &context.store;
    let (name, path) = match arguments.remote.split_once(':') {
        Some((name, path)) => (Some(name), path),
        None => (None, arguments.remote.as_str()),
    };
    let name = hosts::resolve_one(store, name)?;
    let mountpoint = arguments.mountpoint.as_deref().unwrap_or(path);
    if arguments.unmount {
        let mut command = Command::new("fusermount");
        command.args(["-u", mountpoint]);
        return system_ssh::run(command, "fusermount", "use the unmount option");
    }
    let record = store.load(&name)?;
    let login = system_ssh::login(context, ui, &record)?;
    let mut command = Command::new("sshfs");
    // sshfs passes on the options that it knows, and refuses the others; a file it hands over as it is.
    command.arg("-F").arg(login.write_configuration(&store.folder(&name))?);
    command.arg(format!("{}@{}:{path}", login.ssh.user, login.ssh.host)).arg(mountpoint);
    system_ssh::run(command, "sshfs", "use the mount feature")
}
