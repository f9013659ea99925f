//! The functions that every Go template has, and those that Docker's programs add.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::Value;

use crate::printf::printf;
use crate::value::{display, json, pretty_json, truth, type_name};
use crate::{Function, OUTPUT_LIMIT};

/// What a function answers.
pub type Answer = Result<Value, String>;

/// The functions of Go's text/template. `and` and `or` are here by name only: they are evaluated lazily.
pub(crate) fn standard() -> Vec<(&'static str, Function)> {
    fn entry(name: &'static str, function: fn(&[Value]) -> Answer) -> (&'static str, Function) {
        (name, std::sync::Arc::new(function))
    }
    vec![
        entry("and", |arguments| Ok(arguments.last().cloned().unwrap_or_default())),
        entry("or", |arguments| Ok(arguments.last().cloned().unwrap_or_default())),
        entry("call", call),
        entry("not", |arguments| one("not", arguments).map(|value| Value::Bool(!truth(value)))),
        entry("len", len),
        entry("index", index),
        entry("slice", slice),
        entry("print", |arguments| Ok(Value::String(print(arguments)))),
        entry("println", |arguments| Ok(Value::String(print_line(arguments)))),
        entry("printf", |arguments| match arguments {
            [Value::String(format), rest @ ..] => printf(format, rest, OUTPUT_LIMIT).map(Value::String),
            [] => Err("wrong number of args for printf: want at least 1 got 0".to_owned()),
            [other, ..] => Err(format!("wrong type for value; expected string; got {}", type_name(other))),
        }),
        entry("html", |arguments| Ok(Value::String(escape_html(&text(arguments))))),
        entry("js", |arguments| Ok(Value::String(escape_js(&text(arguments))))),
        entry("urlquery", |arguments| Ok(Value::String(escape_query(&text(arguments))))),
        entry("eq", eq),
        entry("ne", |arguments| {
            two("ne", arguments).and_then(|(a, b)| equal(a, b)).map(|same| Value::Bool(!same))
        }),
        entry("lt", |arguments| order("lt", arguments, Ordering::is_lt)),
        entry("le", |arguments| order("le", arguments, Ordering::is_le)),
        entry("gt", |arguments| order("gt", arguments, Ordering::is_gt)),
        entry("ge", |arguments| order("ge", arguments, Ordering::is_ge)),
    ]
}

/// The functions that the docker command line adds.
pub(crate) fn docker() -> Vec<(&'static str, Function)> {
    fn entry(name: &'static str, function: fn(&[Value]) -> Answer) -> (&'static str, Function) {
        (name, std::sync::Arc::new(function))
    }
    vec![
        entry("json", |arguments| one("json", arguments).map(|value| Value::String(json(value, false)))),
        entry("prettyjson", |arguments| {
            one("prettyjson", arguments).map(|value| Value::String(pretty_json(value, false, "    ")))
        }),
        entry("join", |arguments| {
            let (list, separator) = two("join", arguments)?;
            let parts: Vec<String> = match list {
                Value::Array(list) => list.iter().map(display).collect(),
                Value::Null => Vec::new(),
                other => return Err(format!("expected a slice, got {}", type_name(other))),
            };
            Ok(Value::String(parts.join(string(separator)?)))
        }),
        entry("split", |arguments| {
            let (whole, separator) = two("split", arguments)?;
            let (whole, separator) = (string(whole)?, string(separator)?);
            let parts: Vec<Value> = if separator.is_empty() {
                whole.chars().map(|character| Value::String(character.to_string())).collect()
            } else {
                whole.split(separator).map(Value::from).collect()
            };
            Ok(Value::Array(parts))
        }),
        entry("lower", |arguments| Ok(Value::String(string(one("lower", arguments)?)?.to_lowercase()))),
        entry("upper", |arguments| Ok(Value::String(string(one("upper", arguments)?)?.to_uppercase()))),
        entry("title", |arguments| Ok(Value::String(title(string(one("title", arguments)?)?)))),
        entry("pad", |arguments| match arguments {
            [Value::String(text), before, after] if text.is_empty() => {
                let _ = (before, after);
                Ok(Value::String(String::new()))
            }
            [Value::String(text), before, after] => {
                let (before, after) = (spaces(before)?, spaces(after)?);
                Ok(Value::String(format!("{before}{text}{after}")))
            }
            _ => Err("expected a string and two integers".to_owned()),
        }),
        entry("truncate", |arguments| {
            let (text, length) = two("truncate", arguments)?;
            let length = length.as_u64().and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or("expected a string and an integer")?;
            Ok(Value::String(string(text)?.chars().take(length).collect()))
        }),
    ]
}

fn spaces(count: &Value) -> Result<String, String> {
    let count =
        count.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= OUTPUT_LIMIT);
    count.map(|count| " ".repeat(count)).ok_or_else(|| "expected a string and two integers".to_owned())
}

fn one<'a>(name: &str, arguments: &'a [Value]) -> Result<&'a Value, String> {
    match arguments {
        [value] => Ok(value),
        _ => Err(format!("wrong number of args for {name}: want 1 got {}", arguments.len())),
    }
}

fn two<'a>(name: &str, arguments: &'a [Value]) -> Result<(&'a Value, &'a Value), String> {
    match arguments {
        [first, second] => Ok((first, second)),
        _ => Err(format!("wrong number of args for {name}: want 2 got {}", arguments.len())),
    }
}

fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("wrong type for value; expected string; got {}", type_name(value)))
}

