//! Variables, quotes and escapes in the words of an instruction.

use super::glob;

/// Values may be put in again and again; no honest word is longer.
const LONGEST: usize = 1 << 20;
/// Of `${a:-${b:-…}}`.
const DEEPEST: usize = 64;

/// What is wrong with words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    OpenQuote(&'static str),
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    #[error("{name}: {message}")]
    Needed { name: String, message: String },
    #[error("a word has more than {LONGEST} bytes when its variables are put in")]
    TooLong,
    #[error("substitutions are more than {DEEPEST} deep")]
    TooDeep,
}

/// Where variables get their values from.
pub(crate) trait Variables {
    fn value(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// One word with its variables put in, without its quotes and escapes. Spaces in it stay.
pub(crate) fn expand(text: &str, escape: char, variables: &dyn Variables) -> Result<String, WordError> {
    let mut lexer = Lexer::new(text, escape, variables);
    let mut output =
        Output { words: Vec::new(), word: String::new(), is_open: true, splits: false, length: 0 };
    lexer.run(None, &mut output, 0)?;
    Ok(output.word)
}

/// All words of a text; unquoted values with spaces are several.
pub(crate) fn expand_words(
    text: &str,
    escape: char,
    variables: &dyn Variables,
) -> Result<Vec<String>, WordError> {
    let mut lexer = Lexer::new(text, escape, variables);
    let mut output =
        Output { words: Vec::new(), word: String::new(), is_open: false, splits: true, length: 0 };
    lexer.run(None, &mut output, 0)?;
    output.end_word();
    Ok(output.words)
}

/// A word without its quotes and escapes. Dollars mean nothing.
pub(crate) fn unquoted(text: &str, escape: char) -> Result<String, WordError> {
    let (mut plain, mut quote, mut characters) = (String::new(), None, text.chars().peekable());
    while let Some(one) = characters.next() {
        match (quote, one) {
            (None, '\'' | '"') => quote = Some(one),
            (Some(open), one) if open == one => quote = None,
            (Some('\''), one) => plain.push(one),
            (None, one) if one == escape => plain.extend(characters.next()),
            (Some(_), one) if one == escape => match characters.peek() {
                Some(&next) if next == '"' || next == '$' || next == escape => {
                    plain.extend(characters.next());
                }
                _ => plain.push(one),
            },
            (_, one) => plain.push(one),
        }
    }
    match quote {
        Some('"') => Err(WordError::OpenQuote("double")),
        Some(_) => Err(WordError::OpenQuote("single")),
        None => Ok(plain),
    }
}

/// The words of a text as they are written, quotes and all.
pub(crate) fn raw_words(text: &str, escape: char) -> Result<Vec<String>, WordError> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut characters = text.chars();
    while let Some(one) = characters.next() {
        match quote {
            None if one.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(one, '\'' | '"') => quote = Some(one),
            Some(open) if open == one => quote = None,
            _ => {}
        }
        word.push(one);
        if one == escape && quote != Some('\'') {
            word.extend(characters.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    match quote {
        Some('"') => Err(WordError::OpenQuote("double")),
        Some(_) => Err(WordError::OpenQuote("single")),
        None => Ok(words),
    }
}

/// Words on their way out.
struct Output {
    words: Vec<String>,
    word: String,
    /// A word has begun, though it may be empty.
    is_open: bool,
    splits: bool,
    length: usize,
}

impl Output {
    fn end_word(&mut self) {
        if self.is_open || !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
        self.is_open = false;
    }

    fn grow(&mut self, by: usize) -> Result<(), WordError> {
        self.length += by;
        if self.length > LONGEST { Err(WordError::TooLong) } else { Ok(()) }
    }

    /// A character that stands for itself.
    fn literal(&mut self, one: char) -> Result<(), WordError> {
        self.is_open = true;
        self.word.push(one);
        self.grow(one.len_utf8())
    }

    /// Text in which spaces part words.
    fn text(&mut self, text: &str) -> Result<(), WordError> {
        self.grow(text.len())?;
        if !self.splits {
            self.word.push_str(text);
            return Ok(());
        }
        for one in text.chars() {
            if one.is_whitespace() {
                self.end_word();
            } else {
                self.is_open = true;
                self.word.push(one);
            }
        }
        Ok(())
    }
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    variables: &'a dyn Variables,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, escape: char, variables: &'a dyn Variables) -> Self {
        Self { rest: text.chars().peekable(), escape, variables }
    }

    /// Reads on to `stop`, which is read as well, or to the end.
    fn run(&mut self, stop: Option<char>, output: &mut Output, depth: usize) -> Result<(), WordError> {
        if depth > DEEPEST {
            return Err(WordError::TooDeep);
        }
        while let Some(one) = self.rest.next() {
            match one {
                one if Some(one) == stop => return Ok(()),
                '\'' => loop {
                    match self.rest.next() {
                        None => return Err(WordError::OpenQuote("single")),
                        Some('\'') => {
                            output.is_open = true;
                            break;
                        }
                        Some(one) => output.literal(one)?,
                    }
                },
                '"' => self.double_quoted(output, depth)?,
                '$' => {
                    let value = self.dollar(depth)?;
                    output.text(&value)?;
                }
                one if one == self.escape => {
                    // At the very end it stands for nothing.
                    if let Some(next) = self.rest.next() {
                        output.literal(next)?;
                    }
                }
                one => output.text(one.encode_utf8(&mut [0; 4]))?,
            }
        }
        if stop.is_some() { Err(WordError::MissingBrace) } else { Ok(()) }
    }

    fn double_quoted(&mut self, output: &mut Output, depth: usize) -> Result<(), WordError> {
        output.is_open = true;
        loop {
            match self.rest.next() {
                None => return Err(WordError::OpenQuote("double")),
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar(depth)?;
                    output.grow(value.len())?;
                    output.word.push_str(&value);
                }
                Some(one) if one == self.escape => match self.rest.peek() {
                    Some(&next) if next == '"' || next == '$' || next == self.escape => {
                        self.rest.next();
                        output.literal(next)?;
                    }
                    Some(_) => output.literal(one)?,
                    None => return Err(WordError::OpenQuote("double")),
                },
                Some(one) => output.literal(one)?,
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        let is_digits = self.rest.peek().is_some_and(char::is_ascii_digit);
        while let Some(&one) = self.rest.peek() {
            let fits = if is_digits { one.is_ascii_digit() } else { one.is_alphanumeric() || one == '_' };
            if !fits {
                if name.is_empty() && matches!(one, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                    name.push(one);
                    self.rest.next();
                }
                break;
            }
            name.push(one);
            self.rest.next();
        }
        name
    }

    /// What stands behind a dollar.
    fn dollar(&mut self, depth: usize) -> Result<String, WordError> {
        if self.rest.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.variables.value(&name).unwrap_or_default());
        }
        self.rest.next();
        match self.rest.peek() {
            None => return Err(WordError::MissingBrace),
            Some('{' | '}' | ':') => return Err(WordError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let value = self.variables.value(&name);
        match self.rest.next() {
            None => Err(WordError::MissingBrace),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.rest.next() {
                Some(modifier @ ('+' | '-' | '?')) => {
                    let value = value.filter(|value| !value.is_empty());
                    let word = self.inner('}', depth)?;
                    modified(&name, modifier, value, word)
                }
                Some(other) => Err(WordError::Modifier(format!(":{other}"))),
                None => Err(WordError::MissingBrace),
            },
            Some(modifier @ ('+' | '-' | '?')) => {
                let word = self.inner('}', depth)?;
                modified(&name, modifier, value, word)
            }
            Some(end @ ('#' | '%')) => {
                let is_longest = self.rest.peek() == Some(&end);
                if is_longest {
                    self.rest.next();
                }
                let pattern = self.inner('}', depth)?;
                Ok(without(&value.unwrap_or_default(), &pattern, end == '#', is_longest))
            }
            Some('/') => {
                let is_all = self.rest.peek() == Some(&'/');
                if is_all {
                    self.rest.next();
                }
                let pattern = self.inner('/', depth)?;
                let by = self.inner('}', depth)?;
                replaced(&value.unwrap_or_default(), &pattern, &by, is_all)
            }
            Some(other) => Err(WordError::Modifier(other.to_string())),
        }
    }

    fn inner(&mut self, stop: char, depth: usize) -> Result<String, WordError> {
        let mut output =
            Output { words: Vec::new(), word: String::new(), is_open: true, splits: false, length: 0 };
        self.run(Some(stop), &mut output, depth + 1)?;
        Ok(output.word)
    }
}

fn modified(name: &str, modifier: char, value: Option<String>, word: String) -> Result<String, WordError> {
    match (modifier, value) {
        ('+', Some(_)) | ('-', None) => Ok(word),
        ('+', None) => Ok(String::new()),
        (_, Some(value)) => Ok(value),
        (_, None) => {
            let message = if word.is_empty() { "is not allowed to be unset".to_owned() } else { word };
            Err(WordError::Needed { name: name.to_owned(), message })
        }
    }
}

/// Where a value can be cut.
fn cuts(value: &str) -> impl DoubleEndedIterator<Item = usize> + '_ {
    (0..=value.len()).filter(|&at| value.is_char_boundary(at))
}

/// A value without what a pattern fits at its beginning or end.
fn without(value: &str, pattern: &str, at_beginning: bool, is_longest: bool) -> String {
    // Long values against patterns of many stars would take their time.
    if value.len() > 64 * 1024 {
        return value.to_owned();
    }
    let fits = |part: &str| glob::fits_anything(pattern, part);
    let found = if at_beginning {
        let found = |at: &usize| fits(&value[..*at]);
        let at = if is_longest { cuts(value).rev().find(found) } else { cuts(value).find(found) };
        at.map(|at| &value[at..])
    } else {
        let found = |at: &usize| fits(&value[*at..]);
        let at = if is_longest { cuts(value).find(found) } else { cuts(value).rev().find(found) };
        at.map(|at| &value[..at])
    };
    found.unwrap_or(value).to_owned()
}

fn replaced(value: &str, pattern: &str, by: &str, is_all: bool) -> Result<String, WordError> {
    if pattern.is_empty() || value.len() > 4096 {
        return Ok(value.to_owned());
    }
    let (mut output, mut rest) = (String::new(), value);
    while !rest.is_empty() {
        let end = cuts(rest).rev().find(|&at| at > 0 && glob::fits_anything(pattern, &rest[..at]));
        if let Some(end) = end {
            output.push_str(by);
            rest = &rest[end..];
            if !is_all {
                break;
            }
        } else {
            let width = rest.chars().next().map_or(1, char::len_utf8);
            output.push_str(&rest[..width]);
            rest = &rest[width..];
        }
        if output.len() > LONGEST {
            return Err(WordError::TooLong);
        }
    }
    output.push_str(rest);
    Ok(output)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "TWO" => Some("x  y".to_owned()),
            "PATH" => Some("/usr/bin/foo.tar.gz".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn words_are_expanded_as_docker_does() {
        for (text, value) in [
            ("$A", "one"),
            ("${A}b", "oneb"),
            ("$Ab", ""),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A\"", "one"),
            (r#""\$A \" \n""#, r#"$A " \n"#),
            (r"a\ b", "a b"),
            ("${B:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${B-x}", "x"),
            ("${A:+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${B:-${A}y}", "oney"),
            ("${B:-'}'}", "}"),
            ("${PATH##*/}", "foo.tar.gz"),
            ("${PATH%.*}", "/usr/bin/foo.tar"),
            ("${PATH%%.*}", "/usr/bin/foo"),
            ("${PATH#/usr}", "/bin/foo.tar.gz"),
            ("${PATH/\\//-}", "-usr/bin/foo.tar.gz"),
            ("${PATH//o/0}", "/usr/bin/f00.tar.gz"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("$1", ""),
            ("100%", "100%"),
            ("end\\", "end"),
        ] {
            assert_eq!(expand(text, '\\', &variables).as_deref(), Ok(value), "{text}");
        }
        assert_eq!(expand(r"`$A C:\x", '`', &variables).unwrap(), r"$A C:\x");
        for text in ["'a", "\"a", "${", "${A", "${}", "${A:", "${A:=x}", "${A!}", "${B:?}", "${B:?what}"] {
            assert!(expand(text, '\\', &variables).is_err(), "{text}");
        }
        assert_eq!(expand("${B:?what}", '\\', &variables).unwrap_err().to_string(), "B: what");
    }

    #[test]
    fn unquoted_values_are_several_words() {
        let words = expand_words("80 $TWO \"$TWO\" '' a\\ b", '\\', &variables).unwrap();
        assert_eq!(words, ["80", "x", "y", "x  y", "", "a b"]);
        assert_eq!(raw_words(r#"a "b c" d\ e 'f'"#, '\\').unwrap(), ["a", "\"b c\"", r"d\ e", "'f'"]);
        assert_eq!(unquoted(r#"a"b\"c"'d$'\e"#, '\\').unwrap(), "ab\"cd$e");
    }
}
