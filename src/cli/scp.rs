//! `machine scp`: files to, from and between hosts.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use clap::Args;
use machine_driver::HostName;
use serde::Serialize;

use super::{hosts, settings::Settings, ssh, system_ssh};
use crate::{
    lifecycle::Context,
    ssh::{CopyEvent, CopyLimits, CopyOptions, Place, Session, copy},
    store::{Record, Store},
    ui::{Failure, Report, Ui, chain},
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
    /// Say nothing, and show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The most that is taken from a host at once, such as `500M` or `2T`
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256G", conflicts_with = "delta")]
    max_size: u64,
    /// The most files and folders that are taken from a host at once
    #[arg(long, value_name = "NUMBER", default_value_t = CopyLimits::default().entries, conflicts_with = "delta")]
    max_files: u64,
}

/// A number of bytes, with `K`, `M`, `G` or `T` for 1024 of the one before.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("a size is a number with K, M, G or T after it".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "a size begins with a whole number".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than there can be".to_owned())
}

/// One side of a copy, as it was written.
#[derive(Debug)]
enum Side {
    Here(PathBuf),
    There { record: Box<Record>, path: String },
}

/// What was copied.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Copied<'a> {
    source: &'a str,
    destination: &'a str,
    /// Folders are not counted.
    files: u64,
    bytes: u64,
}

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    settings: &Settings,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let store = &context.store;
    let (source, destination) = (side(store, &arguments.source)?, side(store, &arguments.destination)?);
    if arguments.delta {
        settings.refuse_json("`--delta` passes on what rsync prints", "Leave out `--delta` or `--json`")?;
        return delta(context, ui, &source, &destination, arguments).map(Report::status);
    }
    let options = CopyOptions {
        recursive: arguments.recursive,
        limits: CopyLimits { bytes: arguments.max_size, entries: arguments.max_files },
        ..CopyOptions::default()
    };
    let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let copied = super::block_on(async {
        let (from, to) = (open(context, ui, &source).await?, open(context, ui, &destination).await?);
        let transfer = (!arguments.quiet).then(|| ui.transfer());
        let follow = |event: CopyEvent<'_>| match event {
            CopyEvent::File { name, size } => {
                files.fetch_add(1, Ordering::Relaxed);
                if let Some(transfer) = &transfer {
                    transfer.begin(name, size);
                }
            }
            CopyEvent::Bytes(count) => {
                bytes.fetch_add(count, Ordering::Relaxed);
                if let Some(transfer) = &transfer {
                    transfer.advance(count);
                }
            }
        };
        let (there, here) = (place(&source, from.as_ref()), place(&destination, to.as_ref()));
        let copied = copy(&there, &here, options, &follow).await;
        drop(transfer);
        if let Err(error) = &copied {
            // The first one is told last, with all of them counted.
            for failure in error.each().into_iter().skip(1) {
                ui.report(&Failure::text(chain(failure).join(": ")));
            }
        }
        copied?;
        for session in [from, to].into_iter().flatten() {
            session.close().await;
        }
        Ok::<_, Failure>(())
    })?;
    match copied {
        Some(Ok(())) => {
            let Arguments { source, destination, .. } = arguments;
            let (files, bytes) = (files.into_inner(), bytes.into_inner());
            // As with `scp`, a person has nothing to read when all went well.
            Report::with_text(String::new(), &[Copied { source, destination, files, bytes }])
        }
        Some(Err(failure)) => Err(failure),
        None => Ok(Report::status(super::INTERRUPTED)),
    }
}

/// An argument without `:` is a path here, and so is one that begins with `localhost:`, `/` or `.`, or with a drive.
fn side(store: &Store, text: &str) -> Result<Side, Failure> {
    let Some((host, path)) = text.split_once(':') else { return Ok(Side::Here(text.into())) };
    let is_path = host.contains(std::path::is_separator) || host.starts_with('.');
    if is_path || (cfg!(windows) && is_drive(host)) {
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

/// A host of one letter is reached by `USER@HOST:` alone, as with OpenSSH for Windows.
fn is_drive(host: &str) -> bool {
    matches!(host.as_bytes(), [letter] if letter.is_ascii_alphabetic())
}

async fn open(context: &Context, ui: &Ui, side: &Side) -> Result<Option<Session>, Failure> {
    match side {
        Side::Here(_) => Ok(None),
        Side::There { record, .. } => Ok(Some(ssh::log_in(context, ui, record).await?)),
    }
}

fn place<'a>(side: &Side, session: Option<&'a Session>) -> Place<'a> {
    match (side, session) {
        (Side::There { record, path }, Some(session)) => {
            Place::Remote { session, name: record.name.to_string(), path: path.clone() }
        }
        (Side::There { path, .. }, None) => Place::Local(path.into()),
        (Side::Here(path), _) => Place::Local(path.clone()),
    }
}

/// What rsync passes on of a shell that does not find rsync.
const NO_SUCH_COMMAND: u8 = 127;

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
    system_ssh::needs_unix("`--delta`", "rsync", "Leave it out: everything is copied then")?;
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
    match system_ssh::run(command, "rsync", "use the --delta option")? {
        NO_SUCH_COMMAND => Err(Failure::text(format!(
            "There is no rsync on `{}`, and `--delta` needs one at both ends",
            remote.name
        ))
        .with_hint("Leave `--delta` out: everything is copied then")
        .with_status(NO_SUCH_COMMAND)),
        status => Ok(status),
    }
}
