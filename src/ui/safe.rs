//! Text that comes from outside, made fit for a terminal: it is shown, and cannot play with it.

use std::borrow::Cow;

use serde_json::Value;

/// What is shown in place of a character that would steer the terminal or the reading order.
const REPLACEMENT: char = '\u{fffd}';

/// `text` without anything that steers a terminal. Line breaks and tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    replaced(text, |c| steers(c) && c != '\n' && c != '\t')
}

/// `text` as one line without anything that steers a terminal: a cell of a table, a name in a sentence.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, steers)
}

/// A JSON text in which nothing steers a terminal, with the same meaning: such characters stand as `\uXXXX`.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    // JSON itself allows these inside strings only, and line breaks between tokens only.
    if !text.chars().any(|c| steers(c) && c != '\n') {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) && character != '\n' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// The same data with every text in it made safe by `safe`: what a template is filled with.
pub(crate) fn texts(value: &Value, safe: fn(&str) -> Cow<'_, str>) -> Value {
    match value {
        Value::String(text) => Value::String(safe(text).into_owned()),
        Value::Array(values) => values.iter().map(|value| texts(value, safe)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (safe(name).into_owned(), texts(value, safe))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn replaced(text: &str, unwanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&unwanted) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if unwanted(c) { REPLACEMENT } else { c }).collect())
}

/// Control characters (C0, DEL, C1), what changes the reading order, breaks lines or is not seen at all.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\r\u{7}\u{9b}31m\u{202e}x\u{2028}\u{e0041}b";

    #[test]
    fn what_steers_a_terminal_is_replaced() {
        let safe = one_line(HOSTILE);
        assert!(!safe.chars().any(steers), "{safe:?}");
        assert!(safe.starts_with('a') && safe.ends_with('b'));
        assert_eq!(printable("one\n\ttwo\r"), "one\n\ttwo\u{fffd}");
        assert_eq!(one_line("one\n\ttwo"), "one\u{fffd}\u{fffd}two");
        assert!(matches!(one_line("schön 🙂"), Cow::Borrowed("schön 🙂")));
    }

    #[test]
    fn json_means_the_same_and_steers_nothing() {
        let value = serde_json::json!({ "Error": HOSTILE });
        let text = format!("{value}\n");
        let safe = json(&text);
        assert!(!safe.chars().any(|c| steers(c) && c != '\n'), "{safe:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
