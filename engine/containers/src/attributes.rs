//! What a log says of its container: what the options `labels`, `env` and `tag` of the log ask for, and what drivers tell anyway.

use std::collections::BTreeMap;

use engine_logging::ContainerInfo;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::ContainerError;
use crate::record::Identity;

/// What they are called in a log driver's options.
const TAG: &str = "tag";
/// What is called so unless one says otherwise: the container's short id.
const USUAL_TAG: &str = "{{.ID}}";

fn option<'a>(identity: &'a Identity, name: &str) -> Option<&'a str> {
    identity.log_options.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// Labels and variables of a container that its options name.
fn named(identity: &Identity) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let environment: BTreeMap<String, String> =
        identity.config.env.iter().filter_map(|entry| entry.split_once('=')).map(owned).collect();
    for (known, names, pattern) in
        [(&identity.config.labels, "labels", "labels-regex"), (&environment, "env", "env-regex")]
    {
        for name in option(identity, names).into_iter().flat_map(|names| names.split(',')) {
            attributes.extend(known.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        if let Some(pattern) = option(identity, pattern).and_then(|pattern| Regex::new(pattern).ok()) {
            attributes.extend(
                known.iter().filter(|(name, _)| pattern.is_match(name)).map(|(n, v)| (n.clone(), v.clone())),
            );
        }
    }
    attributes
}

/// The attributes of a container's lines in its file, by its options.
pub(crate) fn of(identity: &Identity) -> BTreeMap<String, String> {
    let mut attributes = named(identity);
    if let Some(template) = option(identity, TAG) {
        match tag(template, &information(identity)) {
            Ok(tag) => drop(attributes.insert(TAG.to_owned(), tag)),
            Err(error) => {
                tracing::warn!(container = identity.id, error, "The tag of the log cannot be written");
            }
        }
    }
    attributes
}

/// What a log driver is told of a container.
pub(crate) fn container(identity: &Identity) -> Result<ContainerInfo, ContainerError> {
    let template = option(identity, TAG).unwrap_or(USUAL_TAG);
    let tag = tag(template, &information(identity)).map_err(|error| {
        ContainerError::Invalid(format!("failed to initialize logging driver: the log option `tag`: {error}"))
    })?;
    Ok(ContainerInfo {
        id: identity.id.clone(),
        name: identity.name.clone(),
        image_id: identity.image_id.as_str().to_owned(),
        image_name: identity.config.image.clone(),
        command: identity.command.join(" "),
        created: identity.created,
        tag,
        extra: named(identity),
    })
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
