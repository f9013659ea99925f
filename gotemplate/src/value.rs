//! What Go would call, print and encode the values that templates work on.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// The name of the value's type in Go.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(number) if number.is_i64() => "int",
        Value::Number(_) => "uint64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Whether `if` takes the value for true.
pub(crate) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(string) => !string.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// The entries of a map in the order that Go prints and ranges over them.
pub(crate) fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| key.as_str());
    entries
}

/// The value as `%v` prints it.
pub fn display(value: &Value) -> String {
    let mut out = String::new();
    write_display(&mut out, value);
    out
}

fn write_display(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&display_number(number)),
        Value::String(string) => out.push_str(string),
        Value::Array(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                write_display(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (index, (key, item)) in sorted(map).into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                write_display(out, item);
            }
            out.push(']');
        }
    }
}

fn display_number(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_general(float, None),
        _ => number.to_string(),
    }
}

/// The decimal digits of a number and the power of ten of the first of them.
fn digits(float: f64, precision: Option<usize>) -> (String, i32) {
    let text = match precision {
        Some(precision) => format!("{:.*e}", precision, float.abs()),
        None => format!("{:e}", float.abs()),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.replace('.', ""), exponent.parse().unwrap_or(0))
}

fn special(float: f64) -> Option<&'static str> {
    match float {
        float if float.is_nan() => Some("NaN"),
        f64::INFINITY => Some("+Inf"),
        f64::NEG_INFINITY => Some("-Inf"),
        _ => None,
    }
}

/// `%e`.
pub(crate) fn float_exponent(float: f64, precision: Option<usize>) -> String {
    if let Some(text) = special(float) {
        return text.to_owned();
    }
    let (digits, exponent) = digits(float, precision);
    exponent_form(float.is_sign_negative(), &digits, exponent)
}

fn exponent_form(negative: bool, digits: &str, exponent: i32) -> String {
    let sign = if negative { "-" } else { "" };
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{point}{rest}e{exponent_sign}{:02}", exponent.unsigned_abs())
}

/// `%f`, with as many digits as needed when `precision` is not given.
pub(crate) fn float_fixed(float: f64, precision: Option<usize>) -> String {
    match (special(float), precision) {
        (Some(text), _) => text.to_owned(),
        (None, Some(precision)) => format!("{float:.precision$}"),
        (None, None) => format!("{float}"),
    }
}

/// `%g`, with as many digits as needed when `precision` is not given.
pub fn float_general(float: f64, precision: Option<usize>) -> String {
    if let Some(text) = special(float) {
        return text.to_owned();
    }
    let (mut digits, exponent) = digits(float, precision.map(|precision| precision.max(1) - 1));
    if precision.is_some() {
        let kept = digits.trim_end_matches('0').len().max(1);
        digits.truncate(kept);
    }
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let threshold = match precision.map(|precision| i32::try_from(precision.max(1)).unwrap_or(i32::MAX)) {
        None => 6,
        Some(precision) if precision > count && count > exponent => count,
        Some(precision) => precision,
    };
    if exponent < -4 || exponent >= threshold {
        return exponent_form(float.is_sign_negative(), &digits, exponent);
    }
    let decimals = usize::try_from(count - exponent - 1).unwrap_or(0);
    format!("{float:.decimals$}")
}

/// The value in JSON as Go's encoder writes it, on one line.
///
/// `escape_html` writes `<`, `>` and `&` as escapes, which is Go's default.
pub fn json(value: &Value, escape_html: bool) -> String {
    let mut out = String::new();
    write_json(&mut out, value, escape_html, None, 0);
    out
}

/// The value in JSON on many lines, each level moved in by `indent`.
pub fn pretty_json(value: &Value, escape_html: bool, indent: &str) -> String {
    let mut out = String::new();
    write_json(&mut out, value, escape_html, Some(indent), 0);
    out
}

fn new_line(out: &mut String, indent: Option<&str>, depth: usize) {
    if let Some(indent) = indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_json(out: &mut String, value: &Value, escape_html: bool, indent: Option<&str>, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => out.push_str(&json_float(float)),
            _ => out.push_str(&number.to_string()),
        },
        Value::String(string) => write_json_string(out, string, escape_html),
        Value::Array(list) if list.is_empty() => out.push_str("[]"),
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Array(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                new_line(out, indent, depth + 1);
                write_json(out, item, escape_html, indent, depth + 1);
            }
            new_line(out, indent, depth);
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                new_line(out, indent, depth + 1);
                write_json_string(out, key, escape_html);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write_json(out, item, escape_html, indent, depth + 1);
            }
            new_line(out, indent, depth);
            out.push('}');
        }
    }
}

fn json_float(float: f64) -> String {
    let size = float.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        // Go drops the zero of a one-digit negative exponent.
        return float_exponent(float, None).replace("e-0", "e-");
    }
    float_fixed(float, None)
}

fn write_json_string(out: &mut String, string: &str, escape_html: bool) {
    out.push('"');
    for character in string.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '<' | '>' | '&' if !escape_html => out.push(character),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{display, float_exponent, float_general, json as encode, pretty_json};

    /// What Go's `%v` printed for each.
    #[test]
    fn floats_print_as_in_go() {
        for (float, text) in [
            (1_234_567.5, "1.2345675e+06"),
            (1_000_000.0, "1e+06"),
            (123_456.789, "123456.789"),
            (100_000.0, "100000"),
            (1e20, "1e+20"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.0, "0"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(float_general(float, None), text);
        }
        assert_eq!(float_general(1_234_567.5, Some(3)), "1.23e+06");
        assert_eq!(float_general(100.0, Some(4)), "100");
        assert_eq!(float_exponent(1_234_567.5, Some(6)), "1.234568e+06");
    }

    #[test]
    fn lists_and_maps_print_as_in_go() {
        let value = json!({"b": [1, "two", null, {"x": true}], "a": 1.5});
        assert_eq!(display(&value), "map[a:1.5 b:[1 two <nil> map[x:true]]]");
    }

    #[test]
    fn json_escapes_as_go_does() {
        let value = json!({"z": "a<b>&\u{2028}\u{1}\n\"", "a": 1e21, "n": 1e6, "s": 1e-7});
        assert_eq!(
            encode(&value, true),
            r#"{"z":"a\u003cb\u003e\u0026\u2028\u0001\n\"","a":1e+21,"n":1000000,"s":1e-7}"#
        );
        assert_eq!(encode(&json!("<&"), false), r#""<&""#);
        assert_eq!(
            pretty_json(&json!({"a": [1], "b": {}}), true, "    "),
            "{\n    \"a\": [\n        1\n    ],\n    \"b\": {}\n}"
        );
    }
}
