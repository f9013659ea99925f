//! `machine version`: of this program, or of a host's engine.

use std::fmt;

use machine_driver::HostName;
use serde::Serialize;

use super::{
    hosts,
    settings::{Settings, program_name},
};
use crate::{
    lifecycle,
    ui::{Failure, Report, Ui},
};

/// Of this program: `machine version 0.1.0, build 1a2b3c4`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Own {
    #[serde(skip)]
    program: String,
    version: &'static str,
    build: &'static str,
}

impl fmt::Display for Own {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} version {}, build {}", self.program, self.version, self.build)
    }
}

/// Of a host's engine, as it answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OfEngine {
    name: HostName,
    docker_version: String,
}

impl fmt::Display for OfEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.docker_version)
    }
}

pub(super) fn own(settings: &Settings) -> Result<Report, Failure> {
    Report::lines(&[Own {
        program: program_name(&settings.words),
        version: env!("CARGO_PKG_VERSION"),
        build: option_env!("MACHINE_BUILD").unwrap_or("unknown"),
    }])
}

pub(super) fn run(settings: &Settings, ui: &Ui, one: &hosts::OptionalName) -> Result<Report, Failure> {
    if one.name.is_none() {
        return own(settings);
    }
    let context = settings.context(ui)?;
    let name = hosts::resolve_one(&context.store, one.name.as_deref())?;
    let record = context.store.load(&name)?;
    let url = super::env::url_of(&record)?;
    let asked = super::block_on(async {
        let client = lifecycle::engine_client(&context.store, &record, &url)?;
        Ok::<_, lifecycle::ClientError>(client.version().await?)
    })?;
    let Some(version) = asked else { return Ok(Report::status(super::INTERRUPTED)) };
    Report::lines(&[OfEngine { name, docker_version: version?.version }])
}
