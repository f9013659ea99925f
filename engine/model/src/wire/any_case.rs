//! Bodies whose fields are written in another case than the API's: Go's programs take them for the same fields, and clients rely
//! on that (Docker's library for Python sends `detachKeys`).

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};
use serde_json::map::Iter;
use serde_json::{Error, Map, Value};

/// A value whose fields are found in whatever case.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnyCase<'de>(pub(super) &'de Value);

/// The value of a field, in whatever case its name is written; as it is written here, if both are there.
pub(super) fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).or_else(|| {
        let other = fields.keys().find(|other| other.eq_ignore_ascii_case(name))?.clone();
        fields.remove(&other)
    })
}

impl<'de> Deserializer<'de> for AnyCase<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => visitor.visit_map(Fields::new(object, &[])),
            Value::Array(list) => visitor.visit_seq(Elements(list.iter())),
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // A list of values without names is none, as for Go.
        let unexpected = match self.0 {
            Value::Object(object) => return visitor.visit_map(Fields::new(object, fields)),
            Value::Array(_) => Unexpected::Seq,
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(_) => Unexpected::Other("number"),
            Value::String(text) => Unexpected::Str(text),
        };
        Err(Error::invalid_type(unexpected, &visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Elements<'de>(std::slice::Iter<'de, Value>);

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|value| seed.deserialize(AnyCase(value))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Fields<'de> {
    object: &'de Map<String, Value>,
    /// Of the type that is read; none for a map, whose keys are anybody's.
    known: &'static [&'static str],
    rest: Iter<'de>,
    value: Option<&'de Value>,
}

impl<'de> Fields<'de> {
    fn new(object: &'de Map<String, Value>, known: &'static [&'static str]) -> Self {
        Self { object, known, rest: object.iter(), value: None }
    }

    /// The name of the field that is meant. Of several spellings, the last one counts, or that of the API if it is among them.
    fn meant(&self, key: &'de str) -> &'de str {
        if self.known.contains(&key) {
            return key;
        }
        let mut known = self.known.iter().copied();
        let same = known.find(|name| name.eq_ignore_ascii_case(key) && !self.object.contains_key(*name));
        let mut later = self.rest.clone();
        match same {
            Some(name) if !later.any(|(other, _)| other.eq_ignore_ascii_case(key)) => name,
            _ => key,
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        let key: serde::de::value::BorrowedStrDeserializer<'de, Error> =
            serde::de::value::BorrowedStrDeserializer::new(self.meant(key));
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(AnyCase(self.value.take().unwrap_or(&Value::Null)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;
    use serde_json::json;

    use super::super::CreateRequest;
    use super::*;

    #[test]
    fn fields_are_found_in_whatever_case() {
        let body = json!({
            "image": "busybox", "CMD": ["true"], "labels": {"Key": "1", "key": "2"},
            "hostConfig": {"autoRemove": true, "RestartPolicy": {"name": "always"}, "mounts": [{"TARGET": "/x"}]},
            "networkingconfig": {"endpointsConfig": {"Net": {"aliases": ["a"]}}},
        });
        let request = CreateRequest::read(body.to_string().as_bytes()).unwrap();
        assert_eq!((request.config.image.as_str(), request.config.cmd.unwrap().len()), ("busybox", 1));
        assert_eq!(request.config.labels.len(), 2, "keys of maps are as they are");
        assert!(request.host_config.auto_remove);
        assert_eq!(request.host_config.restart_policy.name, "always");
        assert_eq!(request.host_config.mounts.unwrap()[0].target, "/x");
        let endpoints = request.networking_config.endpoints_config;
        assert_eq!(endpoints["Net"].as_ref().unwrap().aliases.as_deref(), Some(&["a".to_owned()][..]));
        assert_eq!(request.unknown, Vec::<String>::new());
    }

    #[test]
    fn a_list_is_no_object() {
        for (body, said) in [
            (json!({ "HostConfig": { "RestartPolicy": ["always", 3] } }), "invalid type: sequence"),
            (json!({ "HostConfig": { "Mounts": [["/a", "/b"]] } }), "invalid type: sequence"),
            (json!({ "HostConfig": { "RestartPolicy": 3 } }), "invalid type: number"),
        ] {
            let error = CreateRequest::read(body.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_name_as_it_is_written_counts() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Body {
            name: String,
        }
        let read = |body: &Value| Body::deserialize(AnyCase(body)).map(|body| body.name);
        assert_eq!(read(&json!({ "Name": "one", "name": "two" })).unwrap(), "one");
        assert_eq!(read(&json!({ "name": "two" })).unwrap(), "two");
        assert_eq!(read(&json!({ "NAME": "two", "name": "three" })).unwrap(), "three");
        assert!(read(&json!({ "names": "two" })).is_err());
    }
}
