//! How a container is to be asked whether it is well, in the shape of the API and of images.

use serde::{Deserialize, Serialize};

use super::null_is_default;

/// What is not said, or zero, is what the image says, and else the engine's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", program, argument, …]` or `["CMD-SHELL", script]`; empty says nothing.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Nanoseconds between checks.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Nanoseconds that a check may take.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Nanoseconds in which a container that starts may fail.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Nanoseconds between checks meanwhile.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that mean unhealthy.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl HealthConfig {
    /// Takes what this does not say from another.
    pub fn or(&mut self, other: Self) {
        if self.test.is_empty() {
            self.test = other.test;
        }
        for (own, other) in [
            (&mut self.interval, other.interval),
            (&mut self.timeout, other.timeout),
            (&mut self.start_period, other.start_period),
            (&mut self.start_interval, other.start_interval),
            (&mut self.retries, other.retries),
        ] {
            if *own == 0 {
                *own = other;
            }
        }
    }
}
