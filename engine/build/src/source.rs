//! The text of a Dockerfile as instructions: directives, comments, continued lines, here-documents.

use super::words::{WordError, raw_words, unquoted};

/// Larger files are nobody's honest Dockerfile.
pub(crate) const LARGEST: usize = 4 << 20;
const MOST_INSTRUCTIONS: usize = 10_000;
const MOST_HEREDOCS: usize = 64;

/// A Dockerfile that has been taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The character that takes the meaning from the next one, and the end from a line.
    pub(crate) escape: char,
    pub(crate) instructions: Vec<Raw>,
    pub(crate) warnings: Vec<String>,
}

/// One instruction in one line, as it was written but for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    /// Where it begins, counted from 1.
    pub(crate) line: usize,
    /// Where it ends.
    pub(crate) last_line: usize,
    pub(crate) text: String,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// What stands between `<<NAME` and `NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub(crate) name: String,
    /// Whether variables in it mean something.
    pub(crate) expands: bool,
    /// Every line ends with a line feed. Tabs in front are gone, if that was wanted.
    pub(crate) content: String,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dockerfile parse error on line {line}: {message}")]
pub struct ParseError {
    pub line: usize,
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// The lines of a text, with their numbers.
struct Lines<'a> {
    rest: std::iter::Enumerate<std::str::Lines<'a>>,
    /// The number of the last one.
    last: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let (index, line) = self.rest.next()?;
        self.last = index + 1;
        Some((self.last, line.trim_end_matches('\r')))
    }
}

/// Takes a text apart. An empty result is an error, as it would make no image.
pub(crate) fn read(text: &str) -> Result<Source, ParseError> {
    if text.len() > LARGEST {
        return Err(ParseError::new(1, format!("it has more than {LARGEST} bytes")));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = directives(text)?;
    let mut source = Source { escape, instructions: Vec::new(), warnings: Vec::new() };
    let mut lines = Lines { rest: text.lines().enumerate(), last: 0 };
    while let Some((number, first)) = lines.next() {
        let first = first.trim_start();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut text, mut goes_on) = without_continuation(first, escape);
        let mut has_empty = false;
        while goes_on && let Some((_, next)) = lines.next() {
            if next.trim_start().starts_with('#') {
                continue;
            }
            if next.trim().is_empty() {
                has_empty = true;
                continue;
            }
            let (more, further) = without_continuation(next, escape);
            text.push_str(&more);
            goes_on = further;
        }
        if has_empty {
            source.warnings.push(format!(
                "[WARNING]: Empty continuation line found in:\n    {text}\n[WARNING]: Empty continuation lines will \
                 become errors in a future release."
            ));
        }
        let text = text.trim().to_owned();
        if text.is_empty() {
            continue;
        }
        if source.instructions.len() == MOST_INSTRUCTIONS {
            return Err(ParseError::new(
                number,
                format!("there are more than {MOST_INSTRUCTIONS} instructions"),
            ));
        }
        let heredocs = heredocs(number, &text, &mut lines, escape)?;
        source.instructions.push(Raw { line: number, last_line: lines.last, text, heredocs });
    }
    if source.instructions.is_empty() {
        return Err(ParseError::new(1, "file with no instructions"));
    }
    Ok(source)
}

/// One instruction that stands for itself, as a trigger or a change does.
pub(crate) fn read_one(text: &str) -> Result<(Raw, char), ParseError> {
    let mut source = read(text)?;
    match (source.instructions.pop(), source.instructions.is_empty()) {
        (Some(raw), true) => Ok((raw, source.escape)),
        _ => Err(ParseError::new(1, "there has to be one instruction")),
    }
}

/// Reads `# escape=` and its like, which stand before everything else.
fn directives(text: &str) -> Result<char, ParseError> {
    let mut escape = None;
    let mut seen: Vec<String> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some((name, value)) = directive(line) else { break };
        let name = name.to_ascii_lowercase();
        if !matches!(name.as_str(), "escape" | "syntax" | "check") {
            break;
        }
        if seen.contains(&name) {
            return Err(ParseError::new(index + 1, format!("only one {name} parser directive can be used")));
        }
        if name == "escape" {
            escape = match value {
                "`" => Some('`'),
                "\\" => Some('\\'),
                _ => {
                    let message = format!("invalid escape token '{value}' does not match ` or \\");
                    return Err(ParseError::new(index + 1, message));
                }
            };
        }
        seen.push(name);
    }
    Ok(escape.unwrap_or('\\'))
}

fn directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|one| one.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((name, value))
}

