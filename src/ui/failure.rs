//! How a failure reads: what was attempted, why it failed, and what to do next.

use std::{error::Error, fmt};

use machine_driver::DriverError;
use serde_json::{Value, json};

use crate::{
    bundle::BundleError,
    engine_api::EngineError,
    lifecycle::{BringUpError, CreateError, LoginError},
    provision::ProvisionError,
    ssh::{CopyError, SshError},
    store::StoreError,
};

/// Something went wrong and is to be told. Its exit status is decided here and used once, in `main`.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    /// The host that it is about.
    host: Option<String>,
    status: u8,
}

/// An error with a hint of its own, put round another one.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hinted {
    pub message: String,
    pub hint: String,
}

impl Failure {
    /// A failure with exit status 1.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), host: None, status: 1 }
    }

    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    #[must_use]
    pub fn with_host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn status(&self) -> u8 {
        self.status
    }

    /// As one line of `--json` output.
    pub fn to_json(&self) -> Value {
        let text = self.error.to_string();
        let causes: Vec<String> = self
            .error
            .chain()
            .skip(1)
            .map(ToString::to_string)
            .filter(|cause| !text.contains(cause))
            .collect();
        let mut object = json!({
            "event": "error",
            "text": text,
            "causes": causes,
            "time": jiff::Timestamp::now().to_string(),
        });
        if let Some(host) = &self.host {
            object["host"] = json!(host);
        }
        if let Some(hint) = self.hint() {
            object["hint"] = json!(hint);
        }
        object
    }

    fn hint(&self) -> Option<String> {
        self.error.chain().find_map(hint_of)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("error: ")?;
        if let Some(host) = &self.host {
            write!(formatter, "({host}) ")?;
        }
        let mut said = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            // Libraries below us often repeat their source in their own text.
            if said.contains(&text) {
                continue;
            }
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        formatter.write_str(&said)?;
        if let Some(hint) = self.hint() {
            write!(formatter, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// The hint that an error carries, if it is one of ours.
pub fn hint_of(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<Hinted>() {
        return Some(error.hint.clone());
    }
    if let Some(error) = error.downcast_ref::<CreateError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<BringUpError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<LoginError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<DriverError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<CopyError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<SshError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<ProvisionError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<BundleError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<machine_pki::PkiError>() {
        return error.hint();
    }
    None
}
