//! The tree that a parsed template is.

use serde_json::Value;

/// A place in the template, kept for messages.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) position: usize,
    /// The source of the operand or pipeline, as messages show it.
    pub(crate) source: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { place: Place, name: String, argument: Option<Pipeline> },
    Break,
    Continue,
}

/// `if`, `with` and `range`: a condition and what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) condition: Pipeline,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) place: Place,
    /// The variables it sets, with their dollar signs.
    pub(crate) variables: Vec<String>,
    /// Whether they are set with `=`, so that they must exist already.
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) place: Place,
    pub(crate) first: Operand,
    pub(crate) arguments: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) place: Place,
    pub(crate) term: Term,
    /// The fields taken from the term, from left to right.
    pub(crate) fields: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Term {
    /// `.`, or with fields `.A.B`.
    Dot,
    Nil,
    Constant(Value),
    Variable(String),
    Function(String),
    Pipeline(Box<Pipeline>),
}
