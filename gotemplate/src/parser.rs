//! Turns tokens into the tree, and checks what can be known before there is data.

use std::collections::HashMap;

use serde_json::Value;

use crate::lexer::{self, Kind, Token};
use crate::literal;
use crate::syntax::{Branch, Command, Node, Operand, Pipeline, Place, Term};

/// How deep controls and parentheses may stand in each other; deeper is an attack on the stack, not a template.
const MAXIMUM_DEPTH: usize = 100;

/// What is wrong with the text, and where.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) position: usize,
    pub(crate) message: String,
}

/// A parsed text: the main tree, and the trees that it defines by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) main: Vec<Node>,
    pub(crate) defined: HashMap<String, Vec<Node>>,
}

/// Parses `text`; `known` says which functions there are.
pub(crate) fn parse(text: &str, known: &dyn Fn(&str) -> bool) -> Result<Tree, SyntaxError> {
    let tokens = lexer::tokens(text);
    let mut parser = Parser {
        text,
        tokens,
        next: 0,
        known,
        variables: vec!["$".to_owned()],
        defined: HashMap::new(),
        depth: 0,
        loops: 0,
    };
    let (main, end) = parser.list()?;
    match end {
        Terminator::End => Err(parser.unexpected_control("{{end}}")),
        Terminator::Else => Err(parser.unexpected_control("{{else}}")),
        Terminator::Text => Ok(Tree { main, defined: parser.defined }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminator {
    End,
    Else,
    /// The end of the text.
    Text,
}

enum Item {
    Node(Node),
    Nothing,
    Stop(Terminator),
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
    known: &'a dyn Fn(&str) -> bool,
    /// The variables in sight, innermost last.
    variables: Vec<String>,
    defined: HashMap<String, Vec<Node>>,
    depth: usize,
    loops: usize,
}

impl Parser<'_> {
    /// The next token; at the end, always the last one.
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn skip_spaces(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        let token = self.peek();
        let message = if token.kind == Kind::Broken { token.text.clone() } else { message.into() };
        Err(SyntaxError { position: token.position, message })
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, SyntaxError> {
        let token = self.peek();
        match token.kind {
            Kind::End => self.fail("unexpected EOF"),
            _ => self.fail(format!("unexpected {} in {context}", describe(token))),
        }
    }

    /// The control word was read already, so the position is that of what came before.
    fn unexpected_control(&self, what: &str) -> SyntaxError {
        let position = self.tokens[self.next.saturating_sub(1).min(self.tokens.len() - 1)].position;
        SyntaxError { position, message: format!("unexpected {what}") }
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        if self.depth == MAXIMUM_DEPTH {
            return self.fail("the template is nested too deeply");
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Everything up to an `{{end}}`, an `{{else` or the end of the text.
    fn list(&mut self) -> Result<(Vec<Node>, Terminator), SyntaxError> {
        let mut nodes = Vec::new();
        loop {
            match self.item()? {
                Item::Node(node) => nodes.push(node),
                Item::Nothing => {}
                Item::Stop(terminator) => return Ok((nodes, terminator)),
            }
        }
    }

    fn item(&mut self) -> Result<Item, SyntaxError> {
        let token = self.take();
        match token.kind {
            Kind::Text => return Ok(Item::Node(Node::Text(token.text))),
            Kind::End => return Ok(Item::Stop(Terminator::Text)),
            _ => self.skip_spaces(),
        }
        if self.peek().kind != Kind::Identifier {
            return self.action();
        }
        let word = self.peek().text.clone();
        match word.as_str() {
            "end" => {
                self.take();
                self.close("end")?;
                Ok(Item::Stop(Terminator::End))
            }
            "else" => {
                self.take();
                Ok(Item::Stop(Terminator::Else))
            }
            "if" | "with" | "range" => {
                self.take();
                self.deeper(|parser| parser.control(&word)).map(Item::Node)
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                self.take();
                self.close(&word)?;
                Ok(Item::Node(if word == "break" { Node::Break } else { Node::Continue }))
            }
            "define" => self.deeper(Self::define),
            "template" => self.template(),
            "block" => self.deeper(Self::block),
            _ => self.action(),
        }
    }

    fn action(&mut self) -> Result<Item, SyntaxError> {
        let pipeline = self.pipeline("command", Kind::Close)?;
        Ok(Item::Node(Node::Action(pipeline)))
    }

    /// The closing delimiter after a word that takes nothing.
    fn close(&mut self, context: &str) -> Result<(), SyntaxError> {
        self.skip_spaces();
        if self.peek().kind != Kind::Close {
            return self.unexpected(context);
        }
        self.take();
        Ok(())
    }

    /// The rest of an `if`, `with` or `range`, after its word.
    fn control(&mut self, word: &str) -> Result<Node, SyntaxError> {
        let visible = self.variables.len();
        let condition = self.pipeline(word, Kind::Close)?;
        self.loops += usize::from(word == "range");
        let (body, terminator) = self.list()?;
        self.loops -= usize::from(word == "range");
        let otherwise = match terminator {
            Terminator::End => Vec::new(),
            Terminator::Text => return self.fail("unexpected EOF"),
            Terminator::Else => self.otherwise(word)?,
        };
        self.variables.truncate(visible);
        let branch = Branch { condition, body, otherwise };
        Ok(match word {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// What follows `{{else`: another condition of the same kind, or a list up to `{{end}}`.
    fn otherwise(&mut self, word: &str) -> Result<Vec<Node>, SyntaxError> {
        self.skip_spaces();
        let next = self.peek();
        if next.kind == Kind::Identifier && next.text == word && word != "range" {
            self.take();
            return self.deeper(|parser| parser.control(word)).map(|node| vec![node]);
        }
        self.close("else")?;
        let (nodes, terminator) = self.list()?;
        match terminator {
            Terminator::End => Ok(nodes),
            Terminator::Else => self.fail("expected end; found {{else}}"),
            Terminator::Text => self.fail("unexpected EOF"),
        }
    }

    fn name(&mut self, context: &str) -> Result<String, SyntaxError> {
        self.skip_spaces();
        let token = self.peek().clone();
        if !matches!(token.kind, Kind::Quoted | Kind::Raw) {
            return self.unexpected(context);
        }
        self.take();
        literal::string(&token.text)
            .ok_or_else(|| SyntaxError { position: token.position, message: "invalid syntax".to_owned() })
    }

    fn template(&mut self) -> Result<Item, SyntaxError> {
        self.take();
        self.skip_spaces();
        let position = self.peek().position;
        let name = self.name("template clause")?;
        self.skip_spaces();
        let argument = if self.peek().kind == Kind::Close {
            self.take();
            None
        } else {
            Some(self.pipeline("template clause", Kind::Close)?)
        };
        let place = Place { position, source: format!("{{{{template {name:?}}}}}") };
        Ok(Item::Node(Node::Template { place, name, argument }))
    }

    /// The body of a named template, which sees no variables of its surroundings.
    fn named_body(&mut self, name: &str) -> Result<(), SyntaxError> {
        let outside = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, terminator) = self.list()?;
        if terminator != Terminator::End {
            return self.fail("unexpected EOF");
        }
        self.variables = outside;
        self.loops = loops;
        self.defined.insert(name.to_owned(), nodes);
        Ok(())
    }

    fn define(&mut self) -> Result<Item, SyntaxError> {
        if self.depth > 1 {
            return self.fail("unexpected {{define}}");
        }
        self.take();
        let name = self.name("define clause")?;
        self.close("define clause")?;
        self.named_body(&name)?;
        Ok(Item::Nothing)
    }

    fn block(&mut self) -> Result<Item, SyntaxError> {
        self.take();
        self.skip_spaces();
        let position = self.peek().position;
        let name = self.name("block clause")?;
        let argument = self.pipeline("block clause", Kind::Close)?;
        self.named_body(&name)?;
        let place = Place { position, source: format!("{{{{block {name:?}}}}}") };
        Ok(Item::Node(Node::Template { place, name, argument: Some(argument) }))
    }

    /// A pipeline and the token that ends it.
    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipeline, SyntaxError> {
        self.skip_spaces();
        let start = self.peek().position;
        let (variables, assigns) = self.declarations(context)?;
        let mut commands = Vec::new();
        loop {
            self.skip_spaces();
            if self.peek().kind == end {
                if commands.is_empty() {
                    return self.fail(format!("missing value for {context}"));
                }
                break;
            }
            commands.push(self.command(context)?);
        }
        for (stage, command) in commands.iter().enumerate().skip(1) {
            let operand = &command.first;
            let executable = match &operand.term {
                Term::Dot => !operand.fields.is_empty(),
                Term::Nil | Term::Constant(_) => false,
                Term::Variable(_) | Term::Function(_) | Term::Pipeline(_) => true,
            };
            if !executable {
                return self.fail(format!("non executable command in pipeline stage {}", stage + 1));
            }
        }
        let source = self.text[start..self.peek().position].trim_end().to_owned();
        self.take();
        Ok(Pipeline { place: Place { position: start, source }, variables, assigns, commands })
    }

    /// `$x :=`, `$x =` or, for `range`, `$i, $x :=`, if they are there.
    fn declarations(&mut self, context: &str) -> Result<(Vec<String>, bool), SyntaxError> {
        let before = self.next;
        let mut names: Vec<String> = Vec::new();
        while self.peek().kind == Kind::Variable {
            names.push(self.take().text);
            self.skip_spaces();
            match self.peek().kind {
                Kind::Comma if context == "range" && names.len() < 2 => {
                    self.take();
                    self.skip_spaces();
                    if self.peek().kind != Kind::Variable {
                        return self.fail("range can only initialize variables");
                    }
                }
                Kind::Comma => return self.fail(format!("too many declarations in {context}")),
                Kind::Declare => {
                    self.take();
                    self.variables.extend(names.iter().cloned());
                    return Ok((names, false));
                }
                Kind::Assign => {
                    for name in &names {
                        if !self.variables.contains(name) {
                            return self.fail(format!("undefined variable {name:?}"));
                        }
                    }
                    self.take();
                    return Ok((names, true));
                }
                _ => break,
            }
        }
        self.next = before;
        Ok((Vec::new(), false))
    }

    fn command(&mut self, context: &str) -> Result<Command, SyntaxError> {
        let start = self.peek().position;
        let mut operands = Vec::new();
        loop {
            self.skip_spaces();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            match self.peek().kind {
                Kind::Space => {}
                Kind::Close | Kind::RightParenthesis | Kind::Pipe => break,
                _ => return self.unexpected("operand"),
            }
        }
        let source = self.text[start..self.peek().position].trim_end().to_owned();
        let piped = self.peek().kind == Kind::Pipe;
        if piped {
            self.take();
        }
        if operands.is_empty() {
            return self.fail("empty command");
        }
        if piped {
            self.skip_spaces();
            if matches!(self.peek().kind, Kind::Close | Kind::RightParenthesis) {
                return self.fail(format!("missing value for {context}"));
            }
        }
        let first = operands.remove(0);
        Ok(Command { place: Place { position: start, source }, first, arguments: operands })
    }

    /// A term with the fields taken from it, if one is here.
    fn operand(&mut self) -> Result<Option<Operand>, SyntaxError> {
        let start = self.peek().position;
        let Some((term, mut fields)) = self.term()? else { return Ok(None) };
        let mut position = start;
        if self.peek().kind == Kind::Field {
            let chainable = match &term {
                Term::Dot => !fields.is_empty(),
                Term::Nil | Term::Constant(_) => false,
                Term::Variable(_) | Term::Function(_) | Term::Pipeline(_) => true,
            };
            if !chainable {
                let source = &self.text[start..self.peek().position];
                return self.fail(format!("unexpected . after term {source:?}"));
            }
            position = self.peek().position;
            while self.peek().kind == Kind::Field {
                fields.push(self.take().text);
            }
        }
        let source = self.text[start..self.peek().position].to_owned();
        Ok(Some(Operand { place: Place { position, source }, term, fields }))
    }

    fn term(&mut self) -> Result<Option<(Term, Vec<String>)>, SyntaxError> {
        let token = self.peek().clone();
        let invalid = |message: String| Err(SyntaxError { position: token.position, message });
        let term = match token.kind {
            Kind::Dot => Term::Dot,
            Kind::Field => {
                self.take();
                return Ok(Some((Term::Dot, vec![token.text])));
            }
            Kind::Identifier => match token.text.as_str() {
                "true" => Term::Constant(Value::Bool(true)),
                "false" => Term::Constant(Value::Bool(false)),
                "nil" => Term::Nil,
                name if (self.known)(name) => Term::Function(name.to_owned()),
                name => return invalid(format!("function {name:?} not defined")),
            },
            Kind::Variable if self.variables.contains(&token.text) => Term::Variable(token.text.clone()),
            Kind::Variable => return invalid(format!("undefined variable {:?}", token.text)),
            Kind::Number => match literal::number(&token.text) {
                Some(number) => Term::Constant(Value::Number(number)),
                None => return invalid(format!("bad number syntax: {:?}", token.text)),
            },
            Kind::Character => match literal::character(&token.text) {
                Some(code) => Term::Constant(Value::from(code)),
                None => return invalid(format!("malformed character constant: {}", token.text)),
            },
            Kind::Quoted | Kind::Raw => match literal::string(&token.text) {
                Some(string) => Term::Constant(Value::String(string)),
                None => return invalid("invalid syntax".to_owned()),
            },
            Kind::LeftParenthesis => {
                self.take();
                let visible = self.variables.len();
                let pipeline =
                    self.deeper(|parser| parser.pipeline("parenthesized pipeline", Kind::RightParenthesis))?;
                self.variables.truncate(visible);
                return Ok(Some((Term::Pipeline(Box::new(pipeline)), Vec::new())));
            }
            _ => return Ok(None),
        };
        self.take();
        Ok(Some((term, Vec::new())))
    }
}

/// A token as Go's messages name it.
fn describe(token: &Token) -> String {
    match token.kind {
        Kind::Identifier
            if matches!(token.text.as_str(), "end" | "else" | "if" | "range" | "with" | "define") =>
        {
            format!("<{}>", token.text)
        }
        Kind::Field => format!("<.{}>", token.text),
        Kind::Dot => "<.>".to_owned(),
        _ if token.text.chars().count() > 10 => {
            format!("{:?}...", token.text.chars().take(10).collect::<String>())
        }
        _ => format!("{:?}", token.text),
    }
}
