//! Runs PowerShell as it is parsed: the statements and expressions that the driver's scripts are made of, and no others.
//!
//! It is stricter than PowerShell: a member that an object does not have is an error instead of nothing, so that a slip in a
//! script or in what the driver sends is seen.

use std::collections::HashMap;

use tree_sitter::Node;

use crate::{
    cmdlets::{self, Bound},
    dotnet,
    value::{Failure, Value},
    world::World,
};

/// Why a statement does not go on to the next.
#[derive(Debug)]
pub(crate) enum Flow {
    Return,
    Exit,
    Throw(Failure),
    /// The stand-in does not know it: no script may use it.
    Unknown(String),
}

pub(crate) type Outcome<T> = Result<T, Flow>;

/// A function of the script: the names of its parameters, and its body.
#[derive(Debug, Clone)]
struct Function<'t> {
    parameters: Vec<String>,
    body: Option<Node<'t>>,
}

pub(crate) struct Interpreter<'t> {
    text: &'t str,
    pub(crate) world: World,
    functions: HashMap<String, Function<'t>>,
    /// Of the script, and of each function that is being run.
    scopes: Vec<HashMap<String, Value>>,
}

pub(crate) fn unknown<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Flow::Unknown(what.into()))
}

impl<'t> Interpreter<'t> {
    pub(crate) fn new(text: &'t str, world: World, input: String) -> Self {
        let lines = input.lines().map(Value::text).collect();
        let script = HashMap::from([("input".to_owned(), Value::List(lines))]);
        Self { text, world, functions: HashMap::new(), scopes: vec![script] }
    }

    pub(crate) fn run(&mut self, program: Node<'t>) -> Outcome<Vec<Value>> {
        let mut output = Vec::new();
        for child in named(program) {
            match child.kind() {
                "comment" => {}
                "statement_list" => self.statements(child, &mut output)?,
                other => return unknown(format!("`{other}` in a script")),
            }
        }
        Ok(output)
    }

