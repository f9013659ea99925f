//! The end of the serial console log, fit to be shown on a terminal.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// A screenful of long lines is far below.
const TAIL: u64 = 64 * 1024;

/// The last lines, without the control characters that a guest may have put into them.
pub fn tail(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = plain(&String::from_utf8_lossy(&bytes));
    let mut last: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(lines).collect();
    last.reverse();
    Ok(last.join("\n"))
}

/// Leaves out escape sequences and control characters.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                if characters.next_if_eq(&'[').is_some() {
                    // Parameters, then one letter.
                    for inner in characters.by_ref() {
                        if inner.is_ascii_alphabetic() || inner == '~' || inner == '@' || inner == '\n' {
                            break;
                        }
                    }
                } else {
                    characters.next();
                }
            }
            '\n' | '\t' => plain.push(character),
            _ if character.is_control() => {}
            _ => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_lines_come_without_escape_sequences() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let text =
            "\u{1b}c\u{1b}[2J\u{1b}[1;31mold\u{1b}[0m\r\n\r\n[    0.1] two\u{7}\u{1b}]0;title\r\nthree\r\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(tail(&path, 2).unwrap(), "[    0.1] two0;title\nthree");
        assert_eq!(tail(&path, 9).unwrap(), "old\n[    0.1] two0;title\nthree");
        std::fs::write(&path, vec![b'x'; 200_000]).unwrap();
        assert_eq!(tail(&path, 5).unwrap().len(), 65_536);
        assert!(tail(&folder.path().join("missing"), 1).is_err());
    }
}
