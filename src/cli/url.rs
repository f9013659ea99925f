//! `machine url`: the URL of a host's engine.

use std::fmt;

use machine_driver::HostName;
use serde::Serialize;

use super::hosts;
use crate::{
    store::Store,
    ui::{Failure, Report},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EngineUrl {
    name: HostName,
    #[serde(rename = "URL")]
    url: String,
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.url)
    }
}

pub(super) fn run(store: &Store, one: &hosts::OptionalName) -> Result<Report, Failure> {
    let name = hosts::resolve_one(store, one.name.as_deref())?;
    let url = super::env::url_of(&store.load(&name)?)?;
    Report::lines(&[EngineUrl { name, url }])
}
