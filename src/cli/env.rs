//! `machine env`: the commands that point a docker client at a host, for the user's shell.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Args;
use machine_driver::{Endpoint, HostName, State};
use serde_json::{Map, Value, json};

use super::{
    hosts,
    settings::Settings,
    shell::{self, Shell},
};
use crate::{
    lifecycle,
    store::{Operation, Record, Store, StoreError},
    ui::{Failure, Report},
};

#[derive(Debug, Args)]
#[command(after_help = shell::FORMS)]
pub(crate) struct Arguments {
    /// The host [default: the host called `default`]
    name: Option<String>,
    /// Point at the swarm manager's port instead of the engine's
    #[arg(long)]
    swarm: bool,
    #[arg(long, help = shell::HELP)]
    shell: Option<String>,
    /// Take the variables back instead
    #[arg(short, long)]
    unset: bool,
    /// Add the host's address to NO_PROXY and no_proxy as well; with --unset, take hosts' addresses out of them
    #[arg(long)]
    no_proxy: bool,
    /// Make sure that the engine answers, and accepts the certificates
    #[arg(long)]
    check: bool,
}

/// What a docker client needs to know of a host.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) address: String,
    pub(super) folder: PathBuf,
    pub(super) tls: bool,
    record: Record,
}

impl Target {
    /// From the record and the files beside it: no network, and no lock but to put the files in order.
    pub(super) fn of(store: &Store, name: &HostName, swarm: bool) -> Result<Self, Failure> {
        let record = store.load(name)?;
        let mut url = url_of(&record)?;
        if swarm {
            if !record.host_options.swarm_options.master {
                return Err(Failure::text(format!(
                    "\"{name}\" is not a swarm master. The --swarm flag is intended for use with swarm masters"
                )));
            }
            url = swarm_url(&record, &url);
        }
        // Whatever is missing, unreadable, foreign or expired is an error: never plain HTTP in its place. The docker
        // client reads the files by itself.
        let tls = lifecycle::ready_client_folder(store, &record)?;
        let folder = store.folder(name);
        Ok(Self { url, address: record.driver.ip_address.clone(), folder, tls, record })
    }

    /// A TLS handshake with the host's engine.
    pub(super) fn check(&self, store: &Store) -> Result<(), Failure> {
        let checked = super::block_on(async {
            lifecycle::engine_client(store, &self.record, &self.url)?.version().await?;
            Ok::<(), Failure>(())
        })?;
        match checked {
            Some(result) => result.map_err(|failure| failure.context("Error checking TLS connection")),
            None => Err(Failure::text("Interrupted").with_status(super::INTERRUPTED)),
        }
    }
}

/// The engine's URL of a host that runs, as far as is recorded.
pub(super) fn url_of(record: &Record) -> Result<String, Failure> {
    if matches!(record.state, State::Stopped | State::Stopping | State::Saved | State::Paused) {
        return Err(Failure::text("Host is not running")
            .with_hint(format!("Start it with `machine start {}`", record.name)));
    }
    record.phase.check(&record.name, Operation::UseEngine).map_err(StoreError::from)?;
    record.endpoint.as_ref().map(Endpoint::url).ok_or_else(|| {
        Failure::text(format!("`{}` has no address: nobody has recorded where it is reached", record.name))
    })
}

/// The URL of the swarm manager's port, whose number is in the option that the host was created with.
fn swarm_url(record: &Record, url: &str) -> String {
    let port = record.host_options.swarm_options.host.rsplit(':').next().filter(|port| !port.is_empty());
    let base = url.rsplit_once(':').map_or(url, |(base, _)| base);
    format!("{base}:{}", port.unwrap_or("3376"))
}

