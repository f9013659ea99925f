//! Values of PowerShell, as far as the driver's scripts have any.

use std::{fs::File, rc::Rc, time::Instant};

use serde_json::{Map, Number, Value as Json};

/// Something that a variable can hold.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Value>),
    Bytes(Rc<Vec<u8>>),
    Object(Rc<Object>),
    /// A lock file that is held while the process lives.
    Mutex(Rc<File>),
    Clock(Instant),
}

/// Named fields, of a hash table, of parsed JSON or of a class.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    /// The class, where methods or cmdlets ask for it.
    pub(crate) class: &'static str,
    pub(crate) fields: Vec<(String, Value)>,
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn object(class: &'static str, fields: Vec<(&str, Value)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self::Object(Rc::new(Object { class, fields }))
    }

    /// A list of texts.
    pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    pub(crate) fn truth(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(truth) => *truth,
            Self::Integer(number) => *number != 0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => match &list[..] {
                [] => false,
                [one] => one.truth(),
                _ => true,
            },
            Self::Bytes(_) | Self::Object(_) | Self::Mutex(_) | Self::Clock(_) => true,
        }
    }

    /// As `[string]` makes it.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Integer(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(list) => list.iter().map(Self::to_text).collect::<Vec<_>>().join(" "),
            Self::Bytes(_) => "System.Byte[]".into(),
            Self::Object(object) => object.class.into(),
            Self::Mutex(_) => "System.Threading.Mutex".into(),
            Self::Clock(_) => "System.Diagnostics.Stopwatch".into(),
        }
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// What a pipeline passes on: the elements of a list, or the value itself.
    pub(crate) fn each(self) -> Vec<Self> {
        match self {
            Self::List(list) => list,
            other => vec![other],
        }
    }

    /// What a pipeline's output is as a value.
    pub(crate) fn of_output(mut output: Vec<Self>) -> Self {
        match output.len() {
            0 => Self::Null,
            1 => output.remove(0),
            _ => Self::List(output),
        }
    }

    pub(crate) fn from_json(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(truth),
            Json::Number(number) => number.as_i64().map_or(Self::Null, Self::Integer),
            Json::String(text) => Self::Text(text),
            Json::Array(list) => Self::List(list.into_iter().map(Self::from_json).collect()),
            Json::Object(fields) => Self::Object(Rc::new(Object {
                class: "PSCustomObject",
                fields: fields.into_iter().map(|(name, value)| (name, Self::from_json(value))).collect(),
            })),
        }
    }

    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(truth) => Json::Bool(*truth),
            Self::Integer(number) => Json::Number(Number::from(*number)),
            Self::List(list) => Json::Array(list.iter().map(Self::to_json).collect()),
            Self::Object(object) => {
                let fields = object.fields.iter().map(|(name, value)| (name.clone(), value.to_json()));
                Json::Object(fields.collect::<Map<_, _>>())
            }
            other => Json::String(other.to_text()),
        }
    }
}

impl Object {
    /// Names are the same in every case.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// An error record.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// `FullyQualifiedErrorId`.
    pub(crate) id: String,
    pub(crate) category: String,
    /// The exception's class, without the namespace.
    pub(crate) class: &'static str,
    pub(crate) code: i64,
    pub(crate) text: String,
}

impl Failure {
    /// What `catch` finds in `$_`.
    pub(crate) fn record(&self) -> Value {
        let exception = Value::object(
            "Exception",
            vec![
                ("Message", Value::text(&self.text)),
                ("HResult", Value::Integer(self.code)),
                ("InnerException", Value::Null),
            ],
        );
        let category = Value::object("CategoryInfo", vec![("Category", Value::text(&self.category))]);
        Value::object(
            "ErrorRecord",
            vec![
                ("FullyQualifiedErrorId", Value::text(&self.id)),
                ("CategoryInfo", category),
                ("Exception", exception),
                ("class", Value::text(self.class)),
            ],
        )
    }

    /// `throw` of a record that was caught.
    pub(crate) fn of_record(record: &Value) -> Option<Self> {
        let Value::Object(record) = record else { return None };
        let Some(Value::Object(exception)) = record.field("Exception") else { return None };
        let Some(Value::Object(category)) = record.field("CategoryInfo") else { return None };
        Some(Self {
            id: record.field("FullyQualifiedErrorId")?.to_text(),
            category: category.field("Category")?.to_text(),
            class: "Exception",
            code: exception.field("HResult")?.integer()?,
            text: exception.field("Message")?.to_text(),
        })
    }
}
