//! `printf`: Go's verbs, flags, widths and complaints.

use std::fmt::Write as _;

use serde_json::Value;

use crate::value::{display, float_exponent, float_fixed, float_general, sorted, type_name};

/// Widths and precisions above this are refused, as in Go.
const MAXIMUM_WIDTH: i64 = 1_000_000;

#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "Each is a character that stands in the format or does not"
)]
struct Flags {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Formats `arguments`; stops with an error when the result grows over `limit` bytes.
pub(crate) fn printf(format: &str, arguments: &[Value], limit: usize) -> Result<String, String> {
    // Writing to a string cannot fail, here and below.
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    let mut next = 0_usize;
    let mut reordered = false;
    while let Some(character) = rest.next() {
        if out.len() > limit {
            return Err(format!("the result is longer than {limit} bytes"));
        }
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut flags = Flags::default();
        while let Some(flag) = rest.peek() {
            match flag {
                '+' => flags.plus = true,
                '-' => flags.minus = true,
                '#' => flags.sharp = true,
                ' ' => flags.space = true,
                '0' => flags.zero = true,
                _ => break,
            }
            rest.next();
        }
        flags.zero &= !flags.minus;
        let mut bad_index = false;
        let mut index = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>, next: &mut usize| {
            if rest.peek() != Some(&'[') {
                return;
            }
            rest.next();
            reordered = true;
            let inner: String = rest.by_ref().take_while(|&character| character != ']').collect();
            match inner.parse::<usize>() {
                Ok(number) if (1..=arguments.len()).contains(&number) => *next = number - 1,
                _ => bad_index = true,
            }
        };
        index(&mut rest, &mut next);
        match size(&mut rest, arguments, &mut next) {
            Size::None => {}
            Size::Value(width) if width < 0 => {
                flags.minus = true;
                flags.zero = false;
                flags.width = usize::try_from(-width).ok();
            }
            Size::Value(width) => flags.width = usize::try_from(width).ok(),
            Size::Bad => out.push_str("%!(BADWIDTH)"),
            Size::Enormous => {
                out.push_str("%!(NOVERB)");
                break;
            }
        }
        if rest.peek() == Some(&'.') {
            rest.next();
            index(&mut rest, &mut next);
            match size(&mut rest, arguments, &mut next) {
                Size::None => flags.precision = Some(0),
                Size::Value(precision) => flags.precision = usize::try_from(precision).ok(),
                Size::Bad => out.push_str("%!(BADPREC)"),
                Size::Enormous => {
                    out.push_str("%!(NOVERB)");
                    break;
                }
            }
        }
        index(&mut rest, &mut next);
        let Some(verb) = rest.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
        } else if bad_index {
            let _ = write!(out, "%!{verb}(BADINDEX)");
        } else if let Some(argument) = arguments.get(next) {
            next += 1;
            out.push_str(&one(verb, flags, argument));
        } else {
            let _ = write!(out, "%!{verb}(MISSING)");
        }
    }
    if !reordered && next < arguments.len() {
        let extra: Vec<String> = arguments[next..]
            .iter()
            .map(|value| match value {
                Value::Null => "<nil>".to_owned(),
                _ => format!("{}={}", type_name(value), display(value)),
            })
            .collect();
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    Ok(out)
}

enum Size {
    None,
    Value(i64),
    /// The argument that should give it is not a sensible number.
    Bad,
    /// The digits are too many: Go gives up on the whole format.
    Enormous,
}

/// A width or precision: digits, or `*` for the next argument.
fn size(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, arguments: &[Value], next: &mut usize) -> Size {
    if rest.peek() == Some(&'*') {
        rest.next();
        let value = arguments.get(*next).and_then(Value::as_i64);
        *next += 1;
        return match value {
            Some(value) if value.abs() <= MAXIMUM_WIDTH => Size::Value(value),
            _ => Size::Bad,
        };
    }
    let mut value: Option<i64> = None;
    while let Some(digit) = rest.peek().and_then(|character| character.to_digit(10)) {
        rest.next();
        let grown = value.unwrap_or(0).saturating_mul(10).saturating_add(i64::from(digit));
        value = Some(grown);
    }
    match value {
        None => Size::None,
        Some(value) if value <= MAXIMUM_WIDTH => Size::Value(value),
        Some(_) => Size::Enormous,
    }
}

fn pad(text: &str, flags: Flags) -> String {
    let Some(width) = flags.width else { return text.to_owned() };
    let missing = width.saturating_sub(text.chars().count());
    if flags.minus {
        return format!("{text}{}", " ".repeat(missing));
    }
    if !flags.zero {
        return format!("{}{text}", " ".repeat(missing));
    }
    let (sign, digits) = match text.strip_prefix(['+', '-', ' ']) {
        Some(digits) => text.split_at(text.len() - digits.len()),
        None => ("", text),
    };
    format!("{sign}{}{digits}", "0".repeat(missing))
}

fn complaint(verb: char, value: &Value) -> String {
    match value {
        Value::Null => format!("%!{verb}(<nil>)"),
        _ => format!("%!{verb}({}={})", type_name(value), display(value)),
    }
}

/// One verb applied to one value; for lists and maps, to all that is in them.
fn one(verb: char, flags: Flags, value: &Value) -> String {
    if verb == 'T' {
        return pad(type_name(value), Flags { zero: false, ..flags });
    }
    if verb == 'v' && flags.sharp {
        return pad(&syntax(value), Flags { zero: false, ..flags });
    }
    match value {
        Value::Null if verb == 'v' => pad("<nil>", Flags { zero: false, ..flags }),
        Value::Bool(truth) if matches!(verb, 'v' | 't') => {
            pad(&truth.to_string(), Flags { zero: false, ..flags })
        }
        Value::Null | Value::Bool(_) => complaint(verb, value),
        Value::Number(number) if number.is_f64() => number
            .as_f64()
            .and_then(|float| float_verb(verb, flags, float))
            .unwrap_or_else(|| complaint(verb, value)),
        Value::Number(number) => {
            let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            integer
                .and_then(|integer| integer_verb(verb, flags, integer))
                .unwrap_or_else(|| complaint(verb, value))
        }
        Value::String(string) => string_verb(verb, flags, string).unwrap_or_else(|| complaint(verb, value)),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(|item| one(verb, flags, item)).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<String> = sorted(map)
                .into_iter()
                .map(|(key, item)| {
                    format!("{}:{}", one(verb, flags, &Value::String(key.clone())), one(verb, flags, item))
                })
                .collect();
            format!("map[{}]", items.join(" "))
        }
    }
}

