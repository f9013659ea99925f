//! Go's `text/template` over JSON values, for the `--format` options that people's scripts depend on.
//!
//! ```
//! let template = gotemplate::parse("{{.Name}}: {{range .Ports}}[{{.}}]{{end}}")?;
//! let data = serde_json::json!({"Name": "web", "Ports": [80, 443]});
//! assert_eq!(template.render(&data)?, "web: [80][443]");
//! # Ok::<(), gotemplate::TemplateError>(())
//! ```
//!
//! Differences from Go: the data is JSON, so there are no methods unless [`Methods`] gives them, and a map's keys
//! are strings. The work that a template may cause is bounded in depth, steps and output.

mod builtins;
mod evaluate;
#[cfg(test)]
mod fuzz;
mod lexer;
mod literal;
mod parser;
mod printf;
mod syntax;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

pub use builtins::Answer;
pub use printf::quote;
pub use value::{display, float_general, json, pretty_json};

/// What one template may write, and the longest string it may build.
pub const OUTPUT_LIMIT: usize = 16 << 20;

/// A function that templates can call: it gets its arguments, a piped one last.
pub type Function = Arc<dyn Fn(&[Value]) -> Answer + Send + Sync>;

/// Why a template could not be parsed or rendered; the texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template: {name}:{line}: {message}")]
    Parse { name: String, line: usize, message: String },
    #[error("template: {name}:{line}:{column}: executing {name:?} at <{context}>: {message}")]
    Execute { name: String, line: usize, column: usize, context: String, message: String },
    #[error("the template writes more than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the template takes more than {limit} steps")]
    TooManySteps { limit: usize },
}

/// What a field gives that the data does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingField {
    /// `<no value>`, as Go does for a map.
    #[default]
    NoValue,
    /// An error, as Go does with `missingkey=error`.
    Refuse,
    /// An error that names this type, as Go does for a struct.
    OfType(&'static str),
}

/// How numbers of the data are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// Integers stay integers.
    #[default]
    Plain,
    /// All are `float64`, as when Go decodes JSON into `interface{}`: 1000000 prints as `1e+06`.
    Float64,
}

/// Methods of the data: what `{{.Label "key"}}` calls.
pub trait Methods {
    /// The answer of the method `name` of `receiver`, or nothing if there is none. Asked only for fields which the
    /// data does not have.
    fn call(&self, name: &str, receiver: &Value, arguments: &[Value]) -> Option<Answer>;
}

impl Methods for () {
    fn call(&self, _name: &str, _receiver: &Value, _arguments: &[Value]) -> Option<Answer> {
        None
    }
}

/// Parses `text` with Go's functions and those of the docker command line (`json`, `join`, `lower` …).
pub fn parse(text: &str) -> Result<Template, TemplateError> {
    Parser::docker().parse(text)
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) functions: HashMap<String, Function>,
    pub(crate) numbers: Numbers,
    pub(crate) sort_keys: bool,
    pub(crate) missing: MissingField,
    pub(crate) null_text: String,
    pub(crate) empty_index: bool,
}

/// Chooses the functions and habits of a template before its text is parsed.
#[derive(Clone)]
pub struct Parser {
    settings: Settings,
}

impl Parser {
    /// Go's own functions and no others.
    pub fn standard() -> Self {
        let functions = builtins::standard().into_iter().map(|(name, function)| (name.to_owned(), function));
        let settings = Settings {
            name: String::new(),
            functions: functions.collect(),
            numbers: Numbers::default(),
            sort_keys: false,
            missing: MissingField::default(),
            null_text: "<no value>".to_owned(),
            empty_index: false,
        };
        Self { settings }
    }

    /// Go's functions and those of the docker command line: `json`, `prettyjson`, `join`, `split`, `lower`, `upper`,
    /// `title`, `pad`, `truncate`.
    pub fn docker() -> Self {
        let mut parser = Self::standard();
        for (name, function) in builtins::docker() {
            parser.settings.functions.insert(name.to_owned(), function);
        }
        parser
    }

