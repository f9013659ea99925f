//! Where a message of several lines begins: by a pattern, or by a date that is written as `strftime` does.

use regex_lite::Regex;

/// Lines that belong together, until the next message begins.
#[derive(Debug)]
pub(crate) struct Joiner {
    start: Regex,
    gathered: Vec<u8>,
}

impl Joiner {
    pub(crate) fn new(start: Regex) -> Self {
        Self { start, gathered: Vec::new() }
    }

    /// The message that is complete because the line begins another, or because both together would be too long.
    /// What goes on with a line that was begun before (`continues`) begins nothing.
    pub(crate) fn add(
        &mut self,
        line: &[u8],
        continues: bool,
        is_whole: bool,
        most: usize,
    ) -> Option<Vec<u8>> {
        let begins = !continues && self.start.is_match(&String::from_utf8_lossy(line));
        let too_long = self.gathered.len() + line.len() + 1 > most;
        let complete = if begins || too_long { self.take() } else { None };
        self.gathered.extend_from_slice(line);
        if is_whole {
            self.gathered.push(b'\n');
        }
        complete
    }

    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        (!self.gathered.is_empty()).then(|| std::mem::take(&mut self.gathered))
    }
}

/// The pattern of dates in a format of `strftime`, as dockerd understands it: a regular expression in which `%` and a letter stand for a
/// part of a date. What it does not know stands for nothing.
pub(crate) fn of_dates(format: &str) -> String {
    let mut pattern = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            pattern.push(character);
        } else if let Some(letter) = rest.next() {
            pattern.push_str(of_letter(letter).unwrap_or_default());
        } else {
            pattern.push('%');
        }
    }
    pattern
}

fn of_letter(letter: char) -> Option<&'static str> {
    Some(match letter {
        'A' => "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)",
        'a' => "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)",
        'B' => "(?:January|February|March|April|May|June|July|August|September|October|November|December)",
        'b' => "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
        'c' => {
            r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\s(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s\d{1,2}\s\d{2}:\d{2}:\d{2}\s\d{4}"
        }
        'd' => r"(?:0[1-9]|[12][0-9]|3[01])",
        'H' => r"(?:0[0-9]|1[0-9]|2[0-3])",
        'j' => r"(?:[0-2][0-9][1-9]|[0-2][1-9]0|3[0-5][0-9]|36[0-6]|[12]00|300)",
        'L' => r"\.\d{3}",
        'M' | 'S' => r"[0-5][0-9]",
        'I' | 'm' => r"(?:0[1-9]|1[0-2])",
        'p' => "[AP]M",
        'U' | 'W' => r"(?:0[0-9]|[1-4][0-9]|5[0-3])",
        'w' => "[0-6]",
        'X' => r"\d{2}:\d{2}:\d{2}",
        'x' => r"\d{2}/\d{2}/\d{2}",
        'Y' => r"\d{4}",
        'y' => r"\d{2}",
        'Z' => "[A-Z]{1,4}T",
        'z' => r"[+-]\d{4}",
        'f' => r"\d{6}",
        '%' => "%",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_begin_messages() {
        for (format, matching, other) in [
            ("%Y-%m-%d %H:%M:%S", "2026-11-30 23:59:00 hello", "26-11-30 hello"),
            (r"\[%b %d, %Y %H:%M:%S\]", "[Nov 30, 2026 23:59:00] x", "Nov 30, 2026 23:59:00 x"),
            ("%H:%M:%S%L", "10:11:12.123", "10:11:12,123"),
            ("100%%", "100%", "100"),
        ] {
            let pattern = Regex::new(&of_dates(format)).unwrap();
            assert!(pattern.is_match(matching), "{format}: {pattern:?}");
            assert!(!pattern.is_match(other), "{format}: {pattern:?}");
        }
    }

    #[test]
    fn lines_are_joined_up_to_the_next_beginning() {
        let mut joiner = Joiner::new(Regex::new("^ERR").unwrap());
        assert_eq!(joiner.add(b"ERR one", false, true, 100), None);
        assert_eq!(joiner.add(b"  at two", false, true, 100), None);
        assert_eq!(joiner.add(b"ERR three", false, true, 100).as_deref(), Some(&b"ERR one\n  at two\n"[..]));
        assert_eq!(joiner.add(&[b'x'; 95], false, false, 100).as_deref(), Some(&b"ERR three\n"[..]));
        assert_eq!(joiner.take().map(|rest| rest.len()), Some(95));
        assert_eq!(joiner.take(), None);
    }
}