/// `%#v`.
fn syntax(value: &Value) -> String {
    match value {
        Value::String(string) => quote(string),
        Value::Null | Value::Bool(_) | Value::Number(_) => display(value),
        Value::Array(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = sorted(map)
                .into_iter()
                .map(|(key, item)| format!("{}:{}", quote(key), syntax(item)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", items.join(", "))
        }
    }
}

/// A string as Go would write it in a program.
pub fn quote(string: &str) -> String {
    let mut out = String::from("\"");
    for character in string.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            other if u32::from(other) < 0x20 || other == '\x7f' => {
                let _ = write!(out, "\\x{:02x}", u32::from(other));
            }
            other if other.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn string_verb(verb: char, flags: Flags, string: &str) -> Option<String> {
    let cut: String = match flags.precision {
        Some(precision) => string.chars().take(precision).collect(),
        None => string.to_owned(),
    };
    let hexadecimal = |upper: bool| -> String {
        let bytes = cut.as_bytes();
        let separator = if flags.space { " " } else { "" };
        let parts: Vec<String> = bytes
            .iter()
            .map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") })
            .collect();
        let prefix = if flags.sharp && !bytes.is_empty() { if upper { "0X" } else { "0x" } } else { "" };
        format!("{prefix}{}", parts.join(separator))
    };
    let text = match verb {
        'v' | 's' => cut,
        'q' if flags.sharp && !cut.contains('`') => format!("`{cut}`"),
        'q' => quote(&cut),
        'x' => hexadecimal(false),
        'X' => hexadecimal(true),
        _ => return None,
    };
    Some(pad(&text, flags))
}

fn with_sign(negative: bool, flags: Flags, digits: &str) -> String {
    let sign = match (negative, flags.plus, flags.space) {
        (true, ..) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        (false, false, false) => "",
    };
    format!("{sign}{digits}")
}

fn integer_verb(verb: char, flags: Flags, integer: i128) -> Option<String> {
    let magnitude = integer.unsigned_abs();
    let digits = match verb {
        'v' | 'd' => magnitude.to_string(),
        'b' => format!("{}{magnitude:b}", if flags.sharp { "0b" } else { "" }),
        'o' => format!("{}{magnitude:o}", if flags.sharp { "0" } else { "" }),
        'O' => format!("0o{magnitude:o}"),
        'x' => format!("{}{magnitude:x}", if flags.sharp { "0x" } else { "" }),
        'X' => format!("{}{magnitude:X}", if flags.sharp { "0X" } else { "" }),
        'c' | 'q' => {
            let character =
                u32::try_from(integer).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            let text =
                if verb == 'c' { character.to_string() } else { format!("'{}'", character.escape_default()) };
            return Some(pad(&text, flags));
        }
        'U' => return Some(pad(&format!("U+{magnitude:04X}"), Flags { zero: false, ..flags })),
        _ => return None,
    };
    let zeros = flags.precision.unwrap_or(0).saturating_sub(digits.len());
    let digits = format!("{}{digits}", "0".repeat(zeros));
    let flags = Flags { zero: flags.zero && flags.precision.is_none(), ..flags };
    Some(pad(&with_sign(integer < 0, flags, &digits), flags))
}

fn float_verb(verb: char, flags: Flags, float: f64) -> Option<String> {
    let size = float.abs();
    let digits = match verb {
        'v' | 'g' => float_general(size, flags.precision),
        'G' => float_general(size, flags.precision).to_uppercase(),
        'e' => float_exponent(size, flags.precision.or(Some(6))),
        'E' => float_exponent(size, flags.precision.or(Some(6))).to_uppercase(),
        'f' | 'F' => float_fixed(size, flags.precision.or(Some(6))),
        _ => return None,
    };
    Some(pad(&with_sign(float.is_sign_negative(), flags, &digits), flags))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::printf;

    fn print(format: &str, arguments: Value) -> String {
        let Value::Array(arguments) = arguments else { panic!("a list of arguments") };
        printf(format, &arguments, 1 << 20).unwrap()
    }

    #[test]
    fn verbs_and_flags() {
        for (format, arguments, text) in [
            ("%5d|%-5d|%05d|%+d|% d", json!([3, 3, -3, 3, 3]), "    3|3    |-0003|+3| 3"),
            (
                "%x %X %#x %b %o %c %q %U",
                json!([255, 255, 255, 5, 8, 97, 97, 233]),
                "ff FF 0xff 101 10 a 'a' U+00E9",
            ),
            (
                "%5s|%-5s|%.2s|%q|%x",
                json!(["ab", "ab", "abc", "q\"\n", "hi"]),
                "   ab|ab   |ab|\"q\\\"\\n\"|6869",
            ),
            (
                "%05.1f|%8.2f|%e|%g",
                json!([2.75, -2.75, 1_234_567.5, 1e6]),
                "002.8|   -2.75|1.234568e+06|1e+06",
            ),
            ("%v %v %v %v", json!([null, true, [1, "a"], {"b": 1}]), "<nil> true [1 a] map[b:1]"),
            ("%T %T %T %T %T", json!([1, 1.5, "a", [], null]), "int float64 string []interface {} <nil>"),
            ("%[2]d %[1]d", json!([1, 2]), "2 1"),
            ("%*d|%.*f", json!([4, 7, 1, 2.25]), "   7|2.2"),
            ("100%% %t", json!([false]), "100% false"),
            ("%s", json!([["a", "b"]]), "[a b]"),
            ("%#v", json!([{"a": ["x"]}]), "map[string]interface {}{\"a\":[]interface {}{\"x\"}}"),
        ] {
            assert_eq!(print(format, arguments), text, "{format}");
        }
    }

    #[test]
    fn complaints_are_in_the_text() {
        for (format, arguments, text) in [
            ("%d", json!(["hi"]), "%!d(string=hi)"),
            ("%s", json!([5]), "%!s(int=5)"),
            ("%d", json!([1.5]), "%!d(float64=1.5)"),
            ("%s", json!([null]), "%!s(<nil>)"),
            ("%d %d", json!([1]), "1 %!d(MISSING)"),
            ("%d", json!([1, "x"]), "1%!(EXTRA string=x)"),
            ("%!", json!([]), "%!!(MISSING)"),
            ("%", json!([]), "%!(NOVERB)"),
            ("%[5]d", json!([1]), "%!d(BADINDEX)"),
            ("%99999999999999999999d", json!([1]), "%!(NOVERB)%!(EXTRA int=1)"),
            ("%*d", json!(["x", 1]), "%!(BADWIDTH)1"),
        ] {
            assert_eq!(print(format, arguments), text, "{format}");
        }
    }

    #[test]
    fn the_result_is_bounded() {
        assert!(printf(&"%1000000d".repeat(10), &[json!(1), json!(1), json!(1)], 1 << 20).is_err());
    }
}
