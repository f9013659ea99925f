//! Text from disk on its way to a terminal.

/// What is on disk may be damaged or hostile: control characters, and those that turn the direction of writing, are
/// shown by their numbers.
pub(super) fn printable(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if is_printable(character) {
            result.push(character);
        } else {
            result.extend(character.escape_unicode());
        }
    }
    result
}

/// Whether a character neither commands a terminal nor reorders what stands beside it.
pub(super) fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}1mä\n\u{202e}z"), "a\\u{1b}[2J\\u{9b}1mä\\u{a}\\u{202e}z");
    }
}