    fn source(&self, node: Node<'t>) -> &'t str {
        &self.text[node.byte_range()]
    }

    fn statements(&mut self, list: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        for statement in named(list) {
            self.statement(statement, output)?;
        }
        Ok(())
    }

    /// The statements between braces.
    fn block(&mut self, block: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        match first(block, "statement_list") {
            Some(list) => self.statements(list, output),
            None => Ok(()),
        }
    }

    fn statement(&mut self, node: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        match node.kind() {
            "comment" | "empty_statement" => Ok(()),
            "pipeline" => {
                output.extend(self.pipeline(node)?);
                Ok(())
            }
            "function_statement" => self.define(node),
            "if_statement" => self.choose(node, output),
            "while_statement" => {
                let condition = required(node, "while_condition")?;
                let block = required(node, "statement_block")?;
                while self.condition(condition)? {
                    self.block(block, output)?;
                }
                Ok(())
            }
            "for_statement" => self.count(node, output),
            "foreach_statement" => self.for_each(node, output),
            "try_statement" => self.attempt(node, output),
            "flow_control_statement" => self.leave(node, output),
            other => unknown(format!("the statement `{other}`: {}", self.source(node))),
        }
    }

    fn define(&mut self, node: Node<'t>) -> Outcome<()> {
        let name = self.source(required(node, "function_name")?).to_ascii_lowercase();
        let mut parameters = Vec::new();
        if let Some(declared) = first(node, "function_parameter_declaration")
            && let Some(list) = first(declared, "parameter_list")
        {
            for parameter in named(list) {
                parameters.push(variable(self.source(required(parameter, "variable")?)));
            }
        }
        let body = first(node, "script_block")
            .and_then(|block| first(block, "script_block_body"))
            .and_then(|body| first(body, "statement_list"));
        self.functions.insert(name, Function { parameters, body });
        Ok(())
    }

    fn choose(&mut self, node: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        if self.condition(required(node, "pipeline")?)? {
            return self.block(required(node, "statement_block")?, output);
        }
        if let Some(clauses) = first(node, "elseif_clauses") {
            for clause in named(clauses) {
                if self.condition(required(clause, "pipeline")?)? {
                    return self.block(required(clause, "statement_block")?, output);
                }
            }
        }
        match first(node, "else_clause") {
            Some(clause) => self.block(required(clause, "statement_block")?, output),
            None => Ok(()),
        }
    }

    fn condition(&mut self, node: Node<'t>) -> Outcome<bool> {
        let pipeline = if node.kind() == "pipeline" { node } else { required(node, "pipeline")? };
        Ok(Value::of_output(self.pipeline(pipeline)?).truth())
    }

    fn count(&mut self, node: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        let part = |name| first(node, name).and_then(|part| first(part, "pipeline"));
        if let Some(begin) = part("for_initializer") {
            self.pipeline(begin)?;
        }
        let block = required(node, "statement_block")?;
        while match part("for_condition") {
            Some(condition) => self.condition(condition)?,
            None => true,
        } {
            self.block(block, output)?;
            if let Some(step) = part("for_iterator") {
                self.pipeline(step)?;
            }
        }
        Ok(())
    }

    fn for_each(&mut self, node: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        let name = variable(self.source(required(node, "variable")?));
        let block = required(node, "statement_block")?;
        for value in self.pipeline(required(node, "pipeline")?)? {
            for value in value.each() {
                self.assign(&name, value);
                self.block(block, output)?;
            }
        }
        Ok(())
    }

    fn attempt(&mut self, node: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        let failure = match self.block(required(node, "statement_block")?, output) {
            Err(Flow::Throw(failure)) => failure,
            other => return other,
        };
        for clause in named(required(node, "catch_clauses")?) {
            let meant = first(clause, "catch_type_list").is_none_or(|types| {
                named(types).any(|class| {
                    let class = self.source(class).trim_matches(['[', ']']);
                    class.rsplit('.').next().is_some_and(|class| class.eq_ignore_ascii_case(failure.class))
                })
            });
            if meant {
                self.assign("_", failure.record());
                return self.block(required(clause, "statement_block")?, output);
            }
        }
        Err(Flow::Throw(failure))
    }

    fn leave(&mut self, node: Node<'t>, output: &mut Vec<Value>) -> Outcome<()> {
        let value = match first(node, "pipeline") {
            Some(pipeline) => self.pipeline(pipeline)?,
            None => Vec::new(),
        };
        let word = node.child(0).map_or("", |word| word.kind());
        match word {
            "return" => {
                output.extend(value.into_iter().flat_map(Value::each));
                Err(Flow::Return)
            }
            "exit" => Err(Flow::Exit),
            "throw" => match Failure::of_record(&Value::of_output(value)) {
                Some(failure) => Err(Flow::Throw(failure)),
                None => unknown("`throw` of anything but an error record"),
            },
            other => unknown(format!("`{other}`")),
        }
    }

    /// What a pipeline puts out; nothing for an assignment.
    fn pipeline(&mut self, node: Node<'t>) -> Outcome<Vec<Value>> {
        let mut parts = named(node).filter(|part| part.kind() != "comment");
        match (parts.next(), parts.next()) {
            (Some(part), None) if part.kind() == "assignment_expression" => {
                self.assignment(part)?;
                Ok(Vec::new())
            }
            (Some(part), None) if part.kind() == "pipeline_chain" => self.chain(part),
            _ => unknown(format!("the pipeline {}", self.source(node))),
        }
    }

    fn chain(&mut self, node: Node<'t>) -> Outcome<Vec<Value>> {
        let mut passed: Option<Vec<Value>> = None;
        for part in named(node) {
            let output = if part.kind() == "command" {
                self.command(part, passed.take())?
            } else if passed.is_some() {
                return unknown(format!("an expression in the middle of {}", self.source(node)));
            } else {
                match self.expression(part)? {
                    // A method without a result puts nothing out.
                    Value::Null if is_call(part) => Vec::new(),
                    value => value.each(),
                }
            };
            passed = Some(output);
        }
        Ok(passed.unwrap_or_default())
    }

    fn assignment(&mut self, node: Node<'t>) -> Outcome<()> {
        let name = variable(self.source(required(node, "left_assignment_expression")?));
        let operator = self.source(required(node, "assignement_operator")?).trim();
        // What comes from an expression stays whole; a pipeline's output is one value or a list.
        let pipeline = required(node, "pipeline")?;
        let value = match sole_expression(pipeline) {
            Some(expression) => self.expression(expression)?,
            None => Value::of_output(self.pipeline(pipeline)?),
        };
        let value = match operator {
            "=" => value,
            "+=" => match (self.variable(&name)?, value) {
                (Value::List(mut list), value) => {
                    list.extend(value.each());
                    Value::List(list)
                }
                (Value::Integer(left), Value::Integer(right)) => Value::Integer(left + right),
                _ => return unknown(self.source(node)),
            },
            other => return unknown(format!("the operator `{other}`")),
        };
        self.assign(&name, value);
        Ok(())
    }

    /// In the function that is being run, or in the script.
    fn assign(&mut self, name: &str, value: Value) {
        let (scope, name) = match name.strip_prefix("script:") {
            Some(name) => (self.scopes.first_mut(), name),
            None => (self.scopes.last_mut(), name),
        };
        if let Some(scope) = scope {
            scope.insert(name.to_owned(), value);
        }
    }

    fn variable(&self, name: &str) -> Outcome<Value> {
        match name {
            "null" => return Ok(Value::Null),
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            _ => {}
        }
        let found = match name.strip_prefix("script:") {
            Some(name) => self.scopes.first().and_then(|scope| scope.get(name)),
            None => self.scopes.iter().rev().find_map(|scope| scope.get(name)),
        };
        match found {
            Some(value) => Ok(value.clone()),
            None => unknown(format!("the variable `${name}`, which was never set")),
        }
    }

    fn command(&mut self, node: Node<'t>, passed: Option<Vec<Value>>) -> Outcome<Vec<Value>> {
        let name = self.source(required(node, "command_name")?);
        let mut arguments = Vec::new();
        if let Some(elements) = first(node, "command_elements") {
            for element in named(elements) {
                match element.kind() {
                    "command_argument_sep" => {}
                    "command_parameter" => {
                        let parameter = self.source(element).trim_start_matches('-').to_owned();
                        arguments.push(Argument::Name(parameter));
                    }
                    "generic_token" => arguments.push(Argument::Value(Value::text(self.source(element)))),
                    _ => arguments.push(Argument::Value(self.expression(element)?)),
                }
            }
        }
        if let Some(function) = self.functions.get(&name.to_ascii_lowercase()).cloned() {
            return self.call(&function, arguments);
        }
        let bound = Bound::new(name, arguments, passed)?;
        cmdlets::run(self, &bound)
    }

    fn call(&mut self, function: &Function<'t>, arguments: Vec<Argument>) -> Outcome<Vec<Value>> {
        let mut scope = HashMap::new();
        let mut values = arguments.into_iter();
        for parameter in &function.parameters {
            match values.next() {
                Some(Argument::Value(value)) => scope.insert(parameter.clone(), value),
                _ => return unknown(format!("a call without `{parameter}`")),
            };
        }
        if values.next().is_some() {
            return unknown("a call with too many arguments");
        }
        self.scopes.push(scope);
        let mut output = Vec::new();
        let outcome = match function.body {
            Some(body) => self.statements(body, &mut output),
            None => Ok(()),
        };
        self.scopes.pop();
        match outcome {
            Ok(()) | Err(Flow::Return) => Ok(output),
            Err(flow) => Err(flow),
        }
    }

    fn expression(&mut self, node: Node<'t>) -> Outcome<Value> {
        let parts: Vec<Node<'t>> = named(node).filter(|part| part.kind() != "comment").collect();
        match node.kind() {
            "variable" => self.variable(&variable(self.source(node))),
            "string_literal" => self.string(node),
            "integer_literal" => match self.source(node).parse() {
                Ok(number) => Ok(Value::Integer(number)),
                Err(_) => unknown(format!("the number {}", self.source(node))),
            },
            "parenthesized_expression" => Ok(Value::of_output(self.pipeline(required(node, "pipeline")?)?)),
            "array_expression" => {
                let mut output = Vec::new();
                if let Some(list) = first(node, "statement_list") {
                    self.statements(list, &mut output)?;
                }
                Ok(Value::List(output))
            }
            "hash_literal_expression" => self.hash(node),
            "member_access" => self.member(node, &parts),
            "element_access" => self.element(node, &parts),
            "invokation_expression" => self.invocation(node, &parts),
            "cast_expression" => match &parts[..] {
                [class, value] if self.source(*class).eq_ignore_ascii_case("[string]") => {
                    Ok(Value::Text(self.expression(*value)?.to_text()))
                }
                _ => unknown(format!("the cast {}", self.source(node))),
            },
            "expression_with_unary_operator" => match (&parts[..], node.child(0)) {
                ([value], Some(operator)) if operator.kind() == "-not" => {
                    Ok(Value::Bool(!self.expression(*value)?.truth()))
                }
                ([only], Some(_)) if node.child_count() == 1 => self.expression(*only),
                _ => unknown(format!("the operator in {}", self.source(node))),
            },
            "logical_expression" if parts.len() == 2 => self.logical(node, &parts),
            "comparison_expression" if parts.len() == 3 => self.comparison(&parts),
            "array_literal_expression" if parts.len() > 1 => {
                let values: Outcome<Vec<Value>> = parts.iter().map(|part| self.expression(*part)).collect();
                Ok(Value::List(values?))
            }
            _ => match &parts[..] {
                [only] if node.child_count() == 1 => self.expression(*only),
                _ => unknown(format!("the expression `{}`: {}", node.kind(), self.source(node))),
            },
        }
    }

    fn string(&mut self, node: Node<'t>) -> Outcome<Value> {
        let source = self.source(node);
        if let Some(verbatim) = source.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            return Ok(Value::Text(verbatim.replace("''", "'")));
        }
        let Some(literal) = first(node, "expandable_string_literal") else {
            return unknown(format!("the text {source}"));
        };
        let mut text = String::new();
        let mut at = literal.start_byte() + 1;
        for part in named(literal) {
            if part.kind() != "variable" {
                return unknown(format!("what is put into the text {source}"));
            }
            text.push_str(&self.text[at..part.start_byte()]);
            text.push_str(&self.variable(&variable(self.source(part)))?.to_text());
            at = part.end_byte();
        }
        text.push_str(&self.text[at..literal.end_byte() - 1]);
        if text.contains('`') {
            unknown(format!("an escape in the text {source}"))
        } else {
            Ok(Value::Text(text))
        }
    }

