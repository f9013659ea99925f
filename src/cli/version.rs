//! `machine version`: of this program, or of a host's engine.

use std::ffi::OsString;

use super::{arguments, hosts};
use crate::{
    engine_api::EngineClient,
    lifecycle::Context,
    ui::{Failure, Ui},
};

/// `machine version 0.1.0, build 1a2b3c4`
pub(super) fn own(program: &str) -> String {
    format!(
        "{program} version {}, build {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("MACHINE_BUILD").unwrap_or("unknown")
    )
}

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    one: &hosts::MaybeOne,
    words: &[OsString],
) -> Result<u8, Failure> {
    if one.name.is_none() {
        ui.data(&own(&arguments::program_name(words)));
        return Ok(0);
    }
    let name = hosts::resolve_one(&context.store, one.name.as_deref())?;
    let url = super::env::url_of(&context.store.load(&name)?)?;
    let asked = super::block_on(async {
        let client = match context.store.certificates().client_of(&name) {
            Ok(files) => EngineClient::new(&url, &files.ca_pem, &files.cert_pem, &files.key_pem)?,
            Err(_) => EngineClient::plain(&url)?,
        };
        client.version().await
    })?;
    let Some(version) = asked else { return Ok(super::INTERRUPTED) };
    ui.data(&format!("{}\n", version?.version));
    Ok(0)
}
