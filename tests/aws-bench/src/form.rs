//! Forms, as the Query API sends them: decoding, encoding, and lists of numbered parameters.

use std::collections::BTreeMap;

/// The parameters of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form(pub(crate) BTreeMap<String, String>);

impl Form {
    pub(crate) fn decode(text: &[u8]) -> Self {
        let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
                    let value = pair.get(at + 1..).unwrap_or_default();
                    (decode(&pair[..at]), decode(value))
                })
                .collect(),
        )
    }

    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    pub(crate) fn encode(&self) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        pairs.join("&")
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The numbers N for which there is a parameter `PREFIX.N` or `PREFIX.N.…`, in order.
    pub(crate) fn numbers(&self, prefix: &str) -> Vec<u32> {
        let mut numbers: Vec<u32> = self
            .0
            .keys()
            .filter_map(|key| key.strip_prefix(prefix)?.strip_prefix('.'))
            .filter_map(|rest| rest.split('.').next()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The values of `PREFIX.1`, `PREFIX.2` and so on.
    pub(crate) fn list(&self, prefix: &str) -> Vec<String> {
        let numbers = self.numbers(prefix);
        numbers
            .into_iter()
            .filter_map(|number| self.get(&format!("{prefix}.{number}")).map(str::to_owned))
            .collect()
    }

    /// Replaces a whole list.
    pub(crate) fn set_list(&mut self, prefix: &str, values: &[String]) {
        let start = format!("{prefix}.");
        self.0.retain(|key, _| !key.starts_with(&start));
        for (number, value) in (1..).zip(values) {
            self.set(format!("{prefix}.{number}"), value);
        }
    }

    /// `Filter.N.Name` with its values.
    pub(crate) fn filters(&self) -> Vec<(String, Vec<String>)> {
        self.numbers("Filter")
            .into_iter()
            .filter_map(|number| {
                let name = self.get(&format!("Filter.{number}.Name"))?.to_owned();
                Some((name, self.list(&format!("Filter.{number}.Value"))))
            })
            .collect()
    }

    /// Takes out the filters that `wanted` names, and numbers the others anew.
    pub(crate) fn take_filters(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Vec<String>)> {
        let (taken, kept): (Vec<_>, Vec<_>) = self.filters().into_iter().partition(|(name, _)| wanted(name));
        self.0.retain(|key, _| !key.starts_with("Filter."));
        for (number, (name, values)) in (1..).zip(kept) {
            self.set(format!("Filter.{number}.Name"), name);
            self.set_list(&format!("Filter.{number}.Value"), &values);
        }
        taken
    }

    /// The tags that `TagSpecification` has for a kind of resource.
    pub(crate) fn tags_for(&self, kind: &str) -> Vec<(String, String)> {
        let mut tags = Vec::new();
        for number in self.numbers("TagSpecification") {
            let prefix = format!("TagSpecification.{number}");
            if self.get(&format!("{prefix}.ResourceType")) != Some(kind) {
                continue;
            }
            for tag in self.numbers(&format!("{prefix}.Tag")) {
                let part = |part: &str| self.get(&format!("{prefix}.Tag.{tag}.{part}")).unwrap_or_default();
                tags.push((part("Key").to_owned(), part("Value").to_owned()));
            }
        }
        tags
    }
}

fn decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let code = text.get(at + 1..at + 3).and_then(|code| std::str::from_utf8(code).ok());
        match (text[at], code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let form = Form::of(&[("A", "x y+z&=%é\n"), ("B.1", "")]);
        assert_eq!(Form::decode(form.encode().as_bytes()), form);
        assert_eq!(Form::decode(b"A=1+2&B&C=%zz%").0.len(), 3);
    }

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        let form = Form::of(&[("Id.10", "c"), ("Id.2", "b"), ("Id.1", "a"), ("Id.x", "no")]);
        assert_eq!(form.list("Id"), ["a", "b", "c"]);
    }

    #[test]
    fn filters_are_taken_and_the_rest_is_numbered_anew() {
        let mut form = Form::of(&[
            ("Filter.1.Name", "instance-state-name"),
            ("Filter.1.Value.1", "running"),
            ("Filter.2.Name", "tag:a"),
            ("Filter.2.Value.1", "b"),
        ]);
        let taken = form.take_filters(|name| name.starts_with("instance-state"));
        assert_eq!(taken, [("instance-state-name".to_owned(), vec!["running".to_owned()])]);
        assert_eq!(form, Form::of(&[("Filter.1.Name", "tag:a"), ("Filter.1.Value.1", "b")]));
    }

    #[test]
    fn tags_are_found_by_kind() {
        let form = Form::of(&[
            ("TagSpecification.1.ResourceType", "volume"),
            ("TagSpecification.1.Tag.1.Key", "k"),
            ("TagSpecification.1.Tag.1.Value", "v"),
        ]);
        assert_eq!(form.tags_for("volume"), [("k".to_owned(), "v".to_owned())]);
        assert!(form.tags_for("instance").is_empty());
    }
}
