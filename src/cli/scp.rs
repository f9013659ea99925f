//! `machine scp`: files to, from and between hosts.

use std::{path::PathBuf, process::Command};

use clap::Args;
use machine_driver::HostName;

use super::{hosts, ssh, system_ssh};
use crate::{
    lifecycle::Context,
    ssh::{CopyOptions, Place, Session, copy},
    store::{Record, Store},
    ui::{Failure, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What is copied: `[[USER@]HOST:]PATH`
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to: `[[USER@]HOST:]PATH`
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Folders with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Copy only what differs, with rsync
    #[arg(short, long)]
    delta: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
}

/// One side of a copy, as it was written.
#[derive(Debug)]
enum Side {
    Here(PathBuf),
    There { record: Box<Record>, path: String },
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let store = &context.store;
    let (source, destination) = (side(store, &arguments.source)?, side(store, &arguments.destination)?);
    if arguments.delta {
        return delta(context, ui, &source, &destination, arguments);
    }
    let options = CopyOptions { recursive: arguments.recursive, ..CopyOptions::default() };
    let copied = super::block_on(async {
        let (from, to) = (open(context, ui, &source).await?, open(context, ui, &destination).await?);
        copy(&place(&source, from.as_ref()), &place(&destination, to.as_ref()), options, &|_| {}).await?;
        for session in [from, to].into_iter().flatten() {
            session.close().await;
        }
        Ok::<_, Failure>(())
    })?;
    match copied {
        Some(Ok(())) => {
            if !arguments.quiet && ui.style() == crate::ui::Style::Json {
                ui.say("Copied");
            }
            Ok(0)
        }
        Some(Err(failure)) => Err(failure),
        None => Ok(super::INTERRUPTED),
    }
}

/// An argument without `:` is a path here, and so is one that begins with `localhost:`, `/` or `.`.
fn side(store: &Store, text: &str) -> Result<Side, Failure> {
    let Some((host, path)) = text.split_once(':') else { return Ok(Side::Here(text.into())) };
    if host.contains('/') || host.starts_with('.') {
        return Ok(Side::Here(text.into()));
    }
    let (user, host) = match host.split_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, host),
    };
    if host == "localhost" {
        return Ok(Side::Here(path.into()));
    }
    let name: HostName = hosts::resolve_one(store, Some(host))?;
    let mut record = store.load(&name)?;
    if let (Some(user), Some(ssh)) =
        (user, record.endpoint.as_mut().and_then(|endpoint| endpoint.ssh.as_mut()))
    {
        user.clone_into(&mut ssh.user);
    }
    Ok(Side::There { record: Box::new(record), path: path.to_owned() })
}

async fn open(context: &Context, ui: &Ui, side: &Side) -> Result<Option<Session>, Failure> {
    match side {
        Side::Here(_) => Ok(None),
        Side::There { record, .. } => Ok(Some(ssh::log_in(context, ui, record).await?)),
    }
}

fn place<'a>(side: &Side, session: Option<&'a Session>) -> Place<'a> {
    match (side, session) {
        (Side::There { path, .. }, Some(session)) => Place::Remote(session, path.clone()),
        (Side::There { path, .. }, None) => Place::Local(path.into()),
        (Side::Here(path), _) => Place::Local(path.clone()),
    }
}

fn delta(
    context: &Context,
    ui: &Ui,
    source: &Side,
    destination: &Side,
    arguments: &Arguments,
) -> Result<u8, Failure> {
    let ((Side::There { record: remote, .. }, Side::Here(_))
    | (Side::Here(_), Side::There { record: remote, .. })) = (source, destination)
    else {
        return Err(Failure::text("`--delta` copies between this machine and one host"));
    };
    let login = system_ssh::login(context, ui, remote)?;
    let text = |side: &Side| match side {
        Side::Here(path) => path.display().to_string(),
        Side::There { path, .. } => format!("{}@{}:{path}", login.ssh.user, login.ssh.host),
    };
    let mut command = Command::new("rsync");
    if !arguments.quiet {
        command.arg("--progress");
    }
    command.args(["-e", &login.command_text()]);
    if arguments.recursive {
        command.arg("-r");
    }
    command.arg("--").arg(text(source)).arg(text(destination));
    system_ssh::run(command, "rsync", "use the --delta option")
}
