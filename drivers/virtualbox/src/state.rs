//! What is stored of a VM while it exists.

use machine_driver::{DriverError, local::inside::Inside};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{image::Image, place::Place};

/// The driver's state in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<Inside>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Image>,
    /// The VM has everything that belongs to it. Before that it is made anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) whole: bool,
}

impl Made {
    pub(crate) fn parse(state: &Value) -> Result<Self, DriverError> {
        machine_driver::parse_state(state)
    }
}

/// A VM's state and the journal that it is written to.
pub(crate) type Book<'a> = machine_driver::Book<'a, Made>;
