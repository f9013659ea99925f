//! Go's string, character and number constants.

use serde_json::Number;

/// The value of a quoted or raw string, quotes included in `text`.
pub(crate) fn string(text: &str) -> Option<String> {
    if let Some(raw) = text.strip_prefix('`') {
        return raw.strip_suffix('`').map(|raw| raw.replace('\r', ""));
    }
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while !rest.is_empty() {
        let (piece, after) = unescape(rest, '"')?;
        match piece {
            Piece::Character(character) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Piece::Byte(byte) => bytes.push(byte),
        }
        rest = after;
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The code of a character between single quotes.
pub(crate) fn character(text: &str) -> Option<u32> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    let (piece, after) = unescape(inner, '\'')?;
    if !after.is_empty() {
        return None;
    }
    Some(match piece {
        Piece::Character(character) => u32::from(character),
        Piece::Byte(byte) => u32::from(byte),
    })
}

enum Piece {
    Character(char),
    Byte(u8),
}

fn unescape(text: &str, quote: char) -> Option<(Piece, &str)> {
    let first = text.chars().next()?;
    let rest = &text[first.len_utf8()..];
    if first == quote {
        return None;
    }
    if first != '\\' {
        return Some((Piece::Character(first), rest));
    }
    let kind = rest.chars().next()?;
    let after = &rest[kind.len_utf8()..];
    let simple = |character| Some((Piece::Character(character), after));
    let coded = |digits: usize| {
        let code = u32::from_str_radix(after.get(..digits)?, 16).ok()?;
        Some((code, &after[digits..]))
    };
    match kind {
        'a' => simple('\x07'),
        'b' => simple('\x08'),
        'f' => simple('\x0c'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\x0b'),
        '\\' => simple('\\'),
        other if other == quote => simple(quote),
        'x' => coded(2).and_then(|(code, after)| Some((Piece::Byte(u8::try_from(code).ok()?), after))),
        'u' => coded(4).and_then(|(code, after)| Some((Piece::Character(char::from_u32(code)?), after))),
        'U' => coded(8).and_then(|(code, after)| Some((Piece::Character(char::from_u32(code)?), after))),
        '0'..='7' => {
            let code = u32::from_str_radix(rest.get(..3)?, 8).ok()?;
            Some((Piece::Byte(u8::try_from(code).ok()?), &rest[3..]))
        }
        _ => None,
    }
}

/// The value of a number: an integer if it is written as one, else a float.
pub(crate) fn number(text: &str) -> Option<Number> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = unsigned.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|byte| byte.is_ascii_digit()) => {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    let digits = digits.replace('_', "");
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    if let Ok(magnitude) = u64::from_str_radix(&digits, radix) {
        if !negative {
            return Some(Number::from(magnitude));
        }
        return i64::try_from(-i128::from(magnitude)).ok().map(Number::from);
    }
    if radix != 10
        || !digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'+' | b'-'))
    {
        return None;
    }
    let float: f64 = digits.parse().ok()?;
    if !digits.contains(['.', 'e']) {
        return None;
    }
    Number::from_f64(if negative { -float } else { float })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{character, number, string};

    #[test]
    fn strings_have_gos_escapes() {
        assert_eq!(string(r#""a\tb\x41\u00e9\101\"""#).unwrap(), "a\tbAéA\"");
        assert_eq!(string("`a\\n`").unwrap(), "a\\n");
        assert_eq!(string(r#""\q""#), None);
        assert_eq!(string(r#""\400""#), None);
    }

    #[test]
    fn characters_are_their_codes() {
        assert_eq!(character("'a'"), Some(97));
        assert_eq!(character(r"'\n'"), Some(10));
        assert_eq!(character("'ab'"), None);
        assert_eq!(character("''"), None);
    }

    #[test]
    fn numbers_keep_their_kind() {
        for (text, value) in [
            ("17", "17"),
            ("0x1F", "31"),
            ("-0b11", "-3"),
            ("010", "8"),
            ("1_000", "1000"),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
        ] {
            assert_eq!(number(text).unwrap().to_string(), value, "{text}");
        }
        for text in ["1x", "0xg", "--1", "99999999999999999999", "+"] {
            assert!(number(text).is_none(), "{text}");
        }
    }
}
