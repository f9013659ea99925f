//! `--format`: rows as a table, as JSON, or through a Go template.

use std::collections::BTreeMap;

use gotemplate::{Answer, Methods, MissingField, Parser, Template};
use serde_json::{Map, Value};

use super::failure::{Failure, Outcome};
use super::output;
use super::table::align;

/// What kind of rows a command prints.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The name that Go's messages give to a row.
    pub(crate) type_name: &'static str,
    /// The headers of the fields that have one other than their name in capitals.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The template of the table when none is asked for.
    pub(crate) table: &'static str,
}

/// One line: its fields, and the labels that the method `Label` looks into.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) fields: Map<String, Value>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Row {
    /// A row with these fields, in the alphabetical order in which JSON shows them.
    pub(crate) fn new<const N: usize>(fields: [(&str, Value); N]) -> Self {
        let sorted: BTreeMap<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { fields: sorted.into_iter().collect(), labels: BTreeMap::new() }
    }

    pub(crate) fn with_labels(mut self, labels: &Value) -> Self {
        self.labels = label_map(labels);
        self
    }
}

/// The labels of an API object, sorted.
pub(crate) fn label_map(labels: &Value) -> BTreeMap<String, String> {
    let entries = labels.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// `a=1,b=2`.
pub(crate) fn label_text(labels: &Value) -> String {
    label_map(labels).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

struct Labels<'a>(&'a BTreeMap<String, String>);

impl Methods for Labels<'_> {
    fn call(&self, name: &str, _receiver: &Value, arguments: &[Value]) -> Option<Answer> {
        match (name, arguments) {
            ("Label", [Value::String(key)]) => Some(Ok(self.0.get(key).cloned().unwrap_or_default().into())),
            ("Label", _) => Some(Err("wrong number of args for Label: want 1".to_owned())),
            _ => None,
        }
    }
}

/// The headers of a table stand in for the fields of a row.
struct Headers;

impl Methods for Headers {
    fn call(&self, name: &str, _receiver: &Value, arguments: &[Value]) -> Option<Answer> {
        let key = arguments.first().and_then(Value::as_str).filter(|_| name == "Label")?;
        let last = key.rsplit('.').next().unwrap_or(key);
        Some(Ok(Value::String(last.replace(['-', '_'], " "))))
    }
}

/// `json` of a whole row has Go's HTML escapes, of a field it has not.
fn row_json(arguments: &[Value]) -> Answer {
    match arguments {
        [value] => Ok(Value::String(gotemplate::json(value, value.is_object()))),
        _ => Err(format!("wrong number of args for json: want 1 got {}", arguments.len())),
    }
}

fn header_template(kind: &Kind, text: &str) -> Outcome<Template> {
    let first = |arguments: &[Value]| Ok(arguments.first().cloned().unwrap_or_default());
    let mut parser = Parser::docker().missing(MissingField::OfType(kind.type_name));
    for name in ["json", "title", "lower", "upper", "truncate", "pad", "split", "join"] {
        parser = parser.function(name, first);
    }
    parser.parse(text).map_err(|error| Failure::refused(format!("template parsing error: {error}")))
}

fn row_template(kind: &Kind, text: &str) -> Outcome<Template> {
    Parser::docker()
        .missing(MissingField::OfType(kind.type_name))
        .function("json", row_json)
        .parse(text)
        .map_err(|error| Failure::refused(format!("template parsing error: {error}")))
}

fn execution(error: &gotemplate::TemplateError) -> Failure {
    Failure::refused(format!("failed to execute template: {error}"))
}

/// The text of all rows in the format that was asked for; none is the table.
pub(crate) fn render(kind: &Kind, format: Option<&str>, rows: &[Row]) -> Outcome<String> {
    let format = format.unwrap_or("table").trim();
    let unescaped = format.replace("\\t", "\t").replace("\\n", "\n");
    let (is_table, text) = match unescaped.strip_prefix("table") {
        Some("") => (true, kind.table.to_owned()),
        Some(rest) => (true, rest.trim().to_owned()),
        None if unescaped == "json" => (false, "{{json .}}".to_owned()),
        None => (false, unescaped),
    };
    let template = row_template(kind, &text)?;
    let mut out = String::new();
    if is_table {
        let mut headers: Map<String, Value> =
            kind.headers.iter().map(|(field, header)| ((*field).to_owned(), Value::from(*header))).collect();
        for field in rows.iter().flat_map(|row| row.fields.keys()) {
            if !headers.contains_key(field) {
                headers.insert(field.clone(), Value::from(field.to_uppercase()));
            }
        }
        let header = header_template(kind, &text)?;
        out.push_str(
            &header.render_with(&Value::Object(headers), &Headers).map_err(|error| execution(&error))?,
        );
        out.push('\n');
    }
    for row in rows {
        let data = Value::Object(row.fields.clone());
        out.push_str(&template.render_with(&data, &Labels(&row.labels)).map_err(|error| execution(&error))?);
        out.push('\n');
    }
    Ok(if is_table { align(&out, 10, 3) } else { out })
}

/// Prints all rows.
pub(crate) fn print(kind: &Kind, format: Option<&str>, rows: &[Row]) -> Outcome {
    output::raw(render(kind, format, rows)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    const KIND: Kind = Kind {
        type_name: "*formatter.Thing",
        headers: &[("ID", "THING ID"), ("Name", "NAME")],
        table: "{{.ID}}\t{{.Name}}",
    };

    fn rows() -> Vec<Row> {
        vec![
            Row::new([("Name", "web <1>".into()), ("ID", "1".into())])
                .with_labels(&json!({"com.x.my-key": "v"})),
            Row::new([("Name", "db".into()), ("ID", "22".into())]),
        ]
    }

    fn text(format: Option<&str>) -> String {
        render(&KIND, format, &rows()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn all_formats() {
        assert_eq!(text(None), "THING ID   NAME\n1          web <1>\n22         db\n");
        assert_eq!(text(Some("{{.Name}}")), "web <1>\ndb\n");
        assert_eq!(
            text(Some("json")),
            "{\"ID\":\"1\",\"Name\":\"web \\u003c1\\u003e\"}\n{\"ID\":\"22\",\"Name\":\"db\"}\n"
        );
        assert_eq!(text(Some("{{json .Name}}")), "\"web <1>\"\n\"db\"\n");
        assert_eq!(
            text(Some(r#"table {{upper .Name}}\t{{.Label "com.x.my-key"}}"#)),
            "NAME      my key\nWEB <1>   v\nDB        \n"
        );
        assert_eq!(
            text(Some("{{.Nope}}")),
            "failed to execute template: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *formatter.Thing"
        );
        assert_eq!(text(Some("{{.Name")), "template parsing error: template: :1: unclosed action");
    }
}