fn call(arguments: &[Value]) -> Answer {
    match arguments.first() {
        Some(Value::Null) | None => Err("call of nil".to_owned()),
        Some(value) => Err(format!("non-function {} of type {}", display(value), type_name(value))),
    }
}

fn len(arguments: &[Value]) -> Answer {
    match one("len", arguments)? {
        Value::String(text) => Ok(Value::from(text.len())),
        Value::Array(list) => Ok(Value::from(list.len())),
        Value::Object(map) => Ok(Value::from(map.len())),
        Value::Null => Err("len of nil pointer".to_owned()),
        other => Err(format!("len of type {}", type_name(other))),
    }
}

fn position(index: &Value, length: usize) -> Result<usize, String> {
    let Some(number) = index.as_i64().filter(|_| !index.is_f64()) else {
        return Err(match index {
            Value::Null => "cannot index slice/array with nil".to_owned(),
            other => format!("cannot index slice/array with type {}", type_name(other)),
        });
    };
    usize::try_from(number)
        .ok()
        .filter(|position| *position < length)
        .ok_or_else(|| format!("index out of range: {number}"))
}

fn index(arguments: &[Value]) -> Answer {
    let (item, indexes) =
        arguments.split_first().ok_or("wrong number of args for index: want at least 1 got 0")?;
    if item.is_null() {
        return Err("index of untyped nil".to_owned());
    }
    let mut current = item;
    for index in indexes {
        current = match current {
            Value::Array(list) => &list[position(index, list.len())?],
            Value::String(text) => return Ok(Value::from(text.as_bytes()[position(index, text.len())?])),
            Value::Object(map) => match index {
                Value::String(key) => map.get(key).unwrap_or(&Value::Null),
                Value::Null => return Err("value is nil; should be string".to_owned()),
                other => return Err(format!("value has type {}; should be string", type_name(other))),
            },
            Value::Null => return Err("index of nil pointer".to_owned()),
            other => return Err(format!("can't index item of type {}", type_name(other))),
        };
    }
    Ok(current.clone())
}

fn slice(arguments: &[Value]) -> Answer {
    let (item, indexes) =
        arguments.split_first().ok_or("wrong number of args for slice: want at least 1 got 0")?;
    let length = match item {
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        Value::Null => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", type_name(other))),
    };
    if indexes.len() > 3 {
        return Err(format!("too many slice indexes: {}", indexes.len()));
    }
    if indexes.len() == 3 && item.is_string() {
        return Err("cannot 3-index slice a string".to_owned());
    }
    let mut bounds = [0, length, length];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        *bound = position(index, length + 1)?;
    }
    let [start, end, _] = bounds;
    if start > end {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    Ok(match item {
        Value::String(text) => {
            Value::String(String::from_utf8_lossy(&text.as_bytes()[start..end]).into_owned())
        }
        Value::Array(list) => Value::Array(list[start..end].to_vec()),
        _ => Value::Null,
    })
}

/// Go's Sprint: a space between two operands of which neither is a string.
pub(crate) fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (index, value) in arguments.iter().enumerate() {
        if index > 0 && !value.is_string() && !arguments[index - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&display(value));
    }
    out
}

fn print_line(arguments: &[Value]) -> String {
    let mut out = arguments.iter().map(display).collect::<Vec<_>>().join(" ");
    out.push('\n');
    out
}

/// The arguments of an escaping function as one text.
fn text(arguments: &[Value]) -> String {
    match arguments {
        [Value::Null] => "<no value>".to_owned(),
        _ => print(arguments),
    }
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' | '\0'..='\x1f' | '\x7f' => {
                // Writing to a string cannot fail, here and below.
                let _ = write!(out, "\\u{:04X}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            out.push(character);
        } else {
            out.extend(character.to_uppercase());
        }
        inside = character.is_alphanumeric() || character == '_' || character == '\'';
    }
    out
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

fn equal(first: &Value, second: &Value) -> Result<bool, String> {
    match (first, second) {
        (Value::Null, other) | (other, Value::Null) => Ok(other.is_null()),
        (Value::Bool(first), Value::Bool(second)) => Ok(first == second),
        (Value::String(first), Value::String(second)) => Ok(first == second),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => {
            Ok(compare(a, b) == Some(Ordering::Equal))
        }
        (Value::Array(_) | Value::Object(_), other) | (other, Value::Array(_) | Value::Object(_)) => {
            let _ = other;
            Err("non-comparable types".to_owned())
        }
        _ => Err(INCOMPATIBLE.to_owned()),
    }
}

fn compare(first: &serde_json::Number, second: &serde_json::Number) -> Option<Ordering> {
    let integer = |number: &serde_json::Number| {
        number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
    };
    match (integer(first), integer(second)) {
        (Some(first), Some(second)) => Some(first.cmp(&second)),
        _ => first.as_f64()?.partial_cmp(&second.as_f64()?),
    }
}

fn eq(arguments: &[Value]) -> Answer {
    let Some((first, others)) = arguments.split_first() else {
        return Err("wrong number of args for eq: want at least 1 got 0".to_owned());
    };
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn order(name: &str, arguments: &[Value], holds: fn(Ordering) -> bool) -> Answer {
    let (first, second) = two(name, arguments)?;
    let ordering = match (first, second) {
        (Value::String(first), Value::String(second)) => Some(first.cmp(second)),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => compare(a, b),
        (Value::Number(_) | Value::String(_), Value::Number(_) | Value::String(_)) => {
            return Err(INCOMPATIBLE.to_owned());
        }
        _ => return Err("invalid type for comparison".to_owned()),
    };
    Ok(Value::Bool(ordering.is_some_and(holds)))
}
