//! What differs between two answers, and what is listed of that.

use std::fmt;

use serde_json::{Value, json};

use super::answer::Normal;

/// How two answers differ in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Status,
    /// dockerd has it.
    Missing,
    /// Only ours has it.
    Added,
    Type,
    Value,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Status, Self::Missing, Self::Added, Self::Type, Self::Value];

    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Missing => "missing",
            Self::Added => "added",
            Self::Type => "type",
            Self::Value => "value",
        }
    }
}

/// One difference.
#[derive(Debug)]
pub(super) struct Difference {
    kind: Kind,
    call: String,
    /// As a JSON pointer; a header is `header:name`.
    field: String,
    theirs: Value,
    ours: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |value: &Value| {
            let text = value.to_string();
            if text.chars().count() > 300 { text.chars().take(300).collect::<String>() + "…" } else { text }
        };
        let Self { kind, call, field, theirs, ours } = self;
        write!(
            formatter,
            "{:<8} {call:<28} {field}  dockerd: {}  ours: {}",
            kind.word(),
            short(theirs),
            short(ours)
        )
    }
}

pub(super) fn answers(call: &str, theirs: &Normal, ours: &Normal, found: &mut Vec<Difference>) {
    let mut add = |kind, field: &str, theirs: &Value, ours: &Value| {
        let field = if field.is_empty() { "/" } else { field };
        let (call, field) = (call.to_owned(), field.replace(' ', "_"));
        found.push(Difference { kind, call, field, theirs: theirs.clone(), ours: ours.clone() });
    };
    if theirs.status != ours.status {
        let with_body = |answer: &Normal| json!({ "status": answer.status, "body": answer.body });
        // What else differs follows from that.
        return add(Kind::Status, "/", &with_body(theirs), &with_body(ours));
    }
    let headers = |answer: &Normal| json!(answer.headers);
    fields("header:", "", &headers(theirs), &headers(ours), &mut add);
    fields("", "/", &theirs.body, &ours.body, &mut add);
}

fn fields(
    path: &str,
    separator: &str,
    theirs: &Value,
    ours: &Value,
    add: &mut impl FnMut(Kind, &str, &Value, &Value),
) {
    let below = |key: &str| format!("{path}{separator}{key}");
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, value) in theirs {
                match ours.get(key) {
                    Some(own) => fields(&below(key), "/", value, own, add),
                    None => add(Kind::Missing, &below(key), value, &Value::Null),
                }
            }
            for (key, value) in ours.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
                add(Kind::Added, &below(key), &Value::Null, value);
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            for (place, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                fields(&below(&place.to_string()), "/", theirs, ours, add);
            }
            for (place, value) in theirs.iter().enumerate().skip(ours.len()) {
                add(Kind::Missing, &below(&place.to_string()), value, &Value::Null);
            }
            for (place, value) in ours.iter().enumerate().skip(theirs.len()) {
                add(Kind::Added, &below(&place.to_string()), &Value::Null, value);
            }
        }
        _ if theirs == ours => {}
        _ if std::mem::discriminant(theirs) == std::mem::discriminant(ours) => {
            add(Kind::Value, path, theirs, ours);
        }
        _ => add(Kind::Type, path, theirs, ours),
    }
}

/// A line of `listed.txt`: the kind, or any, which calls, which fields, the reason. `*` stands for anything.
struct Line {
    text: String,
    kind: Option<Kind>,
    calls: String,
    fields: String,
}

/// Differences that are meant to be.
pub(super) struct Listed(Vec<Line>);

impl Listed {
    pub(super) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(line).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that no line is of, and the lines that are of none.
    pub(super) fn judge<'a>(&self, found: &'a [Difference]) -> (Vec<&'a Difference>, Vec<&str>) {
        let is_of = |line: &Line, one: &Difference| {
            line.kind.is_none_or(|kind| kind == one.kind)
                && matches(&line.calls, &one.call)
                && matches(&line.fields, &one.field)
        };
        let unlisted = found.iter().filter(|one| !self.0.iter().any(|line| is_of(line, one))).collect();
        let stale = self.0.iter().filter(|line| !found.iter().any(|one| is_of(line, one)));
        (unlisted, stale.map(|line| line.text.as_str()).collect())
    }
}

fn line(text: &str) -> Line {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, calls, fields, _, ..] = words[..] else {
        panic!("A line of `listed.txt` has a kind, calls, fields and a reason: {text}");
    };
    let known = Kind::ALL.into_iter().find(|one| one.word() == kind);
    assert!(known.is_some() || kind == "any", "`listed.txt` knows no kind `{kind}`: {text}");
    Line { text: text.to_owned(), kind: known, calls: calls.to_owned(), fields: fields.to_owned() }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let mut places = rest.char_indices().map(|(place, _)| place).chain([rest.len()]);
            places.any(|place| matches(after, &rest[place..]))
        }),
    }
}

#[test]
fn every_kind_of_difference_is_found_and_listed() {
    let normal = |status, body| Normal { status, headers: [].into(), body };
    let theirs = normal(200, json!({"a": 1, "b": [1, 2], "c": null, "d": {"e": "x"}}));
    let ours = normal(200, json!({"a": 2, "b": [1], "c": [], "d": {"e": "x"}, "f": 1}));
    let mut found = Vec::new();
    answers("call", &theirs, &ours, &mut found);
    answers("other", &theirs, &normal(404, json!(null)), &mut found);
    let text: Vec<String> =
        found.iter().map(|one| format!("{} {} {}", one.kind.word(), one.call, one.field)).collect();
    assert_eq!(
        text,
        ["value call /a", "missing call /b/1", "type call /c", "added call /f", "status other /"]
    );
    let listed =
        Listed::read("# why\nvalue c*l /a a reason\nmissing * /b/* a reason\nvalue call /d/e is gone\n");
    let (unlisted, stale) = listed.judge(&found);
    assert_eq!(unlisted.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["/c", "/f", "/"]);
    assert_eq!(stale, ["value call /d/e is gone"]);
}
