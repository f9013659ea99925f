//! `machine inspect`: a host's record as JSON, or a part of it by a template.

use clap::Args;

use super::hosts;
use crate::{
    store::Store,
    ui::{Failure, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host [default: the host called `default`]
    name: Option<String>,
    /// A Go template, such as `{{.Driver.IPAddress}}`
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub(super) fn run(store: &Store, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let name = hosts::resolve_one(store, arguments.name.as_deref())?;
    let text = store.load(&name)?.to_json();
    let Some(format) = &arguments.format else {
        ui.data(&format!("{text}\n"));
        return Ok(0);
    };
    let template = gotemplate::Parser::decoded()
        .parse(format)
        .map_err(|error| anyhow::Error::new(error).context("template parsing error"))?;
    let data = serde_json::from_str(&text)?;
    ui.data(&format!("{}\n", template.render(&data)?));
    Ok(0)
}
