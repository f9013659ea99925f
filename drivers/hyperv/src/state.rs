//! What is stored of a VM while it exists.

use std::net::IpAddr;

use machine_driver::DriverError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::image::Image;

/// The driver's state in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Image>,
    /// The id that Hyper-V gave the VM, once it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<String>,
    /// Where it was reached last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<IpAddr>,
}

impl Made {
    pub(crate) fn parse(state: &Value) -> Result<Self, DriverError> {
        machine_driver::parse_state(state)
    }
}

/// A VM's state and the journal that it is written to.
pub(crate) type Book<'a> = machine_driver::Book<'a, Made>;
