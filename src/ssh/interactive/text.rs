//! Characters out of bytes that come in pieces, for a screen that takes nothing else.

/// Puts characters together that were cut apart. What is none becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct WholeCharacters {
    /// The beginning of a character: three bytes at most.
    begun: Vec<u8>,
}

impl WholeCharacters {
    pub(super) fn of(&mut self, data: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(data);
        let mut text = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let may_go_on = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && may_go_on {
                invalid.clone_into(&mut self.begun);
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_come_in_pieces_stay_whole_and_others_are_replaced() {
        for (pieces, expected) in [
            (&[&b"a\xc3"[..], b"\xa4b"][..], "aäb"),
            (&[b"\xf0", b"\x9f", b"\x98\x80", b"!"], "😀!"),
            (&[b"\xff\xfe", b"x"], "\u{fffd}\u{fffd}x"),
            (&[b"\xc3", b"x"], "\u{fffd}x"),
            (&[b"\xe2\x82", b"\xe2\x82\xac"], "\u{fffd}€"),
            (&[b"\x1b[", b"2J"], "\x1b[2J"),
        ] {
            let mut characters = WholeCharacters::default();
            let text: String = pieces.iter().map(|piece| characters.of(piece)).collect();
            assert_eq!(text, expected, "{pieces:?}");
        }
    }
}
