//! `machine host-key`: which SSH host keys are accepted of a host, and which from now on.

use clap::{Args, Subcommand};
use machine_driver::HostName;
use serde::Serialize;

use super::hosts;
use crate::{
    lifecycle::{self, Context, HostKeyQuestion, LoginError},
    ssh::{SshError, expected_key, fingerprint_of, is_fingerprint},
    ui::{Failure, Report, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the host keys that are accepted: the fingerprint, and the key where it is known
    Show {
        /// The host
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Accept other host keys from now on, those given or the one that the host shows; for a host that was installed anew
    Pin {
        /// The host
        #[arg(value_name = "NAME")]
        name: String,
        /// `ssh-ed25519 AAAA…` or `SHA256:…`; without it, the host is asked for its key, and you whether it is the right one
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Accept none, so that the next login asks
    Forget {
        /// The host
        #[arg(value_name = "NAME")]
        name: String,
    },
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<Report, Failure> {
    match &arguments.verb {
        Verb::Show { name } => show(context, &named(context, name)?),
        Verb::Pin { name, keys } => pin(context, ui, &named(context, name)?, keys),
        Verb::Forget { name } => {
            lifecycle::set_host_keys(context, &named(context, name)?, Vec::new())?;
            ui.say(&format!("No SSH host key of `{name}` is accepted; the next login asks"));
            Ok(Report::default())
        }
    }
}

/// A host of the store that has SSH.
fn named(context: &Context, name: &str) -> Result<HostName, Failure> {
    let name = hosts::resolve_one(&context.store, Some(name))?;
    let record = context.store.load(&name)?;
    if record.endpoint.as_ref().is_some_and(|endpoint| endpoint.ssh.is_none()) {
        return Err(LoginError::NoSsh { name }.into());
    }
    Ok(name)
}

/// A host key that is accepted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Accepted<'a> {
    name: &'a HostName,
    fingerprint: String,
    /// As a line; nothing where only the fingerprint is known.
    key: Option<String>,
}

impl std::fmt::Display for Accepted<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.key {
            Some(key) => write!(formatter, "{} {key}", self.fingerprint),
            None => formatter.write_str(&self.fingerprint),
        }
    }
}

fn show(context: &Context, name: &HostName) -> Result<Report, Failure> {
    let mut accepted = Vec::new();
    for recorded in context.store.load(name)?.ssh_host_keys {
        let fingerprint = fingerprint_of(&recorded)
            .ok_or_else(|| Failure::new(SshError::HostKeyRecord { line: recorded.clone() }))?;
        accepted.push(Accepted { name, fingerprint, key: (!is_fingerprint(&recorded)).then_some(recorded) });
    }
    Report::lines(&accepted)
}

fn pin(context: &Context, ui: &Ui, name: &HostName, keys: &[String]) -> Result<Report, Failure> {
    let keys = if keys.is_empty() {
        match super::block_on(shown(context, name))? {
            Some(shown) => vec![shown?],
            None => return Ok(Report::status(super::INTERRUPTED)),
        }
    } else {
        match keys.iter().map(|key| expected_key(key)).collect::<Result<Vec<_>, _>>() {
            Ok(keys) => keys,
            // Without quotes, a key comes in words.
            Err(error) => vec![expected_key(&keys.join(" ")).map_err(|_| error)?],
        }
    };
    let fingerprints: Vec<String> = keys.iter().filter_map(|key| fingerprint_of(key)).collect();
    lifecycle::set_host_keys(context, name, keys)?;
    ui.say(&format!("The SSH host key of `{name}` has to be {} from now on", fingerprints.join(" or ")));
    Ok(Report::default())
}

/// The key that the host shows, if somebody says that it is the right one.
async fn shown(context: &Context, name: &HostName) -> Result<String, Failure> {
    let record = context.store.load(name)?;
    let offered = lifecycle::shown_host_key(&record).await?;
    if record.ssh_host_keys.contains(&offered.line) {
        return Ok(offered.line);
    }
    let (prompter, shown, host) = (context.prompter.clone(), offered.clone(), name.clone());
    let accepted = tokio::task::spawn_blocking(move || {
        let Some(ssh) = record.endpoint.as_ref().and_then(|endpoint| endpoint.ssh.as_ref()) else {
            return false;
        };
        prompter.accepts(&HostKeyQuestion {
            host: &host,
            address: &ssh.host,
            port: ssh.port,
            recorded: &record.ssh_host_keys,
            offered: &shown,
        })
    });
    if accepted.await.unwrap_or(false) {
        return Ok(offered.line);
    }
    Err(Failure::text(format!(
        "The host key that `{name}` shows was not accepted: it is {} {}",
        offered.kind(),
        offered.fingerprint
    ))
    .with_hint(format!(
        "If `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says the same on the host, run `machine host-key pin {name} {}`",
        offered.fingerprint
    )))
}
