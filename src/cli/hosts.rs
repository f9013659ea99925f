//! The names that commands take, and running a command for several hosts side by side.

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use machine_driver::HostName;

use crate::{
    store::{Store, StoreError},
    ui::{Failure, Ui},
};

/// One or more hosts; none means `default`.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The hosts [default: the host called `default`]
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
}

/// One host; none means `default`, or nothing where that makes sense.
#[derive(Debug, Args)]
pub(crate) struct OptionalName {
    /// The host [default: the host called `default`]
    #[arg(value_name = "NAME")]
    pub(super) name: Option<String>,
}

/// How many hosts are worked on at once: nearly all of the time goes by waiting for them.
pub(super) const AT_ONCE: usize = 64;

/// Every name as a host of the store; nothing is done if one of them is none.
pub(super) fn resolve(store: &Store, names: &[String]) -> Result<Vec<HostName>, Failure> {
    if names.is_empty() {
        return Ok(vec![default_host(store)?]);
    }
    let mut hosts: Vec<HostName> = Vec::with_capacity(names.len());
    for name in names {
        let host = existing(store, name)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// One name, or the host called `default`.
pub(super) fn resolve_one(store: &Store, name: Option<&str>) -> Result<HostName, Failure> {
    match name {
        Some(name) => existing(store, name),
        None => default_host(store),
    }
}

fn existing(store: &Store, name: &str) -> Result<HostName, Failure> {
    let host: HostName = name.parse().map_err(|_| {
        Failure::text(format!("`{name}` is no name of a host"))
            .with_hint("Names have letters, digits, `.` and `-`; `machine ls` lists the hosts that there are")
    })?;
    if store.exists(&host) { Ok(host) } else { Err(StoreError::Missing { name: host }.into()) }
}

fn default_host(store: &Store) -> Result<HostName, Failure> {
    match "default".parse::<HostName>() {
        Ok(host) if store.exists(&host) => Ok(host),
        _ => {
            Err(Failure::text("Error: No machine name(s) specified and no \"default\" machine exists")
                .verbatim())
        }
    }
}

/// Runs `work` for every host, several at once, and reports failures in the order of the names.
/// The exit status is 0 only if all went well.
pub(super) fn for_each<W, F>(ui: &Ui, hosts: &[HostName], work: W) -> Result<u8, Failure>
where
    W: Fn(HostName) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let all = async {
        stream::iter(hosts.iter().cloned())
            .map(|host| {
                let name = host.to_string();
                let working = work(host);
                async move { (name, working.await) }
            })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>()
            .await
    };
    let Some(results) = super::block_on(all)? else {
        ui.warn("Interrupted");
        return Ok(super::INTERRUPTED);
    };
    let several = results.len() > 1;
    let mut status = 0;
    for (name, result) in results {
        if let Err(failure) = result {
            status = status.max(failure.status());
            ui.report(&if several { failure.with_host(&name) } else { failure });
        }
    }
    Ok(status)
}
