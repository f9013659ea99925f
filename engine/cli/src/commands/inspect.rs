//! `inspect`, for every kind of object, and `port`, `top` and `diff` of a container.

use clap::Args;
use gotemplate::{Answer, Methods, MissingField, Parser, Template};
use serde_json::Value;

use crate::client::{Client, Target};
use crate::failure::{Failure, Outcome, chain};
use crate::output;
use crate::table::align;

/// Return low-level information on Docker objects
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Format: `json` or a Go template
    #[arg(long, short, value_name = "string", default_value = "")]
    format: String,
    /// Show the sizes of a container's files
    #[arg(long, short)]
    size: bool,
    /// Look only at objects of this kind
    #[arg(long = "type", value_name = "string", default_value = "")]
    kind: String,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// The same for one kind of object
#[derive(Args, Debug)]
pub(crate) struct OfKind {
    /// Format: `json` or a Go template
    #[arg(long, short, value_name = "string", default_value = "")]
    format: String,
    /// Show the sizes of a container's files
    #[arg(long, short)]
    size: bool,
    /// Show more of a network
    #[arg(long, short)]
    verbose: bool,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// The kinds in the order in which they are looked for, with the collection of each.
const KINDS: [(&str, &str); 4] =
    [("container", "containers"), ("image", "images"), ("network", "networks"), ("volume", "volumes")];

/// Fields whose case differs between the API and the stock client's Go structures: `.ID` and `.Id`.
pub(crate) struct AnyCase;

impl Methods for AnyCase {
    fn call(&self, name: &str, receiver: &Value, arguments: &[Value]) -> Option<Answer> {
        if !arguments.is_empty() {
            return None;
        }
        let mut entries = receiver.as_object()?.iter();
        entries.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| Ok(value.clone()))
    }
}

/// A template over one object of the API, or nothing when JSON is wanted.
pub(crate) fn template(format: &str) -> Outcome<Option<Template>> {
    if format.is_empty() || format == "json" {
        return Ok(None);
    }
    // Lists that are empty are null in the API; Go prints them as empty, and takes their length.
    let parser = Parser::docker().missing(MissingField::Refuse).null_text("[]").empty_index(true);
    let parser = parser.function("len", |arguments| match arguments {
        [Value::Null] => Ok(Value::from(0)),
        [Value::String(text)] => Ok(Value::from(text.len())),
        [Value::Array(list)] => Ok(Value::from(list.len())),
        [Value::Object(map)] => Ok(Value::from(map.len())),
        [other] => Err(format!("len of {other}")),
        _ => Err(format!("wrong number of args for len: want 1 got {}", arguments.len())),
    });
    parser.parse(format).map(Some).map_err(Failure::Template)
}

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    let kinds: Vec<(&str, &str)> = match options.kind.as_str() {
        "" => KINDS.to_vec(),
        kind => KINDS.into_iter().filter(|(name, _)| *name == kind).collect(),
    };
    if kinds.is_empty() {
        let known: Vec<String> = KINDS.iter().map(|(name, _)| format!("{name:?}")).collect();
        return Err(Failure::refused(format!(
            "unknown type: {:?}: must be one of {}",
            options.kind,
            known.join(", ")
        )));
    }
    inspect(client, &options.names, &kinds, &options.format, options.size).await
}

/// `container inspect` and its like.
pub(crate) async fn of_kind(client: &Client, options: OfKind, kind: &str) -> Outcome {
    let kinds: Vec<(&str, &str)> = KINDS.into_iter().filter(|(name, _)| *name == kind).collect();
    inspect(client, &options.names, &kinds, &options.format, options.size).await
}

async fn find(client: &Client, name: &str, kinds: &[(&str, &str)], size: bool) -> Outcome<Value> {
    for (kind, collection) in kinds {
        let target = match *kind {
            "container" => Target::new([collection, name, "json"]).with_flag("size", size),
            "image" => Target::new([collection, name, "json"]),
            _ => Target::new([collection, name]),
        };
        match client.get(&target).await {
            // A daemon without a kind of objects has none of that name.
            Err(error) if kinds.len() > 1 && (error.is_not_found() || error.is_not_supported()) => {}
            outcome => return outcome,
        }
    }
    Err(Failure::refused(format!("Error: No such object: {name}")))
}

