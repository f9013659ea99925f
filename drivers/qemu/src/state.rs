//! What is stored of a VM while it exists.

use std::{net::Ipv4Addr, path::PathBuf};

use machine_driver::{DriverError, Journal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{image::Image, process::Process};

/// The driver's state in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Ipv4Addr>,
    /// 22, or another one where 22 cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_port: Option<u16>,
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
        if state.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(state.clone()).map_err(|error| {
            DriverError::failed("Could not read the driver's state in the record").with_source(error)
        })
    }

    pub(crate) fn to_value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(self)
            .map_err(|error| DriverError::failed("Could not write the driver's state").with_source(error))
    }
}

/// A VM's state and the journal that it is written to.
pub(crate) struct Book<'a> {
    pub(crate) journal: &'a mut dyn Journal,
    pub(crate) made: Made,
}

impl<'a> Book<'a> {
    pub(crate) fn open(journal: &'a mut dyn Journal) -> Result<Self, DriverError> {
        let made = Made::parse(&journal.state())?;
        Ok(Self { journal, made })
    }

    pub(crate) fn intend(&mut self, kind: &str, name: &str) -> Result<(), DriverError> {
        Ok(self.journal.intend(kind, name)?)
    }

    pub(crate) fn made(&mut self, kind: &str, name: &str, id: Option<&str>) -> Result<(), DriverError> {
        let state = self.made.to_value()?;
        Ok(self.journal.made(kind, name, id, state)?)
    }

    pub(crate) fn gone(&mut self, kind: &str, name: &str) -> Result<(), DriverError> {
        Ok(self.journal.gone(kind, name)?)
    }

    pub(crate) fn save(&mut self) -> Result<(), DriverError> {
        let state = self.made.to_value()?;
        if state != self.journal.state() {
            self.journal.set_state(state)?;
        }
        Ok(())
    }

    /// The names of what the journal has of a kind.
    pub(crate) fn named(&self, kind: &str) -> Vec<String> {
        let entries = self.journal.entries();
        entries.into_iter().filter(|entry| entry.kind == kind).map(|entry| entry.name).collect()
    }
}
