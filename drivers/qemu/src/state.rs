//! What is stored of a VM while it exists.

use std::{net::Ipv4Addr, path::PathBuf};

use machine_driver::DriverError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{image::Image, inside::Inside, process::Process};

/// The driver's state in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Ipv4Addr>,
    /// 22, or another one where 22 cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_port: Option<u16>,
    /// `None`: an older version made the VM, or QEMU was too old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<Inside>,
    /// The QEMU that was named, in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) binary: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<Image>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<Process>,
}

impl Made {
    pub(crate) fn parse(state: &Value) -> Result<Self, DriverError> {
        machine_driver::parse_state(state)
    }
}

/// A VM's state and the journal that it is written to.
pub(crate) type Book<'a> = machine_driver::Book<'a, Made>;
