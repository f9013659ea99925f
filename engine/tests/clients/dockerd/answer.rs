//! An answer as it is compared: its content as JSON, without what differs from run to run or from machine to machine.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::harness;

/// Headers that are the connection's, or say nothing that the content does not say.
const PASSED_OVER: [&str; 5] =
    ["connection", "content-length", "date", "transfer-encoding", "x-content-type-options"];

/// Numbers that are this run's or this machine's own, unless they are zero or negative, which means something.
const NUMBERS: [&str; 14] = [
    "Created",
    "LayersSize",
    "Pid",
    "SharedSize",
    "Size",
    "SizeRootFs",
    "SizeRw",
    "SpaceReclaimed",
    "UniqueSize",
    "VirtualSize",
    "mtime",
    "size",
    "time",
    "timeNano",
];

/// Arrays in which dockerd promises no order.
const UNORDERED: [&str; 6] = ["CapAdd", "CapDrop", "DNSNames", "Mounts", "Ports", "RepoTags"];

/// The warning of an engine that is not allowed everything that root is.
const OF_THIS_MACHINE: &str = "This engine may not raise limits";

/// An answer as it is compared.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Normal {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, Value>,
    pub(super) body: Value,
}

impl Normal {
    pub(super) fn new(answer: &harness::Answer, mut content: Value, names: &Names) -> Self {
        names.normalise("", &mut content);
        let mut headers: BTreeMap<String, Value> = BTreeMap::new();
        for (name, value) in &answer.headers {
            if PASSED_OVER.contains(&name.as_str()) {
                continue;
            }
            let mut value = match name.as_str() {
                "x-docker-container-path-stat" => {
                    let bytes = base64::engine::general_purpose::STANDARD.decode(value).unwrap();
                    serde_json::from_slice(&bytes).unwrap()
                }
                _ => json!(value),
            };
            names.normalise("", &mut value);
            headers.insert(name.clone(), value);
        }
        Self { status: answer.status, headers, body: content }
    }

    /// Every value becomes the name of its type.
    pub(super) fn keep_shape(&mut self) {
        fn shape(value: &mut Value) {
            match value {
                Value::Object(map) => map.values_mut().for_each(shape),
                Value::Array(list) => {
                    list.iter_mut().for_each(shape);
                    list.sort_by_key(Value::to_string);
                    list.dedup();
                }
                Value::Null => {}
                Value::Bool(_) => *value = json!("<boolean>"),
                Value::Number(_) => *value = json!("<number>"),
                Value::String(_) => *value = json!("<string>"),
            }
        }
        shape(&mut self.body);
    }

    /// Puts the answer's list, or the lists in it, into an order of their own.
    pub(super) fn sort(&mut self) {
        let lists: Vec<&mut Value> = match &mut self.body {
            Value::Object(map) => map.values_mut().collect(),
            body => vec![body],
        };
        for list in lists.into_iter().filter_map(Value::as_array_mut) {
            list.sort_by_key(sorting);
        }
    }

    /// How many values there are to compare.
    pub(super) fn fields(&self) -> usize {
        fn count(value: &Value) -> usize {
            match value {
                Value::Object(map) => map.values().map(count).sum(),
                Value::Array(list) => list.iter().map(count).sum(),
                _ => 1,
            }
        }
        1 + self.headers.values().map(count).sum::<usize>() + count(&self.body)
    }
}

/// By what both name alike, first.
fn sorting(value: &Value) -> String {
    let keys = ["Destination", "Name", "Names", "Path", "PrivatePort", "RepoTags"];
    let known = keys.iter().find_map(|key| value.get(key)).unwrap_or(&Value::Null);
    format!("{known} {value}")
}

/// What a daemon said, by what it is: JSON, several values of it, frames of two streams, a tar archive, or text.
pub(super) fn content(answer: &harness::Answer) -> Value {
    let bytes = &answer.body;
    if bytes.is_empty() {
        return Value::Null;
    }
    if let Ok(value) = serde_json::from_slice(bytes) {
        return value;
    }
    let several: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(bytes).into_iter().collect();
    if let Ok(several) = several {
        return json!({ "values": several });
    }
    frames(bytes).or_else(|| archive(bytes)).unwrap_or_else(|| json!({ "text": answer.text() }))
}

/// Standard output and standard error, of frames.
fn frames(mut rest: &[u8]) -> Option<Value> {
    let mut streams: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    while !rest.is_empty() {
        let head: [u8; 8] = rest.get(..8)?.try_into().ok()?;
        let name = match head[..4] {
            [1, 0, 0, 0] => "stdout",
            [2, 0, 0, 0] => "stderr",
            [3, 0, 0, 0] => "error",
            _ => return None,
        };
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        streams.entry(name).or_default().extend_from_slice(rest.get(8..8 + length)?);
        rest = &rest[8 + length..];
    }
    let text = |bytes: Vec<u8>| json!(String::from_utf8_lossy(&bytes));
    Some(Value::Object(streams.into_iter().map(|(name, bytes)| (name.to_owned(), text(bytes))).collect()))
}

/// What is in an archive, by name. Blobs go by a digest of their own, so that they only count.
fn archive(bytes: &[u8]) -> Option<Value> {
    if bytes.get(257..262)? != b"ustar" {
        return None;
    }
    let mut files = Map::new();
    for entry in tar::Archive::new(bytes).entries().ok()? {
        let mut entry = entry.ok()?;
        let name = entry.path().ok()?.display().to_string();
        let header = entry.header().clone();
        let mut file = json!({
            "type": format!("{:?}", header.entry_type()),
            "mode": format!("{:o}", header.mode().ok()?),
            "uid": header.uid().ok()?,
            "gid": header.gid().ok()?,
            "link": header.link_name().ok()?.map(|link| link.display().to_string()),
        });
        if name.rsplit('.').next() == Some("json") || ["repositories", "oci-layout"].contains(&name.as_str())
        {
            file["content"] = serde_json::from_reader(&mut entry).ok()?;
        }
        // The applets of busybox are many.
        if !name.starts_with("bin/") {
            files.insert(name, file);
        }
    }
    Some(json!({ "archive": files }))
}

