//! Patterns of names, as Go's `filepath.Match` has them, and those of `.dockerignore`.

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    One(char),
    /// `?`: any character but a slash.
    Any,
    /// `*`: any number of characters but slashes.
    Many,
    /// `**`: any number of characters.
    Everything,
    /// `**/`: any number of directories. Behind it always comes the next one.
    Folders,
    InFolders,
    /// `[a-z]`, `[^a-z]`
    Class(bool, Vec<(char, char)>),
}

/// A pattern is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A pattern that has been understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    /// `*`, `?`, classes and backslashes, as in sources of `COPY`.
    pub fn of_names(text: &str) -> Result<Self, BadPattern> {
        Self::parse(text, false)
    }

    /// The same, and `**`, as in `.dockerignore`.
    pub fn of_trees(text: &str) -> Result<Self, BadPattern> {
        Self::parse(text, true)
    }

    fn parse(text: &str, with_trees: bool) -> Result<Self, BadPattern> {
        let mut pieces = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(one) = rest.next() {
            match one {
                '*' if with_trees && rest.peek() == Some(&'*') => {
                    while rest.peek() == Some(&'*') {
                        rest.next();
                    }
                    if rest.peek() == Some(&'/') {
                        rest.next();
                        pieces.extend([Piece::Folders, Piece::InFolders]);
                    } else {
                        pieces.push(Piece::Everything);
                    }
                }
                '*' => {
                    if pieces.last() != Some(&Piece::Many) {
                        pieces.push(Piece::Many);
                    }
                }
                '?' => pieces.push(Piece::Any),
                '\\' => pieces.push(Piece::One(rest.next().ok_or(BadPattern)?)),
                '[' => pieces.push(class(&mut rest)?),
                one => pieces.push(Piece::One(one)),
            }
        }
        Ok(Self(pieces))
    }

    /// Whether a whole name fits.
    pub fn fits(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        fits(&self.0, &name)
    }
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Piece, BadPattern> {
    let is_negated = rest.peek() == Some(&'^');
    if is_negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let one = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| match rest.next() {
            Some('\\') => rest.next().ok_or(BadPattern),
            Some('-' | ']') | None => Err(BadPattern),
            Some(one) => Ok(one),
        };
        if rest.peek() == Some(&']') && !ranges.is_empty() {
            rest.next();
            return Ok(Piece::Class(is_negated, ranges));
        }
        let from = one(rest)?;
        let to = if rest.peek() == Some(&'-') {
            rest.next();
            one(rest)?
        } else {
            from
        };
        ranges.push((from, to));
    }
}

/// Follows all ways at once, so that no pattern takes more time than its length times the name's.
fn fits(pieces: &[Piece], name: &[char]) -> bool {
    // Which beginnings of the pattern fit what has been read of the name.
    let mut states = vec![false; pieces.len() + 1];
    states[0] = true;
    pass_nothing(pieces, &mut states);
    for &one in name {
        let mut next = vec![false; pieces.len() + 1];
        for (index, piece) in pieces.iter().enumerate().filter(|(index, _)| states[*index]) {
            match piece {
                Piece::One(wanted) => next[index + 1] |= *wanted == one,
                Piece::Any => next[index + 1] |= one != '/',
                Piece::Many => next[index] |= one != '/',
                Piece::Everything => next[index] = true,
                Piece::Folders => {}
                Piece::InFolders => {
                    next[index] = true;
                    next[index + 1] |= one == '/';
                }
                Piece::Class(is_negated, ranges) => {
                    let is_in = ranges.iter().any(|(from, to)| (*from..=*to).contains(&one));
                    next[index + 1] |= is_in != *is_negated && one != '/';
                }
            }
        }
        states = next;
        pass_nothing(pieces, &mut states);
    }
    states[pieces.len()]
}

/// What may stand for nothing is passed.
fn pass_nothing(pieces: &[Piece], states: &mut [bool]) {
    for (index, piece) in pieces.iter().enumerate() {
        if !states[index] {
            continue;
        }
        match piece {
            Piece::Many | Piece::Everything => states[index + 1] = true,
            // Into the directories, or past them.
            Piece::Folders => {
                states[index + 1] = true;
                states[index + 2] = true;
            }
            _ => {}
        }
    }
}

/// As a shell does where slashes are nothing special. What is no pattern stands for itself.
pub fn fits_anything(pattern: &str, text: &str) -> bool {
    let Ok(Pattern(pieces)) = Pattern::of_names(pattern) else { return pattern == text };
    let pieces = pieces.into_iter().map(|piece| match piece {
        Piece::Many => Piece::Everything,
        other => other,
    });
    let pieces: Vec<Piece> = pieces.collect();
    // A slash fits `?` and classes as well; they see something that is none.
    let text: Vec<char> = text.chars().collect();
    if text.contains(&'/') && pieces.iter().any(|piece| matches!(piece, Piece::Any | Piece::Class(..))) {
        let hidden: Vec<char> = text.iter().map(|&one| if one == '/' { '\u{1}' } else { one }).collect();
        let pieces: Vec<Piece> = pieces
            .into_iter()
            .map(|piece| if piece == Piece::One('/') { Piece::One('\u{1}') } else { piece })
            .collect();
        return fits(&pieces, &hidden);
    }
    fits(&pieces, &text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_fit_as_in_go() {
        for (pattern, name, expected) in [
            ("*.go", "a.go", true),
            ("*.go", "b/a.go", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbYcd", false),
            ("dir/*", "dir/x", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(Pattern::of_names(pattern).unwrap().fits(name), expected, "{pattern} {name}");
        }
        for bad in ["[", "[a", "[]a]", "[-x]", "a\\", "[a-]"] {
            assert_eq!(Pattern::of_names(bad), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn trees_fit_as_in_dockerignore() {
        for (pattern, name, expected) in [
            ("**", "a/b", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "a/yx", false),
            ("a/**", "a/b/c", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("**/*.go", "a/b/c.go", true),
            ("a**/b", "ab/b", true),
            ("**/a/**/b", "x/a/b", true),
            ("dir/**/*.txt", "dir/a.txt", true),
        ] {
            assert_eq!(Pattern::of_trees(pattern).unwrap().fits(name), expected, "{pattern} {name}");
        }
        assert!(fits_anything("*/x", "a/b/x") && fits_anything("?", "/") && !fits_anything("a", "b"));
    }

    /// Twenty stars against a long name that does not fit: ways that are tried one after the other are without number.
    #[test]
    fn hostile_patterns_take_no_longer() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!Pattern::of_names(&pattern).unwrap().fits(&"a".repeat(2000)));
    }
}
