//! `machine url`: the URL of a host's engine.

use super::hosts;
use crate::{
    store::Store,
    ui::{Failure, Ui},
};

pub(super) fn run(store: &Store, ui: &Ui, one: &hosts::MaybeOne) -> Result<u8, Failure> {
    let name = hosts::resolve_one(store, one.name.as_deref())?;
    ui.data(&format!("{}\n", super::env::url_of(&store.load(&name)?)?));
    Ok(0)
}