/// The variables of the docker client, in docker-machine's order; one without a value is taken back.
type Variables = Vec<(&'static str, Option<String>)>;

pub(super) fn run(settings: &Settings, arguments: &Arguments) -> Result<Report, Failure> {
    settings.refuse_with_json("--shell", arguments.shell.is_some())?;
    let variables = if arguments.unset { unset(settings, arguments)? } else { set(settings, arguments)? };
    let object: Map<String, Value> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let mut text = String::new();
    if !settings.json {
        let shell = Shell::find(arguments.shell.as_deref(), &settings.environment)?;
        for (name, value) in &variables {
            match value {
                Some(value) => text.push_str(&shell.set(name, value)?),
                None => text.push_str(&shell.unset(name)),
            }
        }
        let words: Vec<String> =
            settings.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        text.push_str(&shell.hint(&words));
    }
    Report::with_text(text, &[object])
}

fn set(settings: &Settings, arguments: &Arguments) -> Result<Variables, Failure> {
    let store = settings.store()?;
    let name = hosts::resolve_one(&store, arguments.name.as_deref())?;
    let target = Target::of(&store, &name, arguments.swarm)?;
    if arguments.check {
        target.check(&store)?;
    }
    // Without TLS, the variables of a host that the shell was pointed at before are taken back.
    let mut variables = vec![
        ("DOCKER_TLS_VERIFY", target.tls.then(|| "1".to_owned())),
        ("DOCKER_HOST", Some(target.url.clone())),
        ("DOCKER_CERT_PATH", target.tls.then(|| target.folder.display().to_string())),
        ("DOCKER_MACHINE_NAME", Some(name.to_string())),
    ];
    if arguments.no_proxy {
        let lists = no_proxy_lists(settings)?;
        variables.extend(
            lists.into_iter().map(|(variable, list)| (variable, Some(with_address(&list, &target.address)))),
        );
    }
    Ok(variables)
}

fn unset(settings: &Settings, arguments: &Arguments) -> Result<Variables, Failure> {
    if arguments.name.is_some() {
        return Err(Failure::text("Error: Expected no machine name when the -u flag is present").verbatim());
    }
    let mut variables: Variables =
        ["DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME"]
            .map(|variable| (variable, None))
            .into();
    if arguments.no_proxy {
        let ours = addresses(settings)?;
        variables.extend(
            no_proxy_lists(settings)?
                .into_iter()
                .map(|(variable, list)| (variable, without_addresses(&list, &ours))),
        );
    }
    Ok(variables)
}

/// The lists that programs read. Go reads `NO_PROXY` first, curl `no_proxy`: where both are set, both matter.
fn no_proxy_lists(settings: &Settings) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut lists = Vec::new();
    for (variable, value) in &settings.environment.no_proxy {
        let list = value.to_str().ok_or_else(|| {
            Failure::text(format!("The value of `{variable}` is not valid UTF-8 and cannot be added to"))
                .with_hint(format!("Correct it, or leave out `--no-proxy`: `{variable}` stays as it is then"))
        })?;
        if !list.is_empty() {
            lists.push((*variable, list.to_owned()));
        }
    }
    if lists.is_empty() {
        lists.push(("NO_PROXY", String::new()));
    }
    Ok(lists)
}

/// The list with the address added, unless it is in there already.
fn with_address(list: &str, address: &str) -> String {
    if list.is_empty() {
        address.to_owned()
    } else if list.split(',').any(|part| part.trim() == address) {
        list.to_owned()
    } else {
        format!("{list},{address}")
    }
}

/// The user's own list again: without the addresses of hosts. Nothing left is nothing set.
fn without_addresses(list: &str, addresses: &BTreeSet<String>) -> Option<String> {
    let own: Vec<&str> = list.split(',').filter(|part| !addresses.contains(part.trim())).collect();
    Some(own.join(",")).filter(|list| !list.is_empty())
}

/// The addresses that `--no-proxy` may have added: of all hosts, and of the one that the shell is pointed at.
fn addresses(settings: &Settings) -> Result<BTreeSet<String>, Failure> {
    let listed = settings.store()?.list()?;
    let mut addresses: BTreeSet<String> = listed
        .into_iter()
        .filter_map(|(_, record)| record.ok())
        .map(|record| record.driver.ip_address)
        .collect();
    let pointed_at = settings.environment.docker_host.split_once("://").map_or("", |(_, rest)| rest);
    let host = pointed_at.rsplit_once(':').map_or(pointed_at, |(host, _)| host);
    addresses.insert(host.trim_matches(['[', ']']).to_owned());
    addresses.remove("");
    Ok(addresses)
}
