//! What each line of a log says of its container: the attributes that the options `labels`, `env` and `tag` of the log ask for.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Value, json};

use crate::ContainerError;
use crate::record::Identity;

/// Refuses options that make no sense, or that this engine does not follow.
pub(crate) fn check(options: &BTreeMap<String, String>) -> Result<(), ContainerError> {
    let invalid = |message: String| Err(ContainerError::Invalid(message));
    let unsupported =
        |option: &str| Err(ContainerError::Unsupported(format!("`HostConfig.LogConfig.Config`: `{option}`")));
    for (name, value) in options {
        match (name.as_str(), value.as_str()) {
            ("mode", "" | "blocking") | ("compress", "" | "0" | "f" | "F" | "false" | "FALSE" | "False") => {}
            ("mode", "non-blocking") => return unsupported("mode=non-blocking"),
            ("mode", mode) => {
                return invalid(format!("logger: logging mode is not supported: `mode={mode}`"));
            }
            ("compress", "1" | "t" | "T" | "true" | "TRUE" | "True") => return unsupported("compress=true"),
            ("compress", value) => return invalid(format!("invalid value for 'compress': {value}")),
            ("max-buffer-size", _) => {
                return invalid(
                    "logger: `max-buffer-size` is only supported with `mode=non-blocking`".to_owned(),
                );
            }
            ("labels-regex" | "env-regex", pattern) => {
                if let Err(error) = Regex::new(pattern) {
                    return invalid(format!("invalid value for '{name}': {error}"));
                }
            }
            ("tag", template) => {
                if let Err(error) = gotemplate::parse(template) {
                    return invalid(format!("invalid value for 'tag': {error}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The attributes of a container's lines, by its options.
pub(crate) fn of(identity: &Identity) -> BTreeMap<String, String> {
    let option =
        |name: &str| identity.log_options.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let mut attributes = BTreeMap::new();
    let environment: BTreeMap<String, String> =
        identity.config.env.iter().filter_map(|entry| entry.split_once('=')).map(owned).collect();
    for (known, names, pattern) in
        [(&identity.config.labels, "labels", "labels-regex"), (&environment, "env", "env-regex")]
    {
        for name in option(names).into_iter().flat_map(|names| names.split(',')) {
            attributes.extend(known.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        if let Some(pattern) = option(pattern).and_then(|pattern| Regex::new(pattern).ok()) {
            attributes.extend(
                known.iter().filter(|(name, _)| pattern.is_match(name)).map(|(n, v)| (n.clone(), v.clone())),
            );
        }
    }
    if let Some(template) = option("tag") {
        match tag(template, &information(identity)) {
            Ok(tag) => drop(attributes.insert("tag".to_owned(), tag)),
            Err(error) => {
                tracing::warn!(container = identity.id, error, "The tag of the log cannot be written");
            }
        }
    }
    attributes
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// What a tag can tell of a container, in dockerd's names.
fn information(identity: &Identity) -> Value {
    let short = |id: &str| id.chars().take(12).collect::<String>();
    let image = identity.image_id.as_str();
    json!({
        "ID": short(&identity.id),
        "FullID": identity.id,
        "Name": identity.name,
        "ImageID": short(image.strip_prefix("sha256:").unwrap_or(image)),
        "ImageFullID": image,
        "ImageName": identity.config.image,
        "Command": identity.command.join(" "),
        "DaemonName": "docker",
        "ContainerID": identity.id,
        "ContainerName": format!("/{}", identity.name),
        "ContainerImageID": image,
        "ContainerImageName": identity.config.image,
        "ContainerLabels": identity.config.labels,
        "ContainerEnv": identity.config.env,
        "ContainerEntrypoint": identity.command.first(),
        "ContainerArgs": identity.command.get(1..),
    })
}

fn tag(template: &str, information: &Value) -> Result<String, String> {
    let rendered = gotemplate::parse(template).and_then(|template| template.render(information));
    rendered.map_err(|error| error.to_string())
}