    /// What docker-machine's `inspect --format` is: the data as Go decodes JSON into `interface{}` (float numbers, keys
    /// in order), Go's functions, `json` and `prettyjson` with HTML escapes.
    pub fn decoded() -> Self {
        Self::standard()
            .numbers(Numbers::Float64)
            .sort_keys(true)
            .function("json", |arguments| match arguments {
                [value] => Ok(Value::String(json(value, true))),
                _ => Err(format!("wrong number of args for json: want 1 got {}", arguments.len())),
            })
            .function("prettyjson", |arguments| match arguments {
                [value] => Ok(Value::String(pretty_json(value, true, "    "))),
                _ => Err(format!("wrong number of args for prettyjson: want 1 got {}", arguments.len())),
            })
    }

    /// Adds or replaces a function.
    #[must_use]
    pub fn function(
        mut self,
        name: &str,
        function: impl Fn(&[Value]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.settings.functions.insert(name.to_owned(), Arc::new(function));
        self
    }

    /// The name of the template in messages; empty unless set.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.settings.name);
        self
    }

    /// How numbers of the data are seen.
    #[must_use]
    pub fn numbers(mut self, numbers: Numbers) -> Self {
        self.settings.numbers = numbers;
        self
    }

    /// Whether `json` writes keys in alphabetical order, as Go does for maps; the order of the data otherwise.
    #[must_use]
    pub fn sort_keys(mut self, sort: bool) -> Self {
        self.settings.sort_keys = sort;
        self
    }

    /// What a field gives that the data does not have.
    #[must_use]
    pub fn missing(mut self, missing: MissingField) -> Self {
        self.settings.missing = missing;
        self
    }

    /// What a null of the data prints as; `<no value>` unless set.
    #[must_use]
    pub fn null_text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.settings.null_text);
        self
    }

    /// Whether `index` of a key that is not there gives an empty string, as Go does for a map of strings.
    #[must_use]
    pub fn empty_index(mut self, empty: bool) -> Self {
        self.settings.empty_index = empty;
        self
    }

    /// Parses `text`.
    pub fn parse(self, text: &str) -> Result<Template, TemplateError> {
        let functions = &self.settings.functions;
        let tree = parser::parse(text, &|name| functions.contains_key(name)).map_err(|error| {
            TemplateError::Parse {
                name: self.settings.name.clone(),
                line: text[..error.position.min(text.len())].matches('\n').count() + 1,
                message: error.message,
            }
        })?;
        Ok(Template { settings: Arc::new(self.settings), text: text.to_owned(), tree })
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Parser").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// A parsed template.
#[derive(Clone)]
pub struct Template {
    settings: Arc<Settings>,
    text: String,
    tree: parser::Tree,
}

impl Template {
    /// The output of the template for `data`.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        self.render_with(data, &())
    }

    /// The output of the template for `data`, which has `methods`.
    pub fn render_with(&self, data: &Value, methods: &dyn Methods) -> Result<String, TemplateError> {
        if self.settings.numbers == Numbers::Plain && !self.settings.sort_keys {
            return evaluate::render(&self.settings, &self.text, &self.tree, data, methods);
        }
        let data = decoded(data, self.settings.numbers, self.settings.sort_keys);
        evaluate::render(&self.settings, &self.text, &self.tree, &data, methods)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").field("text", &self.text).finish_non_exhaustive()
    }
}

fn decoded(value: &Value, numbers: Numbers, sort_keys: bool) -> Value {
    match value {
        Value::Number(number) if numbers == Numbers::Float64 => {
            number.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
        }
        Value::Array(list) => list.iter().map(|item| decoded(item, numbers, sort_keys)).collect(),
        Value::Object(map) => {
            let entries = if sort_keys { value::sorted(map) } else { map.iter().collect() };
            let converted: Map<String, Value> = entries
                .into_iter()
                .map(|(key, item)| (key.clone(), decoded(item, numbers, sort_keys)))
                .collect();
            Value::Object(converted)
        }
        other => other.clone(),
    }
}