/// Ids that were answered, by the names of the calls that made them.
pub(super) struct Names {
    /// The data root and the folder of what does not outlive a boot, with a slash at their ends, and what stands for them.
    roots: [(String, &'static str); 2],
    /// This machine's.
    hostname: String,
    /// The id, without the name of an algorithm; the name.
    ids: Vec<(String, String)>,
}

impl Names {
    pub(super) fn new([data, run]: [&str; 2]) -> Self {
        let roots = [(format!("{data}/"), "<data-root>/"), (format!("{run}/"), "<exec-root>/")];
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { roots, hostname, ids: Vec::new() }
    }

    /// Learns what the thing is called that this answer is about.
    pub(super) fn learn(&mut self, call: &str, content: &Value) {
        let id = ["Id", "ID"].iter().find_map(|key| content.get(key)?.as_str());
        let Some(id) = id.map(|id| id.trim_start_matches("sha256:")) else { return };
        if id.len() == 64 && !self.ids.iter().any(|(known, _)| known == id) {
            self.ids.push((id.to_owned(), call.to_owned()));
        }
    }

    /// A made-up one for a call that got none, so that the script goes on.
    pub(super) fn id_of(&self, call: &str) -> &str {
        self.ids.iter().find(|(_, name)| name == call).map_or("nothing", |(id, _)| id)
    }

    fn normalise(&self, key: &str, value: &mut Value) {
        match value {
            // Its counters are the kernel's.
            Value::Object(map) if key == "memory_stats" && map.contains_key("stats") => {
                map.insert("stats".to_owned(), json!("<counters>"));
            }
            Value::Object(map) => {
                for (key, mut value) in std::mem::take(map) {
                    self.normalise(&key, &mut value);
                    map.insert(self.text("", &key), value);
                }
            }
            Value::Array(list) => {
                if key == "Warnings" {
                    list.retain(|warning| {
                        !warning.as_str().is_some_and(|text| text.starts_with(OF_THIS_MACHINE))
                    });
                }
                for value in list.iter_mut() {
                    self.normalise(key, value);
                }
                if UNORDERED.contains(&key) {
                    list.sort_by_key(sorting);
                }
            }
            Value::String(text) => *text = self.text(key, text),
            Value::Number(number) => {
                let port = ["PublicPort", "HostPort"].contains(&key) && number.as_i64() >= Some(32768);
                if port || NUMBERS.contains(&key) && number.as_i64().is_none_or(|number| number > 0) {
                    *value = json!("<number>");
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&self, key: &str, text: &str) -> String {
        if key == "HostPort" && text.parse::<u16>().is_ok_and(|port| port >= 32768) {
            return "<port>".to_owned();
        }
        if key == "Hostname" && text == self.hostname {
            return "<host>".to_owned();
        }
        if key == "execDuration" {
            return "<number>".to_owned();
        }
        if key == "Status" {
            return status(text);
        }
        let mut text = text.to_owned();
        for (root, stands) in &self.roots {
            text = text.replace(root, stands);
        }
        for (id, name) in &self.ids {
            text = text.replace(id, &format!("<id of {name}>"));
            text = text.replace(&id[..12], &format!("<short id of {name}>"));
        }
        without_times(&without_ids(&text))
    }
}

/// `Up 3 seconds (healthy)` without the time.
fn status(text: &str) -> String {
    let (state, after) = text.split_once(" (").map_or((text, None), |(state, after)| (state, Some(after)));
    if state.starts_with("Up ") {
        return after.map_or_else(|| "Up <time>".to_owned(), |after| format!("Up <time> ({after}"));
    }
    match after.and_then(|after| after.split_once(") ")) {
        Some((code, _)) => format!("{state} ({code}) <time>"),
        None => text.to_owned(),
    }
}

/// Ids that no call was told of: 64 or 12 hexadecimal digits.
fn without_ids(text: &str) -> String {
    let mut found = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|one: char| !one.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_hex = word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match word.len() {
            64 if is_hex => found.push_str("<id>"),
            12 if is_hex => found.push_str("<short id>"),
            _ => found.push_str(word),
        }
        let mut separators = after.chars();
        found.extend(separators.next());
        rest = separators.as_str();
    }
    found
}

/// Moments and hardware addresses.
fn without_times(text: &str) -> String {
    let bytes = text.as_bytes();
    let matches = |at: usize, pattern: &[u8]| {
        bytes.get(at..at + pattern.len()).is_some_and(|part| {
            part.iter().zip(pattern).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                b'f' => byte.is_ascii_hexdigit(),
                wanted => byte == wanted,
            })
        })
    };
    let mut found = String::new();
    let mut at = 0;
    while let Some(one) = text[at..].chars().next() {
        if matches(at, b"0000-00-00T00:00:00") && !text[at..].starts_with("0001-") {
            at += "0000-00-00T00:00:00".len();
            while bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.') {
                at += 1;
            }
            if bytes.get(at) == Some(&b'Z') {
                at += 1;
            } else if matches(at, b"+00:00") || matches(at, b"-00:00") {
                at += 6;
            }
            found.push_str("<time>");
        } else if matches(at, b"ff:ff:ff:ff:ff:ff") {
            at += "ff:ff:ff:ff:ff:ff".len();
            found.push_str("<mac>");
        } else {
            found.push(one);
            at += one.len_utf8();
        }
    }
    found
}
