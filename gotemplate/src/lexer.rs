//! Cuts the text of a template into tokens, with the trimming of `{{-` and `-}}` already done.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Open,
    Close,
    Space,
    Identifier,
    /// `.Name`, the text without its dot.
    Field,
    /// `$` or `$name`, the text with its dollar sign.
    Variable,
    Dot,
    Number,
    Character,
    /// Between double quotes, still quoted.
    Quoted,
    /// Between backquotes, still quoted.
    Raw,
    Pipe,
    LeftParenthesis,
    RightParenthesis,
    Comma,
    Declare,
    Assign,
    /// Any other character, for the parser to complain about.
    Other,
    End,
    /// The text cannot be cut further; the token's text says why.
    Broken,
}

/// A piece of the template, and where it begins in the text.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) position: usize,
}

/// Why the text could not be cut, and where.
struct LexError {
    position: usize,
    message: String,
}

const OPEN: &str = "{{";
const CLOSE: &str = "}}";

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

/// All tokens of `text`, the last one of the kind [`Kind::End`] or, where the text makes no sense, [`Kind::Broken`].
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    match lexer.template() {
        Ok(()) => lexer.push(Kind::End, text.len(), ""),
        Err(error) => lexer.push(Kind::Broken, error.position, &error.message),
    }
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, position: usize, text: &str) {
        self.tokens.push(Token { kind, text: text.to_owned(), position });
    }

    fn template(&mut self) -> Result<(), LexError> {
        let mut trim_start = false;
        loop {
            let start = self.at;
            let found = self.rest().find(OPEN);
            let end = found.map_or(self.text.len(), |offset| start + offset);
            let after = self.text.as_bytes().get(end + OPEN.len()..).unwrap_or_default();
            let trim_end = found.is_some()
                && after.first() == Some(&b'-')
                && after.get(1).copied().is_some_and(is_space);
            let mut piece = &self.text[start..end];
            let mut position = start;
            if trim_start {
                let trimmed = piece.trim_start_matches([' ', '\t', '\r', '\n']);
                position += piece.len() - trimmed.len();
                piece = trimmed;
            }
            if trim_end {
                piece = piece.trim_end_matches([' ', '\t', '\r', '\n']);
            }
            if !piece.is_empty() {
                self.push(Kind::Text, position, piece);
            }
            if found.is_none() {
                return Ok(());
            }
            self.at = end + OPEN.len() + if trim_end { 2 } else { 0 };
            trim_start = if self.rest().starts_with("/*") { self.comment()? } else { self.action(end)? };
        }
    }

    /// Skips a comment; says whether the text after it is to be trimmed.
    fn comment(&mut self) -> Result<bool, LexError> {
        let start = self.at;
        let Some(length) = self.rest().find("*/") else {
            return Err(LexError { position: start, message: "unclosed comment".to_owned() });
        };
        self.at += length + 2;
        if let Some(trim) = self.close() {
            return Ok(trim);
        }
        Err(LexError { position: start, message: "comment ends before closing delimiter".to_owned() })
    }

    /// Steps over the closing delimiter, if it is here; says whether it trims.
    fn close(&mut self) -> Option<bool> {
        let rest = self.rest();
        if rest.as_bytes().first().copied().is_some_and(is_space) && rest[1..].starts_with("-}}") {
            self.at += 4;
            return Some(true);
        }
        if rest.starts_with(CLOSE) {
            self.at += CLOSE.len();
            return Some(false);
        }
        None
    }

    /// Everything between the delimiters; says whether the text after it is to be trimmed.
    fn action(&mut self, opened: usize) -> Result<bool, LexError> {
        self.push(Kind::Open, opened, OPEN);
        let mut depth = 0_usize;
        loop {
            let position = self.at;
            if let Some(trim) = self.close() {
                if depth > 0 {
                    return Err(LexError { position, message: "unclosed left paren".to_owned() });
                }
                self.push(Kind::Close, position, CLOSE);
                return Ok(trim);
            }
            let Some(character) = self.rest().chars().next() else {
                return Err(LexError { position, message: "unclosed action".to_owned() });
            };
            let following = self.rest().as_bytes().get(1).copied().unwrap_or_default();
            match character {
                ' ' | '\t' | '\r' | '\n' => self.spaces(),
                '|' => self.single(Kind::Pipe),
                ',' => self.single(Kind::Comma),
                '=' => self.single(Kind::Assign),
                '(' => {
                    depth += 1;
                    self.single(Kind::LeftParenthesis);
                }
                ')' => {
                    depth = depth
                        .checked_sub(1)
                        .ok_or_else(|| LexError { position, message: "unexpected right paren".to_owned() })?;
                    self.single(Kind::RightParenthesis);
                }
                ':' if following == b'=' => {
                    self.push(Kind::Declare, position, ":=");
                    self.at += 2;
                }
                ':' => return Err(LexError { position, message: "expected :=".to_owned() }),
                '"' => self.quoted('"', Kind::Quoted, "unterminated quoted string")?,
                '`' => self.raw()?,
                '\'' => self.quoted('\'', Kind::Character, "unterminated character constant")?,
                '$' => self.word(Kind::Variable),
                '.' if !following.is_ascii_digit() => {
                    if self.rest()[1..].chars().next().is_some_and(is_word) {
                        self.word(Kind::Field);
                    } else {
                        self.single(Kind::Dot);
                    }
                }
                '+' | '-' | '.' | '0'..='9' => self.number()?,
                other if is_word(other) => self.word(Kind::Identifier),
                other if other.is_ascii_graphic() => self.single(Kind::Other),
                other => {
                    let message =
                        format!("unrecognized character in action: U+{:04X} '{other}'", u32::from(other));
                    return Err(LexError { position, message });
                }
            }
        }
    }

    fn single(&mut self, kind: Kind) {
        let text = &self.text[self.at..=self.at];
        self.push(kind, self.at, text);
        self.at += 1;
    }

    /// A run of spaces, which stops short of the one that belongs to ` -}}`.
    fn spaces(&mut self) {
        let start = self.at;
        while self.rest().as_bytes().first().copied().is_some_and(is_space)
            && !self.rest()[1..].starts_with("-}}")
        {
            self.at += 1;
        }
        self.push(Kind::Space, start, &self.text[start..self.at]);
    }

    /// A name; of a field or a variable with its first character.
    fn word(&mut self, kind: Kind) {
        let start = self.at;
        let prefix = usize::from(kind != Kind::Identifier);
        let body = &self.rest()[prefix..];
        let length = body.find(|character| !is_word(character)).unwrap_or(body.len());
        self.at += prefix + length;
        let skipped = usize::from(kind == Kind::Field);
        self.push(kind, start, &self.text[start + skipped..self.at]);
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Result<(), LexError> {
        let start = self.at;
        let mut characters = self.rest().char_indices().skip(1);
        while let Some((offset, character)) = characters.next() {
            match character {
                '\\' if characters.next().is_some_and(|(_, escaped)| escaped != '\n') => {}
                '\\' | '\n' => break,
                other if other == quote => {
                    self.at += offset + 1;
                    self.push(kind, start, &self.text[start..self.at]);
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(LexError { position: start, message: unterminated.to_owned() })
    }

    fn raw(&mut self) -> Result<(), LexError> {
        let start = self.at;
        let Some(length) = self.rest()[1..].find('`') else {
            return Err(LexError { position: start, message: "unterminated raw quoted string".to_owned() });
        };
        self.at += length + 2;
        self.push(Kind::Raw, start, &self.text[start..self.at]);
        Ok(())
    }

    fn number(&mut self) -> Result<(), LexError> {
        let start = self.at;
        let rest = self.rest();
        let hexadecimal =
            rest.trim_start_matches(['+', '-']).get(..2).is_some_and(|two| two.eq_ignore_ascii_case("0x"));
        let mut previous = '\0';
        let mut length = rest.len();
        for (offset, character) in rest.char_indices() {
            let sign = matches!(character, '+' | '-');
            let after_exponent =
                matches!(previous, 'p' | 'P') || (!hexadecimal && matches!(previous, 'e' | 'E'));
            if !(is_word(character) || character == '.' || (sign && (offset == 0 || after_exponent))) {
                length = offset;
                break;
            }
            previous = character;
        }
        self.at += length;
        let text = &self.text[start..self.at];
        if !text.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(LexError { position: start, message: format!("bad number syntax: {text:?}") });
        }
        self.push(Kind::Number, start, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Kind, tokens};

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text).into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn cuts_fields_apart_from_dots() {
        use Kind::{Close, Dot, End, Field, Open, Space, Variable};
        assert_eq!(
            kinds("{{.A.B . $x.C}}"),
            [Open, Field, Field, Space, Dot, Space, Variable, Field, Close, End]
        );
    }

    #[test]
    fn trims_only_with_a_space() {
        let texts: Vec<String> = tokens("a  {{- 1 -}}  b {{-1}} c")
            .into_iter()
            .filter(|token| token.kind == Kind::Text)
            .map(|token| token.text)
            .collect();
        assert_eq!(texts, ["a", "b ", " c"]);
    }

    #[test]
    fn comments_vanish() {
        let texts: Vec<String> =
            tokens("a {{- /* no }} action */ -}} b").into_iter().map(|t| t.text).collect();
        assert_eq!(texts, ["a", "b", ""]);
    }

    #[test]
    fn refuses_what_is_not_closed() {
        for (text, message) in [
            ("{{.A", "unclosed action"),
            ("{{(1}}", "unclosed left paren"),
            ("{{1)}}", "unexpected right paren"),
            ("{{\"a}}", "unterminated quoted string"),
            ("{{`a}}", "unterminated raw quoted string"),
            ("{{/* a}}", "unclosed comment"),
            ("{{\u{1}}}", "unrecognized character in action: U+0001 '\u{1}'"),
        ] {
            let last = tokens(text).pop().unwrap();
            assert_eq!((last.kind, last.text.as_str()), (Kind::Broken, message), "{text}");
        }
    }
}