    fn hash(&mut self, node: Node<'t>) -> Outcome<Value> {
        let mut fields = Vec::new();
        if let Some(body) = first(node, "hash_literal_body") {
            for entry in named(body).filter(|entry| entry.kind() == "hash_entry") {
                let key = self.source(required(entry, "key_expression")?).to_owned();
                let pipeline = required(entry, "pipeline")?;
                let value = match sole_expression(pipeline) {
                    Some(expression) => self.expression(expression)?,
                    None => Value::of_output(self.pipeline(pipeline)?),
                };
                fields.push((key, value));
            }
        }
        let object = crate::value::Object { class: "Hashtable", fields };
        Ok(Value::Object(std::rc::Rc::new(object)))
    }

    fn member(&mut self, node: Node<'t>, parts: &[Node<'t>]) -> Outcome<Value> {
        let [of, member] = parts else { return unknown(self.source(node)) };
        let name = self.source(*member);
        if of.kind() == "type_literal" {
            return dotnet::constant(self.source(*of), name);
        }
        match self.expression(*of)? {
            Value::Object(object) => match object.field(name) {
                Some(value) => Ok(value.clone()),
                None => {
                    unknown(format!("the member `{name}` of a {} in {}", object.class, self.source(node)))
                }
            },
            Value::Clock(began) if name == "ElapsedMilliseconds" => {
                i64::try_from(began.elapsed().as_millis())
                    .map(Value::Integer)
                    .or_else(|_| unknown("a time without end"))
            }
            Value::List(list) if name == "Count" => {
                i64::try_from(list.len()).map(Value::Integer).or_else(|_| unknown("a list without end"))
            }
            Value::Bytes(bytes) if name == "Length" => {
                i64::try_from(bytes.len()).map(Value::Integer).or_else(|_| unknown("bytes without end"))
            }
            other => unknown(format!("the member `{name}` of {other:?}")),
        }
    }

    fn element(&mut self, node: Node<'t>, parts: &[Node<'t>]) -> Outcome<Value> {
        let [of, place] = parts else { return unknown(self.source(node)) };
        match (self.expression(*of)?, self.expression(*place)?) {
            (Value::List(list), Value::Integer(place)) => {
                let place = usize::try_from(place).ok();
                Ok(place.and_then(|place| list.get(place)).cloned().unwrap_or(Value::Null))
            }
            _ => unknown(format!("the place in {}", self.source(node))),
        }
    }

    fn invocation(&mut self, node: Node<'t>, parts: &[Node<'t>]) -> Outcome<Value> {
        let [of, method, list] = parts else { return unknown(self.source(node)) };
        let mut arguments = Vec::new();
        if let Some(expressions) = first(*list, "argument_expression_list") {
            for argument in named(expressions) {
                arguments.push(self.expression(argument)?);
            }
        }
        let method = self.source(*method);
        if of.kind() == "type_literal" {
            return dotnet::static_call(self, self.source(*of), method, &arguments);
        }
        let of = self.expression(*of)?;
        dotnet::call(self, &of, method, &arguments)
    }

    fn logical(&mut self, node: Node<'t>, parts: &[Node<'t>]) -> Outcome<Value> {
        let operator = (0..node.child_count())
            .filter_map(|place| node.child(place))
            .find(|child| !child.is_named())
            .map_or("", |child| child.kind());
        let left = self.expression(parts[0])?.truth();
        match operator {
            "-and" => Ok(Value::Bool(left && self.expression(parts[1])?.truth())),
            "-or" => Ok(Value::Bool(left || self.expression(parts[1])?.truth())),
            other => unknown(format!("the operator `{other}`")),
        }
    }

    fn comparison(&mut self, parts: &[Node<'t>]) -> Outcome<Value> {
        let left = self.expression(parts[0])?;
        let operator = self.source(parts[1]).trim().to_ascii_lowercase();
        let right = self.expression(parts[2])?;
        let sensitive = operator.starts_with("-c");
        let same = || -> Outcome<bool> {
            match (&left, &right) {
                (Value::Null, Value::Null) => Ok(true),
                (Value::Null, _) | (_, Value::Null) => Ok(false),
                (Value::List(_), _) => unknown("a comparison of a list, which PowerShell filters"),
                (Value::Text(left), right) if sensitive => Ok(*left == right.to_text()),
                (Value::Text(left), right) => Ok(left.to_lowercase() == right.to_text().to_lowercase()),
                (Value::Integer(left), right) => Ok(Some(*left) == right.integer()),
                (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
                (left, right) => unknown(format!("a comparison of {left:?} and {right:?}")),
            }
        };
        match operator.as_str() {
            "-eq" | "-ceq" => same().map(Value::Bool),
            "-ne" | "-cne" => same().map(|same| Value::Bool(!same)),
            "-lt" | "-ge" => match (left.integer(), right.integer()) {
                (Some(left), Some(right)) => Ok(Value::Bool((left < right) == (operator == "-lt"))),
                _ => unknown("an order of what is no number"),
            },
            "-join" => {
                let texts: Vec<String> = left.each().iter().map(Value::to_text).collect();
                Ok(Value::Text(texts.join(&right.to_text())))
            }
            other => unknown(format!("the operator `{other}`")),
        }
    }
}

/// Something behind a command's name.
#[derive(Debug)]
pub(crate) enum Argument {
    Name(String),
    Value(Value),
}

/// The expression that a pipeline consists of, if it is one alone.
fn sole_expression(pipeline: Node<'_>) -> Option<Node<'_>> {
    let mut parts = named(pipeline).filter(|part| part.kind() != "comment");
    let chain = parts.next().filter(|chain| chain.kind() == "pipeline_chain")?;
    let mut parts = named(chain);
    let only = parts.next().filter(|only| only.kind() != "command")?;
    parts.next().is_none().then_some(only)
}

/// Whether an expression is the call of a method and nothing else.
fn is_call(mut node: Node<'_>) -> bool {
    while node.kind() != "invokation_expression" {
        let mut parts = named(node);
        match (parts.next(), parts.next()) {
            (Some(only), None) => node = only,
            _ => return false,
        }
    }
    true
}

/// A variable's name: without `$`, and in one case.
fn variable(source: &str) -> String {
    source.trim().trim_start_matches('$').to_lowercase()
}

pub(crate) fn named(node: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    (0..node.child_count()).filter_map(move |place| node.child(place)).filter(Node::is_named)
}

fn first<'t>(node: Node<'t>, kind: &str) -> Option<Node<'t>> {
    named(node).find(|child| child.kind() == kind)
}

fn required<'t>(node: Node<'t>, kind: &str) -> Outcome<Node<'t>> {
    first(node, kind).ok_or_else(|| Flow::Unknown(format!("`{}` without `{kind}`", node.kind())))
}
