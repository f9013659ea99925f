//! Walks the tree with the data and writes the output, within bounds.

use std::borrow::Cow;

use serde_json::Value;

use crate::builtins;
use crate::parser::Tree;
use crate::syntax::{Branch, Command, Node, Operand, Pipeline, Place, Term};
use crate::value::{display, sorted, truth, type_name};
use crate::{Methods, MissingField, OUTPUT_LIMIT, Settings, TemplateError};

/// How many nodes and commands one rendering may take: a range over a range over a range is not endless.
const STEP_LIMIT: usize = 5_000_000;
/// How deep templates may call each other.
const CALL_LIMIT: usize = 100;

/// A value, or the lack of one: what a missing key of a map gives.
#[derive(Clone, Debug)]
enum Datum<'d> {
    Missing,
    Present(Cow<'d, Value>),
}

impl Datum<'_> {
    fn into_value(self) -> Value {
        match self {
            Datum::Missing => Value::Null,
            Datum::Present(value) => value.into_owned(),
        }
    }

    fn holds(&self) -> bool {
        match self {
            Datum::Missing => false,
            Datum::Present(value) => truth(value),
        }
    }
}

impl From<Value> for Datum<'_> {
    fn from(value: Value) -> Self {
        Datum::Present(Cow::Owned(value))
    }
}

/// How a list of nodes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Renders `tree` with `data`.
pub(crate) fn render(
    settings: &Settings,
    text: &str,
    tree: &Tree,
    data: &Value,
    methods: &dyn Methods,
) -> Result<String, TemplateError> {
    let dot = Datum::Present(Cow::Borrowed(data));
    let mut run = Run {
        settings,
        text,
        tree,
        methods,
        variables: vec![("$", dot.clone())],
        out: String::new(),
        steps: 0,
        calls: 0,
    };
    run.list(&tree.main, &dot)?;
    Ok(run.out)
}

struct Run<'t, 'd> {
    settings: &'t Settings,
    text: &'t str,
    tree: &'t Tree,
    methods: &'t dyn Methods,
    variables: Vec<(&'t str, Datum<'d>)>,
    out: String,
    steps: usize,
    calls: usize,
}

