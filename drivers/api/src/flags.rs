//! A driver's options: declared as data, handed back as checked values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The kind of value that an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlagKind {
    Text,
    /// May be given several times; its environment variable is split at commas.
    List,
    Integer,
    /// Takes no value; present means true.
    Switch,
    /// Of an older program, and not taken any more: its help says why. Not shown, and refused with that reason.
    Retired,
}

/// One option of a driver, such as `--qemu-memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// Without the dashes, and beginning with the driver's name.
    pub name: String,
    /// Other names for the same option, of an older program.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The environment variable that gives it when the command line does not.
    #[serde(default)]
    pub environment: Option<String>,
    pub kind: FlagKind,
    /// As it would be written on the command line.
    #[serde(default)]
    pub default: Option<String>,
    /// What stands for the value in the help, such as `MIB`.
    pub value_name: String,
    pub help: String,
}

impl Flag {
    /// An option without a default, aliases or environment variable.
    pub fn new(name: &str, kind: FlagKind, value_name: &str, help: &str) -> Self {
        Self {
            name: name.to_owned(),
            aliases: Vec::new(),
            environment: None,
            kind,
            default: None,
            value_name: value_name.to_owned(),
            help: help.to_owned(),
        }
    }

    /// Another name for the same option, of an older program.
    #[must_use]
    pub fn alias(mut self, name: &str) -> Self {
        self.aliases.push(name.to_owned());
        self
    }

    /// The environment variable that gives it when the command line does not.
    #[must_use]
    pub fn environment(mut self, variable: &str) -> Self {
        self.environment = Some(variable.to_owned());
        self
    }

    /// What it is when nobody gives it, as it would be written on the command line.
    #[must_use]
    pub fn default(mut self, value: &str) -> Self {
        self.default = Some(value.to_owned());
        self
    }
}

/// A value given for an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    Switch(bool),
    Integer(i64),
    Text(String),
    List(Vec<String>),
}

/// The values of a driver's options, defaults included, by flag name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(BTreeMap<String, OptionValue>);

/// Why a text is no value for an option.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionsError {
    #[error("`--{name}` takes a whole number, not `{value}`")]
    NotANumber { name: String, value: String },
    #[error("`--{name}` takes `true` or `false`, not `{value}`")]
    NotASwitch { name: String, value: String },
    #[error("`--{name}` is not taken: {reason}")]
    Retired { name: String, reason: String },
}

impl Options {
    /// The defaults of `flags`, then whatever `given` says (name → texts, as on the command line).
    pub fn resolve(flags: &[Flag], given: &BTreeMap<String, Vec<String>>) -> Result<Self, OptionsError> {
        let mut values = BTreeMap::new();
        for flag in flags {
            let texts: Vec<String> = match given.get(&flag.name) {
                Some(texts) => texts.clone(),
                None => flag.default.clone().into_iter().collect(),
            };
            if let Some(value) = parse(flag, &texts)? {
                values.insert(flag.name.clone(), value);
            }
        }
        Ok(Self(values))
    }

    /// The text of an option that was given and is not empty, or has a default.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(OptionValue::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(OptionValue::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn switch(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(OptionValue::Switch(true)))
    }

    pub fn list(&self, name: &str) -> &[String] {
        match self.0.get(name) {
            Some(OptionValue::List(list)) => list,
            _ => &[],
        }
    }
}

fn parse(flag: &Flag, texts: &[String]) -> Result<Option<OptionValue>, OptionsError> {
    let last = texts.last();
    Ok(match flag.kind {
        FlagKind::Retired if last.is_none() => None,
        FlagKind::Retired => {
            return Err(OptionsError::Retired { name: flag.name.clone(), reason: flag.help.clone() });
        }
        FlagKind::Text => last.map(|text| OptionValue::Text(text.clone())),
        FlagKind::List => Some(OptionValue::List(texts.to_vec())),
        FlagKind::Integer => {
            match last {
                None => None,
                Some(text) => Some(OptionValue::Integer(text.trim().parse().map_err(|_| {
                    OptionsError::NotANumber { name: flag.name.clone(), value: text.clone() }
                })?)),
            }
        }
        FlagKind::Switch => match last.map(String::as_str) {
            Some("" | "true" | "1") => Some(OptionValue::Switch(true)),
            None | Some("false" | "0") => Some(OptionValue::Switch(false)),
            Some(other) => {
                return Err(OptionsError::NotASwitch { name: flag.name.clone(), value: other.to_owned() });
            }
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn flag(name: &str, kind: FlagKind, default: Option<&str>) -> Flag {
        Flag { default: default.map(str::to_owned), ..Flag::new(name, kind, "X", "") }
    }

    fn given(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        pairs
            .iter()
            .map(|(name, texts)| ((*name).into(), texts.iter().map(|t| (*t).into()).collect()))
            .collect()
    }

    #[test]
    fn defaults_stand_where_nothing_is_given() {
        let flags = [
            flag("m", FlagKind::Integer, Some("1024")),
            flag("s", FlagKind::Switch, None),
            flag("t", FlagKind::Text, None),
        ];
        let options = Options::resolve(&flags, &given(&[])).unwrap();
        assert_eq!((options.integer("m"), options.switch("s"), options.text("t")), (Some(1024), false, None));
    }

    #[test]
    fn a_number_that_is_none_is_refused_by_name() {
        let error =
            Options::resolve(&[flag("m", FlagKind::Integer, None)], &given(&[("m", &["lots"])])).unwrap_err();
        assert_eq!(error.to_string(), "`--m` takes a whole number, not `lots`");
    }
}
