//! `--filter key=value`, as the API takes it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One filter of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Reads one filter; the name counts without regard to its case.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let (name, value) = text.split_once('=').ok_or("bad format of filter (expected name=value)")?;
    Ok(Filter { name: name.trim().to_lowercase(), value: value.trim().to_owned() })
}

/// `{"status":{"running":true}}`.
pub(crate) fn to_json(filters: &[Filter]) -> Value {
    let mut by_name: BTreeMap<&str, serde_json::Map<String, Value>> = BTreeMap::new();
    for filter in filters {
        by_name.entry(&filter.name).or_default().insert(filter.value.clone(), Value::Bool(true));
    }
    json!(by_name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{parse, to_json};

    #[test]
    fn filters_of_one_name_come_together() {
        let filters: Vec<_> = ["status=running", "label=a=b", "STATUS=exited"]
            .iter()
            .map(|text| parse(text).unwrap())
            .collect();
        assert_eq!(
            to_json(&filters).to_string(),
            r#"{"label":{"a=b":true},"status":{"running":true,"exited":true}}"#
        );
    }

    #[test]
    fn a_filter_needs_a_value() {
        assert_eq!(parse("status").unwrap_err(), "bad format of filter (expected name=value)");
    }
}
