//! `machine mount`: a folder of a host as a folder here, through sshfs.

use std::{io, process::Command};

use clap::Args;
use machine_driver::HostName;
use serde::Serialize;

use super::{hosts, system_ssh};
use crate::{
    lifecycle::Context,
    ui::{Failure, Report, Ui},
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

/// What has become of a folder here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mount<'a> {
    name: &'a HostName,
    /// On the host.
    path: &'a str,
    mountpoint: &'a str,
    mounted: bool,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<Report, Failure> {
    system_ssh::needs_unix("`machine mount`", "sshfs", "`machine scp` copies files to and from a host")?;
    let store = &context.store;
    let (name, path) = match arguments.remote.split_once(':') {
        Some((name, path)) => (Some(name), path),
        None => (None, arguments.remote.as_str()),
    };
    let name = hosts::resolve_one(store, name)?;
    let mountpoint = arguments.mountpoint.as_deref().unwrap_or(path);
    let answer = |status: u8, mounted: bool| match status {
        // Done, and a person has nothing to read then.
        0 => Report::with_text(String::new(), &[Mount { name: &name, path, mountpoint, mounted }]),
        status => Ok(Report::status(status)),
    };
    if arguments.unmount {
        let mut command = Command::new("fusermount");
        command.args(["-u", mountpoint]).stdout(io::stderr());
        return answer(system_ssh::run(command, "fusermount", "use the unmount option")?, false);
    }
    let record = store.load(&name)?;
    let login = system_ssh::login(context, ui, &record)?;
    let mut command = Command::new("sshfs");
    // sshfs passes on the options that it knows, and refuses the others; a file it hands over as it is.
    command.arg("-F").arg(login.write_configuration(&store.folder(&name))?);
    command.arg(format!("{}@{}:{path}", login.ssh.user, login.ssh.host)).arg(mountpoint);
    // Whatever it has to say is no answer of ours.
    command.stdout(io::stderr());
    answer(system_ssh::run(command, "sshfs", "use the mount feature")?, true)
}
