//! The lines that pass between `machine` and a driver that is a program.

use machine_driver::{CONTRACT, Description, DriverError, DriverInfo, Endpoint, Entry, Flag, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The first line that the program reads.
#[derive(Debug, Serialize)]
pub(crate) struct Request<'a> {
    contract: u32,
    call: &'a str,
    #[serde(flatten)]
    arguments: Value,
}

impl<'a> Request<'a> {
    /// `arguments` is an object.
    pub(crate) fn new(call: &'a str, arguments: Value) -> Self {
        Self { contract: CONTRACT, call, arguments }
    }
}

/// What the program is told of a host's journal.
#[derive(Debug, Serialize)]
pub(crate) struct JournalView {
    pub(crate) entries: Vec<Entry>,
    pub(crate) state: Value,
}

/// The answer to a line that writes the journal.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    pub(crate) written: bool,
}

/// A line of the program.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Step(String),
    Note(String),
    Intend {
        kind: String,
        name: String,
        #[serde(default)]
        place: Option<String>,
    },
    Made {
        kind: String,
        name: String,
        #[serde(default)]
        id: Option<String>,
        state: Value,
    },
    Gone {
        kind: String,
        name: String,
    },
    SetState(Value),
    Row(RowLine),
    Result(Value),
    Error(DriverError),
}

/// A host of `describe_many`.
#[derive(Debug, Deserialize)]
pub(crate) struct RowLine {
    pub(crate) host: usize,
    #[serde(default)]
    state: Option<State>,
    #[serde(default)]
    endpoint: Option<Endpoint>,
    #[serde(default)]
    error: Option<DriverError>,
}

impl RowLine {
    /// `None` where neither a state nor an error is told.
    pub(crate) fn description(self) -> Option<Result<Description, DriverError>> {
        match (self.error, self.state) {
            (Some(error), _) => Some(Err(error)),
            (None, Some(state)) => Some(Ok(Description { state, endpoint: self.endpoint })),
            (None, None) => None,
        }
    }
}

/// What `hello` returns.
#[derive(Debug, Deserialize)]
pub(crate) struct Hello {
    pub(crate) contract: u32,
    pub(crate) info: DriverInfo,
    #[serde(default)]
    pub(crate) flags: Vec<Flag>,
    #[serde(default)]
    pub(crate) scope_flags: Vec<Flag>,
}
