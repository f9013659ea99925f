//! What bases want done in whatever is made of them, as far as that is known before the build.

use super::instruction::{Instruction, understand_one};

/// The triggers of one stage's base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Triggers {
    pub(crate) known: Vec<Instruction>,
    /// The base is brought only when it is built upon, and may have others then.
    pub(crate) may_be_others: bool,
}

impl Triggers {
    /// Those that make no sense are refused when it is their turn.
    pub(crate) fn of<'a>(texts: impl Iterator<Item = &'a String>) -> Self {
        let known = texts.filter_map(|text| Some(understand_one(text).ok()?.0.instruction));
        Self { known: known.collect(), may_be_others: false }
    }
}