impl<'t, 'd> Run<'t, 'd> {
    fn error(&self, place: &Place, message: impl Into<String>) -> TemplateError {
        let before = &self.text[..place.position];
        let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1);
        let mut context = place.source.clone();
        if context.len() > 20 {
            context = format!("{}...", context.chars().take(20).collect::<String>());
        }
        TemplateError::Execute {
            name: self.settings.name.clone(),
            line: before.matches('\n').count() + 1,
            column,
            context,
            message: message.into(),
        }
    }

    fn step(&mut self) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.steps > STEP_LIMIT {
            return Err(TemplateError::TooManySteps { limit: STEP_LIMIT });
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > OUTPUT_LIMIT {
            return Err(TemplateError::TooLong { limit: OUTPUT_LIMIT });
        }
        self.out.push_str(text);
        Ok(())
    }

    fn list(&mut self, nodes: &'t [Node], dot: &Datum<'d>) -> Result<Flow, TemplateError> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => {
                    self.write(text)?;
                    Flow::On
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.print(&value)?;
                    }
                    Flow::On
                }
                Node::If(branch) => self.scoped(|run| {
                    let condition = run.pipeline(&branch.condition, dot)?;
                    run.list(if condition.holds() { &branch.body } else { &branch.otherwise }, dot)
                })?,
                Node::With(branch) => self.scoped(|run| {
                    let condition = run.pipeline(&branch.condition, dot)?;
                    if condition.holds() {
                        run.list(&branch.body, &condition)
                    } else {
                        run.list(&branch.otherwise, dot)
                    }
                })?,
                Node::Range(branch) => self.scoped(|run| run.range(branch, dot))?,
                Node::Template { place, name, argument } => {
                    self.template(place, name, argument.as_ref(), dot)?;
                    Flow::On
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Runs `body` and forgets the variables that it declared.
    fn scoped<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let visible = self.variables.len();
        let result = body(self);
        self.variables.truncate(visible);
        result
    }

    fn print(&mut self, value: &Datum<'_>) -> Result<(), TemplateError> {
        match value {
            Datum::Missing => self.write("<no value>"),
            Datum::Present(value) if value.is_null() => {
                let text = self.settings.null_text.clone();
                self.write(&text)
            }
            Datum::Present(value) => match value.as_ref() {
                Value::String(text) => self.write(text),
                other => self.write(&display(other)),
            },
        }
    }

    fn range(&mut self, branch: &'t Branch, dot: &Datum<'d>) -> Result<Flow, TemplateError> {
        let place = &branch.condition.place;
        let subject = self.pipeline(&branch.condition, dot)?;
        let entries: Vec<(Value, Datum<'d>)> = match subject {
            Datum::Missing => Vec::new(),
            Datum::Present(Cow::Borrowed(Value::Array(list))) => list
                .iter()
                .enumerate()
                .map(|(i, item)| (Value::from(i), Datum::Present(Cow::Borrowed(item))))
                .collect(),
            Datum::Present(Cow::Borrowed(Value::Object(map))) => sorted(map)
                .into_iter()
                .map(|(key, item)| (Value::String(key.clone()), Datum::Present(Cow::Borrowed(item))))
                .collect(),
            Datum::Present(value) => match value.into_owned() {
                Value::Null => Vec::new(),
                Value::Array(list) => list
                    .into_iter()
                    .enumerate()
                    .map(|(i, item)| (Value::from(i), Datum::from(item)))
                    .collect(),
                Value::Object(map) => {
                    let mut entries: Vec<_> =
                        map.into_iter().map(|(key, item)| (Value::String(key), Datum::from(item))).collect();
                    entries.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
                    entries
                }
                Value::Number(number) if !number.is_f64() => {
                    let count = number.as_u64().unwrap_or(0);
                    if usize::try_from(count).map_or(true, |count| count > STEP_LIMIT) {
                        return Err(TemplateError::TooManySteps { limit: STEP_LIMIT });
                    }
                    (0..count).map(|i| (Value::from(i), Datum::from(Value::from(i)))).collect()
                }
                other => {
                    return Err(self.error(place, format!("range can't iterate over {}", display(&other))));
                }
            },
        };
        if entries.is_empty() {
            return self.list(&branch.otherwise, dot);
        }
        for (key, item) in entries {
            self.step()?;
            let flow = self.scoped(|run| {
                let condition = &branch.condition;
                match condition.variables.as_slice() {
                    [] => {}
                    [value] => run.set(value, item.clone(), condition.assigns),
                    [first, second, ..] => {
                        run.set(first, Datum::from(key), condition.assigns);
                        run.set(second, item.clone(), condition.assigns);
                    }
                }
                run.list(&branch.body, &item)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &'t str, value: Datum<'d>, assigns: bool) {
        if assigns && let Some(slot) = self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            slot.1 = value;
            return;
        }
        self.variables.push((name, value));
    }

    fn template(
        &mut self,
        place: &Place,
        name: &str,
        argument: Option<&'t Pipeline>,
        dot: &Datum<'d>,
    ) -> Result<(), TemplateError> {
        let tree = self.tree;
        let Some(nodes) = tree.defined.get(name) else {
            return Err(self.error(place, format!("template {name:?} not defined")));
        };
        if self.calls == CALL_LIMIT {
            return Err(self.error(place, format!("exceeded maximum template depth ({CALL_LIMIT})")));
        }
        let dot = match argument {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Datum::Missing,
        };
        let outside = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.calls += 1;
        let result = self.list(nodes, &dot);
        self.calls -= 1;
        self.variables = outside;
        result.map(|_| ())
    }

    /// The value of a pipeline, its variables set.
    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Datum<'d>) -> Result<Datum<'d>, TemplateError> {
        let mut value: Option<Datum<'d>> = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or(Datum::Missing);
        // The variables of a `range` get the items, not the list; it sets them itself.
        if let [name] = pipeline.variables.as_slice() {
            self.set(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn command(
        &mut self,
        command: &'t Command,
        dot: &Datum<'d>,
        last: Option<Datum<'d>>,
    ) -> Result<Datum<'d>, TemplateError> {
        self.step()?;
        let operand = &command.first;
        match &operand.term {
            Term::Function(name) if operand.fields.is_empty() => {
                return self.call(name, command, dot, last);
            }
            Term::Dot | Term::Variable(_) | Term::Pipeline(_) if !operand.fields.is_empty() => {
                let mut arguments = Vec::with_capacity(command.arguments.len());
                for argument in &command.arguments {
                    arguments.push(self.operand(argument, dot)?.into_value());
                }
                arguments.extend(last.map(Datum::into_value));
                let base = self.term(operand, dot)?;
                return self.fields(operand, base, &arguments);
            }
            Term::Nil => return Err(self.error(&operand.place, "nil is not a command")),
            _ => {}
        }
        if !command.arguments.is_empty() || last.is_some() {
            let message = format!("can't give argument to non-function {}", operand.place.source);
            return Err(self.error(&operand.place, message));
        }
        self.operand(operand, dot)
    }

    fn operand(&mut self, operand: &'t Operand, dot: &Datum<'d>) -> Result<Datum<'d>, TemplateError> {
        let base = self.term(operand, dot)?;
        if operand.fields.is_empty() { Ok(base) } else { self.fields(operand, base, &[]) }
    }

    fn term(&mut self, operand: &'t Operand, dot: &Datum<'d>) -> Result<Datum<'d>, TemplateError> {
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => Ok(Datum::from(Value::Null)),
            Term::Constant(value) => Ok(Datum::from(value.clone())),
            Term::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                match found {
                    Some((_, value)) => Ok(value.clone()),
                    None => Err(self.error(&operand.place, format!("undefined variable: {name}"))),
                }
            }
            Term::Function(name) => self.invoke(name, &operand.place, &[]),
            Term::Pipeline(pipeline) => self.scoped(|run| run.pipeline(pipeline, dot)),
        }
    }

    /// Takes the operand's fields from `base`; the arguments belong to the last one.
    fn fields(
        &mut self,
        operand: &Operand,
        base: Datum<'d>,
        arguments: &[Value],
    ) -> Result<Datum<'d>, TemplateError> {
        let mut value = base;
        for (index, name) in operand.fields.iter().enumerate() {
            let last = index + 1 == operand.fields.len();
            value = self.field(operand, value, name, if last { arguments } else { &[] })?;
        }
        Ok(value)
    }

    fn field(
        &self,
        operand: &Operand,
        value: Datum<'d>,
        name: &str,
        arguments: &[Value],
    ) -> Result<Datum<'d>, TemplateError> {
        let place = &operand.place;
        let value = match value {
            Datum::Missing => {
                return match self.settings.missing {
                    MissingField::Refuse => {
                        Err(self.error(place, format!("nil data; no entry for key {name:?}")))
                    }
                    _ => Ok(Datum::Missing),
                };
            }
            Datum::Present(value) => value,
        };
        if let Value::Object(map) = value.as_ref() {
            if let Some(answer) =
                map.get(name).is_none().then(|| self.methods.call(name, &value, arguments)).flatten()
            {
                return answer
                    .map(Datum::from)
                    .map_err(|message| self.error(place, format!("error calling {name}: {message}")));
            }
            if !arguments.is_empty() {
                return Err(self.error(place, format!("{name} is not a method but has arguments")));
            }
            if map.contains_key(name) {
                return Ok(match value {
                    Cow::Borrowed(Value::Object(map)) => {
                        map.get(name).map_or(Datum::Missing, |found| Datum::Present(Cow::Borrowed(found)))
                    }
                    Cow::Borrowed(_) => Datum::Missing,
                    Cow::Owned(mut owned) => Datum::from(owned[name].take()),
                });
            }
            return match self.settings.missing {
                MissingField::NoValue => Ok(Datum::Missing),
                MissingField::Refuse => Err(self.error(place, format!("map has no entry for key {name:?}"))),
                MissingField::OfType(type_name) => {
                    Err(self.error(place, format!("can't evaluate field {name} in type {type_name}")))
                }
            };
        }
        Err(self.error(
            place,
            match value.as_ref() {
                Value::Null => format!("nil pointer evaluating interface {{}}.{name}"),
                other => format!("can't evaluate field {name} in type {}", type_name(other)),
            },
        ))
    }

    fn call(
        &mut self,
        name: &str,
        command: &'t Command,
        dot: &Datum<'d>,
        last: Option<Datum<'d>>,
    ) -> Result<Datum<'d>, TemplateError> {
        if matches!(name, "and" | "or") {
            return self.lazy(name, command, dot, last);
        }
        let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
        for argument in &command.arguments {
            arguments.push(self.operand(argument, dot)?);
        }
        arguments.extend(last);
        let missing_key = name == "index" && self.settings.empty_index;
        let arguments: Vec<Value> = arguments.into_iter().map(Datum::into_value).collect();
        if missing_key
            && let [Value::Object(_) | Value::Null, Value::String(_)] = arguments.as_slice()
            && arguments[0].get(arguments[1].as_str().unwrap_or_default()).is_none()
        {
            return Ok(Datum::from(Value::String(String::new())));
        }
        self.invoke(name, &command.place, &arguments).map(|answer| match answer {
            // A key that a map lacks is no value rather than nil.
            Datum::Present(value) if name == "index" && value.is_null() => Datum::Missing,
            answer => answer,
        })
    }

    /// `and` and `or`, which stop at the first argument that decides.
    fn lazy(
        &mut self,
        name: &str,
        command: &'t Command,
        dot: &Datum<'d>,
        last: Option<Datum<'d>>,
    ) -> Result<Datum<'d>, TemplateError> {
        let mut value = None;
        for argument in &command.arguments {
            let current = self.operand(argument, dot)?;
            if current.holds() == (name == "or") {
                return Ok(current);
            }
            value = Some(current);
        }
        last.or(value).ok_or_else(|| {
            self.error(&command.place, format!("wrong number of args for {name}: want at least 1 got 0"))
        })
    }

    fn invoke(&self, name: &str, place: &Place, arguments: &[Value]) -> Result<Datum<'d>, TemplateError> {
        let Some(function) = self.settings.functions.get(name) else {
            return Err(self.error(place, format!("{name:?} is not a defined function")));
        };
        let answer: builtins::Answer = function(arguments);
        match answer {
            Ok(Value::String(text)) if text.len() > OUTPUT_LIMIT => {
                Err(TemplateError::TooLong { limit: OUTPUT_LIMIT })
            }
            Ok(value) => Ok(Datum::from(value)),
            Err(message) if message.starts_with("wrong number of args") => Err(self.error(place, message)),
            Err(message) => Err(self.error(place, format!("error calling {name}: {message}"))),
        }
    }
}
