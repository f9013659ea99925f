//! The `filters` query of list, prune and event calls.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::ApiError;

/// Key to accepted values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads `{"key": {"value": true}}` and the older `{"key": ["value"]}`.
    pub fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let Some(text) = query.filter(|text| !text.is_empty()) else { return Ok(Self::default()) };
        let invalid = || ApiError::bad_request("invalid filter");
        let keys: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| invalid())?;
        let mut filters = BTreeMap::new();
        for (key, values) in keys {
            let values = match values {
                Value::Object(map) => {
                    map.into_iter().filter(|(_, wanted)| *wanted == true).map(|(value, _)| value).collect()
                }
                Value::Array(list) => {
                    let texts: Option<Vec<String>> =
                        list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect();
                    texts.ok_or_else(invalid)?
                }
                _ => return Err(invalid()),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// Refuses keys that the call does not know.
    pub fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => Err(ApiError::bad_request(format!("invalid filter '{unknown}'"))),
            None => Ok(()),
        }
    }

    /// The accepted values of a key; none if the key was not given.
    pub fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.values(key) {
            [] => Ok(None),
            [value] if matches!(value.as_str(), "true" | "1") => Ok(Some(true)),
            [value] if matches!(value.as_str(), "false" | "0") => Ok(Some(false)),
            values => Err(ApiError::bad_request(format!("invalid filter '{key}=[{}]'", values.join(" ")))),
        }
    }

    /// `label=key`, `label=key=value`; all have to fit, and none of `label!`.
    pub fn labels_fit(&self, labels: &BTreeMap<String, String>) -> bool {
        let fits = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").iter().all(fits) && !self.values("label!").iter().any(fits)
    }

    /// The moment that `until` names: a date, Unix seconds, or a time back from now such as `24h`.
    pub fn until(&self) -> Result<Option<Timestamp>, ApiError> {
        match self.values("until") {
            [] => Ok(None),
            [text] => match crate::config::duration(text) {
                Some(back) => Ok(Timestamp::now().checked_sub(back).ok()),
                None => timestamp(text).map(Some),
            },
            _ => Err(ApiError::bad_request("more than one until filter specified")),
        }
    }

    pub fn into_map(self) -> BTreeMap<String, Vec<String>> {
        self.0
    }
}

/// Unix seconds with or without a fraction, or RFC 3339.
pub fn timestamp(text: &str) -> Result<Timestamp, ApiError> {
    let invalid = || ApiError::bad_request(format!("invalid timestamp `{text}`"));
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    Timestamp::new(seconds, if seconds < 0 { -nanoseconds } else { nanoseconds }).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn both_forms_are_read_and_nonsense_is_refused() {
        let filters =
            Filters::parse(Some(r#"{"label":{"a":true,"b=1":true,"c":false},"dangling":["true"]}"#)).unwrap();
        assert_eq!(filters.values("label"), ["a", "b=1"]);
        assert_eq!(filters.boolean("dangling").unwrap(), Some(true));
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(filters.labels_fit(&labels(&[("a", ""), ("b", "1")])));
        assert!(!filters.labels_fit(&labels(&[("a", ""), ("b", "2")])));
        assert_eq!(filters.only(&["label"]).unwrap_err().message, "invalid filter 'dangling'");
        for bad in ["[]", "{", r#"{"a":1}"#, r#"{"a":[1]}"#] {
            assert!(Filters::parse(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(Filters::parse(None).unwrap(), Filters::default());
    }

    #[test]
    fn times_are_read_in_all_their_forms() {
        assert_eq!(timestamp("1700000000").unwrap().as_second(), 1_700_000_000);
        assert_eq!(timestamp("1700000000.5").unwrap().subsec_nanosecond(), 500_000_000);
        assert_eq!(timestamp("2024-01-01T00:00:00Z").unwrap().as_second(), 1_704_067_200);
        for bad in ["", "x", "1.x", "1.0000000000", "99999999999999999999"] {
            assert!(timestamp(bad).is_err(), "{bad}");
        }
        let until = Filters::parse(Some(r#"{"until":["1h"]}"#)).unwrap().until().unwrap().unwrap();
        let back = Timestamp::now().duration_since(until).as_secs();
        assert!((3600..3660).contains(&back), "{back}");
    }
}
