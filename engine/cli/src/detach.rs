//! The keys that leave a container's terminal without stopping it.

/// A sequence of keys, and how much of it was just typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// What to send on, and whether the sequence is complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) forward: Vec<u8>,
    pub(crate) detached: bool,
}

impl Default for DetachKeys {
    fn default() -> Self {
        // ctrl-p, ctrl-q.
        Self { keys: vec![16, 17], matched: 0 }
    }
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` or `a,b`; nothing gives the usual keys.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>();
        let keys = keys.ok_or_else(|| format!("invalid detach keys ({text}): unknown key"))?;
        Ok(Self { keys, matched: 0 })
    }

    /// Looks at what was typed. Keys of a sequence that is not completed are sent on after all.
    pub(crate) fn feed(&mut self, typed: &[u8]) -> Typed {
        let mut forward = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Typed { forward, detached: true };
                }
                continue;
            }
            forward.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0] && self.keys.len() > 1);
            if self.matched == 0 {
                forward.push(byte);
            }
        }
        Typed { forward, detached: false }
    }
}

fn key(name: &str) -> Option<u8> {
    let byte = match name.strip_prefix("ctrl-") {
        None => name,
        Some("@") => return Some(0),
        Some("[") => return Some(27),
        Some("\\") => return Some(28),
        Some("]") => return Some(29),
        Some("^") => return Some(30),
        Some("_") => return Some(31),
        Some(letter) => {
            return match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                _ => None,
            };
        }
    };
    match byte.as_bytes() {
        [byte] => Some(*byte),
        _ if name == "DEL" => Some(127),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn typed(forward: &[u8], detached: bool) -> Typed {
        Typed { forward: forward.to_vec(), detached }
    }

    #[test]
    fn the_sequence_detaches_also_in_pieces() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.feed(b"ab"), typed(b"ab", false));
        assert_eq!(keys.feed(&[16]), typed(b"", false));
        assert_eq!(keys.feed(&[17, b'x']), typed(b"", true));
    }

    #[test]
    fn what_is_no_sequence_is_sent_on() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.feed(&[16]), typed(b"", false));
        assert_eq!(keys.feed(b"x"), typed(&[16, b'x'], false));
        assert_eq!(keys.feed(&[16, 16, 17]), typed(&[16], true));
    }

    #[test]
    fn other_keys_can_be_chosen() {
        assert_eq!(DetachKeys::parse("ctrl-a,b").unwrap().keys, [1, b'b']);
        assert_eq!(DetachKeys::parse("").unwrap(), DetachKeys::default());
        for text in ["ctrl-A", "ab", "ctrl-", "a,,b"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
    }
}
