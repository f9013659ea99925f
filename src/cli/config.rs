//! `machine config`: the options that point one docker command at a host.

use std::{fmt, path::Path};

use clap::Args;
use machine_driver::HostName;
use serde::Serialize;

use super::{env::Target, hosts};
use crate::{
    store::Store,
    ui::{Failure, Report},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host [default: the host called `default`]
    name: Option<String>,
    /// Point at the swarm manager's port instead of the engine's
    #[arg(long)]
    swarm: bool,
    /// Make sure that the engine answers, and accepts the certificates
    #[arg(long)]
    check: bool,
}

/// The options of the docker command line, without their dashes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerOptions {
    name: HostName,
    #[serde(flatten)]
    tls: Option<Tls>,
    host: String,
}

#[derive(Debug, Serialize)]
struct Tls {
    tlsverify: bool,
    tlscacert: String,
    tlscert: String,
    tlskey: String,
}

impl Tls {
    fn with_files_in(folder: &Path) -> Self {
        let file = |name| folder.join(name).display().to_string();
        Self {
            tlsverify: true,
            tlscacert: file("ca.pem"),
            tlscert: file("cert.pem"),
            tlskey: file("key.pem"),
        }
    }
}

/// docker-machine's five lines, with paths quoted as Go and JSON do.
impl fmt::Display for DockerOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tls) = &self.tls {
            writeln!(formatter, "--tlsverify")?;
            for (option, path) in
                [("tlscacert", &tls.tlscacert), ("tlscert", &tls.tlscert), ("tlskey", &tls.tlskey)]
            {
                writeln!(formatter, "--{option}={}", serde_json::Value::from(path.as_str()))?;
            }
        }
        writeln!(formatter, "-H={}", self.host)
    }
}

pub(super) fn run(store: &Store, arguments: &Arguments) -> Result<Report, Failure> {
    let name = hosts::resolve_one(store, arguments.name.as_deref())?;
    let target = Target::of(store, &name, arguments.swarm)?;
    if arguments.check {
        target.check(store)?;
    }
    let tls = target.tls.then(|| Tls::with_files_in(&target.folder));
    let options = DockerOptions { name, tls, host: target.url };
    Report::with_text(options.to_string(), &[options])
}
