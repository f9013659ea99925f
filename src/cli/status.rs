//! `machine status`: the state of a host, by its driver.

use super::hosts;
use crate::{
    lifecycle::Context,
    ui::{Failure, Ui},
};

pub(super) fn run(context: &Context, ui: &Ui, one: &hosts::MaybeOne) -> Result<u8, Failure> {
    let name = hosts::resolve_one(&context.store, one.name.as_deref())?;
    let record = context.store.load(&name)?;
    let Some(state) = super::block_on(context.state(&record))? else {
        return Ok(super::INTERRUPTED);
    };
    let state = state
        .map_err(|error| anyhow::Error::new(error).context(format!("error getting state for host {name}")))?;
    ui.data(&format!("{state}\n"));
    Ok(0)
}
