//! Templates of files and scripts, and the filters through which every value has to go.

use std::io;
use std::sync::LazyLock;

use serde::Serialize;
use tera::{Context, Kwargs, State, Tera, TeraResult, Value};

macro_rules! templates {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../templates/", $name)))),*]
    };
}

/// A template did not render: a mistake of ours, or a value that its place cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("Could not render `{template}`")]
pub struct RenderError {
    template: &'static str,
    source: tera::Error,
}

static TEMPLATES: LazyLock<Tera> = LazyLock::new(|| {
    let mut tera = Tera::new();
    tera.register_filter("sh", |value: &str, _: Kwargs, _: &State| safe(&shell_quoted(value)));
    tera.register_filter("json", json);
    tera.register_filter("plain", plain);
    tera.register_filter("double_quoted", |value: &str, _: Kwargs, _: &State| safe(&double_quoted(value)));
    tera.register_filter("systemd", |value: &str, _: Kwargs, _: &State| safe(&systemd_quoted(value)));
    // A value that goes through no filter is an injection waiting for its day.
    tera.autoescape_on([""]);
    tera.set_escape_fn(|value, _| {
        Err(io::Error::other(format!("the value `{value}` is printed without a filter")))
    });
    tera.add_raw_templates(templates![
        "docker/daemon.json",
        "engine/daemon.json",
        "engine/environment",
        "machineos/run",
        "openrc/docker",
        "openrc/engine",
        "shell/apply.sh",
        "shell/host-key.sh",
        "shell/launch-apply.sh",
        "shell/launch-probe.sh",
        "shell/probe.sh",
        "shell/steps.sh",
        "systemd/10-machine.conf",
        "systemd/engine-containers.service",
        "systemd/engine.service",
    ])
    .expect("the templates were rendered by the tests");
    tera
});

/// The text of a template with the fields of `values`.
pub(super) fn render(template: &'static str, values: &impl Serialize) -> Result<String, RenderError> {
    Context::from_serialize(values)
        .and_then(|context| TEMPLATES.render(template, &context))
        .map_err(|source| RenderError { template, source })
}

fn safe(text: &str) -> Value {
    Value::safe_string(text)
}

fn json(value: &Value, _: Kwargs, _: &State) -> TeraResult<Value> {
    match serde_json::to_string(value) {
        Ok(text) => Ok(safe(&text)),
        Err(error) => Err(tera::Error::message(error)),
    }
}

/// As it is, if nothing in it can mean anything to a shell, to systemd or to a regular expression.
fn plain(value: &Value, _: Kwargs, _: &State) -> TeraResult<Value> {
    let text = value.to_string();
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./@:+=, ".contains(&byte);
    if text.bytes().all(harmless) {
        Ok(safe(&text))
    } else {
        Err(tera::Error::message(format!("the value `{text}` is not plain")))
    }
}

/// One word for a POSIX shell, whatever is in it.
pub(super) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A value that means itself both to a POSIX shell and in a systemd `EnvironmentFile=`: both know the same four escapes
/// between double quotes, and systemd expands nothing there.
pub(super) fn double_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '`' | '$') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

/// One word of an `Environment=` line in a systemd unit: C escapes between double quotes, and `%` would begin a specifier.
pub(super) fn systemd_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '%' => quoted.push_str("%%"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use serde_json::json;

    use super::*;

    pub(crate) const NASTY: &str =
        "a b  c\t'single' \"double\" $HOME ${PATH} `id` $(id) \\ \\n % %h * ? ; & | < > # ! ~ é 漢";

    #[test]
    fn quoted_values_reach_a_shell_as_they_are() {
        for text in [NASTY, "", "'", "\"", "\\", "two\nlines", "-n"] {
            for quoted in [shell_quoted(text), double_quoted(text)] {
                let script = format!("value={quoted}; printf '%s' \"$value\"");
                let output = Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
                assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
            }
        }
    }

    #[test]
    fn a_value_without_a_filter_does_not_render() {
        let mut tera = TEMPLATES.clone();
        tera.add_raw_template("bare", "{{ value }}").unwrap();
        let context = Context::from_serialize(&json!({"value": "x"})).unwrap();
        assert!(tera.render("bare", &context).is_err());
    }

    #[test]
    fn plain_values_are_plain() {
        let mut tera = TEMPLATES.clone();
        tera.add_raw_template("one", "{{ value | plain }}").unwrap();
        let render = |value: serde_json::Value| {
            tera.render("one", &Context::from_serialize(&json!({"value": value})).unwrap())
        };
        assert_eq!(render(json!(2376)).unwrap(), "2376");
        assert_eq!(render(json!("/usr/bin/dockerd")).unwrap(), "/usr/bin/dockerd");
        for value in ["a;b", "$(x)", "a'b", "a\"b", "a\nb", "a|b", "a%b", "a*b"] {
            assert!(render(json!(value)).is_err(), "{value}");
        }
    }

    #[test]
    fn systemd_words() {
        assert_eq!(systemd_quoted("A=it's \"50%\" of\n$HOME\\"), r#""A=it's \"50%%\" of\n$HOME\\""#);
    }
}