async fn inspect(
    client: &Client,
    names: &[String],
    kinds: &[(&str, &str)],
    format: &str,
    size: bool,
) -> Outcome {
    let template = template(format)?;
    let mut found = Vec::new();
    let mut failed = false;
    for name in names {
        if name.is_empty() {
            output::say("invalid container name or ID: value is empty");
            failed = true;
            continue;
        }
        match find(client, name, kinds, size).await {
            Ok(value) => found.push(value),
            Err(error @ Failure::Unreachable { .. }) => return Err(error),
            Err(error) => {
                output::say(chain(&error));
                failed = true;
            }
        }
    }
    match template {
        Some(template) => {
            for value in &found {
                let text = template
                    .render_with(value, &AnyCase)
                    .map_err(|error| Failure::refused(format!("template parsing error: {error}")))?;
                output::line(text)?;
            }
        }
        None if format == "json" => output::line(gotemplate::json(&Value::Array(found), false))?,
        None => output::line(gotemplate::pretty_json(&Value::Array(found), false, "    "))?,
    }
    if failed { Err(Failure::Exit(1)) } else { Ok(()) }
}

/// List port mappings or a specific mapping for the container
#[derive(Args, Debug)]
pub(crate) struct Port {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

pub(crate) async fn port(client: &Client, options: Port) -> Outcome {
    let container = client.get(&Target::new(["containers", &options.container, "json"])).await?;
    let bindings = |value: &Value| -> Vec<String> {
        let text = |binding: &Value, field: &str| binding[field].as_str().unwrap_or_default().to_owned();
        let all = value.as_array().into_iter().flatten();
        all.map(|binding| {
            let (ip, port) = (text(binding, "HostIp"), text(binding, "HostPort"));
            if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
        })
        .collect()
    };
    let ports = &container["NetworkSettings"]["Ports"];
    if let Some(asked) = &options.port {
        let (port, protocol) = asked.split_once('/').unwrap_or((asked, "tcp"));
        if port.parse::<u16>().is_err() {
            return Err(Failure::refused(format!(
                "Error: invalid port ({asked}): invalid port '{port}': invalid syntax"
            )));
        }
        let mut found = bindings(&ports[format!("{port}/{protocol}")]);
        if found.is_empty() {
            return Err(Failure::refused(format!(
                "Error: No public port '{asked}' published for {}",
                options.container
            )));
        }
        found.sort();
        return output::line(found.join("\n"));
    }
    let mut all: Vec<(u16, String)> = Vec::new();
    for (port, value) in ports.as_object().into_iter().flatten() {
        let number = port.split('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        all.extend(bindings(value).into_iter().map(|binding| (number, format!("{port} -> {binding}"))));
    }
    all.sort();
    for (_, text) in all {
        output::line(text)?;
    }
    Ok(())
}

/// Display the running processes of a container
#[derive(Args, Debug)]
pub(crate) struct Top {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "ps OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) async fn top(client: &Client, options: Top) -> Outcome {
    let mut target = Target::new(["containers", &options.container, "top"]);
    if !options.arguments.is_empty() {
        target = target.with("ps_args", &options.arguments.join(" "));
    }
    let answer = client.get(&target).await?;
    let line = |row: &Value| -> String {
        row.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("\t")
    };
    let mut text = line(&answer["Titles"]);
    for process in answer["Processes"].as_array().into_iter().flatten() {
        text.push('\n');
        text.push_str(&line(process));
    }
    output::line(align(&text, 20, 1))
}

/// Inspect changes to files or directories on a container's filesystem
#[derive(Args, Debug)]
pub(crate) struct Diff {
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn diff(client: &Client, options: Diff) -> Outcome {
    let answer = client.get(&Target::new(["containers", &options.container, "changes"])).await?;
    for change in answer.as_array().into_iter().flatten() {
        let kind = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            Some(2) => 'D',
            _ => '?',
        };
        output::line(format!("{kind} {}", change["Path"].as_str().unwrap_or_default()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn rendered(format: &str) -> String {
        let data = json!({
            "Id": "c1", "HostConfig": {"NanoCpus": 1_500_000_000, "Binds": null},
            "Config": {"Labels": {"a": "1"}, "Cmd": null},
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}},
        });
        match template(format).map(|template| template.unwrap().render_with(&data, &AnyCase)) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn templates_that_scripts_use() {
        for (format, text) in [
            ("{{.ID}} {{.Id}}", "c1 c1"),
            ("{{.HostConfig.NanoCpus}} {{.HostConfig.NanoCPUs}}", "1500000000 1500000000"),
            ("{{.HostConfig.Binds}}{{len .HostConfig.Binds}}", "[]0"),
            ("{{index .Config.Labels \"a\"}}{{index .Config.Labels \"b\"}}", "1"),
            ("{{json .Config.Cmd}} {{json .Config.Labels}}", "null {\"a\":\"1\"}"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
            (
                "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}={{(index $b 0).HostPort}}{{end}}",
                "80/tcp=8080",
            ),
            (
                "{{.State.Foo}}",
                "template: :1:2: executing \"\" at <.State.Foo>: map has no entry for key \"State\"",
            ),
        ] {
            let expected = text.replace(":1:2:", ":1:8:");
            assert_eq!(rendered(format), expected, "{format}");
        }
        assert!(rendered("{{.Id").starts_with("template parsing error: template: :1: unclosed action"));
    }
}