/// A line without the character that says that the next one belongs to it, and whether it had one. Two of them are none.
fn without_continuation(line: &str, escape: char) -> (String, bool) {
    let end = line.trim_end_matches([' ', '\t']);
    match end.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// The word that an instruction begins with, and the rest.
pub(crate) fn split_command(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.find(char::is_whitespace) {
        Some(end) => (&text[..end], text[end..].trim_start()),
        None => (text, ""),
    }
}

/// Reads the here-documents that an instruction announces.
fn heredocs(
    number: usize,
    text: &str,
    lines: &mut Lines<'_>,
    escape: char,
) -> Result<Vec<Heredoc>, ParseError> {
    let (mut command, mut rest) = split_command(text);
    if command.eq_ignore_ascii_case("onbuild") {
        (command, rest) = split_command(rest);
    }
    let takes_them = ["run", "copy", "add"].iter().any(|name| command.eq_ignore_ascii_case(name));
    if !takes_them || !rest.contains("<<") || is_json(rest) {
        return Ok(Vec::new());
    }
    // What is no sequence of words is told by whoever needs the words.
    let Ok(words) = raw_words(rest, escape) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for mark in words.iter().filter_map(|word| mark(word, escape)) {
        if found.len() == MOST_HEREDOCS {
            return Err(ParseError::new(number, format!("more than {MOST_HEREDOCS} here-documents")));
        }
        let mut content = String::new();
        loop {
            let Some((_, line)) = lines.next() else {
                return Err(ParseError::new(number, "unterminated heredoc"));
            };
            let line = if mark.drops_tabs { line.trim_start_matches('\t') } else { line };
            if line == mark.name {
                break;
            }
            content.push_str(line);
            content.push('\n');
        }
        found.push(Heredoc { name: mark.name, expands: mark.expands, content });
    }
    Ok(found)
}

/// `<<NAME`, `<<-NAME`, `3<<"NAME"`
struct Mark {
    name: String,
    drops_tabs: bool,
    expands: bool,
}

fn mark(word: &str, escape: char) -> Option<Mark> {
    let rest = word.trim_start_matches(|one: char| one.is_ascii_digit()).strip_prefix("<<")?;
    let (drops_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name = unquoted(rest, escape).ok().filter(|name| !name.is_empty())?;
    Some(Mark { drops_tabs, expands: name == rest, name })
}

/// The name of the here-document that a word stands for.
pub(crate) fn heredoc_name(word: &str, escape: char) -> Option<String> {
    mark(word, escape).map(|mark| mark.name)
}

/// Whether arguments are a list of strings in JSON. Anything else that begins like one is words.
pub(crate) fn is_json(rest: &str) -> bool {
    json_list(rest).is_some()
}

/// The strings of a list in JSON; `Err` if it is a list of other things.
pub(crate) fn json_list(rest: &str) -> Option<Result<Vec<String>, &'static str>> {
    let rest = rest.trim();
    if !rest.starts_with('[') {
        return None;
    }
    let list: Vec<serde_json::Value> = serde_json::from_str(rest).ok()?;
    let strings = list.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only"),
    });
    Some(strings.collect())
}

impl From<(usize, WordError)> for ParseError {
    fn from((line, error): (usize, WordError)) -> Self {
        Self::new(line, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn texts(text: &str) -> Vec<(usize, String)> {
        read(text).unwrap().instructions.into_iter().map(|raw| (raw.line, raw.text)).collect()
    }

    #[test]
    fn lines_go_on_and_comments_go() {
        let text = "# syntax=docker/dockerfile:1\n# escape=`\n\nFROM x\n  RUN a `\n # no part of it\n\n  b ``\nRUN c\\\nRUN d";
        let source = read(text).unwrap();
        assert_eq!(source.escape, '`');
        assert_eq!(source.warnings.len(), 1);
        let found: Vec<_> = source.instructions.iter().map(|raw| (raw.line, raw.text.as_str())).collect();
        assert_eq!(found, [(4, "FROM x"), (5, "RUN a   b ``"), (9, "RUN c\\"), (10, "RUN d")]);
        assert_eq!(texts("RUN a \\\n"), [(1, "RUN a".to_owned())]);
        assert_eq!(texts("\u{feff}FROM x\r\n"), [(1, "FROM x".to_owned())]);
        assert_eq!(read("# escape=x\nFROM y").unwrap_err().line, 1);
        assert_eq!(read("# just a comment\n").unwrap_err().message, "file with no instructions");
    }

    #[test]
    fn here_documents_are_read_to_their_names() {
        let text = "FROM x\nRUN <<EOF 3<<-'two words' cat\n# kept\n\tone $A\nEOF\n\ttwo\n\ttwo words\nCOPY [\"<<a\", \"b\"]\nRUN echo <<<here";
        let source = read(text).unwrap();
        let run = &source.instructions[1];
        assert_eq!(run.heredocs.len(), 2);
        assert_eq!(run.heredocs[0].content, "# kept\n\tone $A\n");
        assert!(run.heredocs[0].expands);
        assert_eq!(
            run.heredocs[1],
            Heredoc { name: "two words".into(), expands: false, content: "two\n".into() }
        );
        assert_eq!(source.instructions.len(), 4);
        assert!(source.instructions[2..].iter().all(|raw| raw.heredocs.is_empty()));
        assert_eq!(read("FROM x\nRUN <<A\nb\n").unwrap_err().message, "unterminated heredoc");
    }
}
