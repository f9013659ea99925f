//! Reads single values of `daemon.json`, where numbers and booleans may also be written as strings.

use std::time::Duration;

use serde_json::{Map, Value};

use super::error::ConfigError;

/// The keys that are still to be read; what is left at the end is unknown.
pub(super) struct Keys {
    prefix: &'static str,
    map: Map<String, Value>,
}

impl Keys {
    pub(super) fn new(prefix: &'static str, map: Map<String, Value>) -> Self {
        Self { prefix, map }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn wrong(&self, key: &str, wanted: &str, found: &Value) -> ConfigError {
        ConfigError::value(&self.name(key), format!("expected {wanted}, found `{found}`"))
    }

    /// `null` counts as not given.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(other) => Err(self.wrong(key, "a string", &other)),
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(Value::String(text)) if matches!(text.as_str(), "true" | "1") => Ok(Some(true)),
            Some(Value::String(text)) if matches!(text.as_str(), "false" | "0") => Ok(Some(false)),
            Some(other) => Err(self.wrong(key, "true or false", &other)),
        }
    }

    pub(super) fn integer(&mut self, key: &str) -> Result<Option<i64>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        number.map(Some).ok_or_else(|| self.wrong(key, "a whole number", &value))
    }

    /// A list of strings; one string alone is a list of one.
    pub(super) fn list(&mut self, key: &str) -> Result<Vec<String>, ConfigError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(self.wrong(key, "a list of strings", &other)),
                })
                .collect(),
            Some(other) => Err(self.wrong(key, "a list of strings", &other)),
        }
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Map<String, Value>>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.wrong(key, "an object", &other)),
        }
    }

    pub(super) fn objects(&mut self, key: &str) -> Result<Vec<Map<String, Value>>, ConfigError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::Object(map) => Ok(map),
                    other => Err(self.wrong(key, "a list of objects", &other)),
                })
                .collect(),
            Some(other) => Err(self.wrong(key, "a list of objects", &other)),
        }
    }

    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.map.is_empty() {
            return Ok(());
        }
        Err(ConfigError::UnknownKeys { keys: self.map.keys().map(|key| self.name(key)).collect() })
    }
}

/// `24h`, `1h30m`, `90s`, `7d`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).filter(|at| *at > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_length = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_length] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return None,
        };
        total = total.checked_add(Duration::from_secs(number.checked_mul(unit)?))?;
        rest = &rest[unit_length..];
    }
    (!text.is_empty()).then_some(total)
}
