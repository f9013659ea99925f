//! `machine config`: the options that point one docker command at a host.

use clap::Args;

use super::{env::Target, hosts};
use crate::{
    store::Store,
    ui::{Failure, Ui},
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

pub(super) fn run(store: &Store, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let name = hosts::resolve_one(store, arguments.name.as_deref())?;
    let target = Target::of(store, &name, arguments.swarm)?;
    if arguments.check {
        target.check(store, &name)?;
    }
    let mut text = String::new();
    if target.tls {
        let folder = &target.folder;
        text.push_str("--tlsverify\n");
        for (option, file) in [("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")] {
            let path = folder.join(file).display().to_string();
            text.push_str(&format!("--{option}={}\n", serde_json::Value::from(path)));
        }
    }
    text.push_str(&format!("-H={}\n", target.url));
    ui.data(&text);
    Ok(0)
}
