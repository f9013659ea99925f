//! `pull`, and the messages of long-running image work.

use std::io;

use clap::Args;
use futures_util::StreamExt as _;
use http_body_util::BodyStream;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::Value;

use crate::client::{Client, Target, empty};
use crate::credentials;
use crate::failure::{Failure, Outcome};
use crate::output;

/// The longest message of a stream.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Download an image from a registry
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Download all tags of the repository
    #[arg(long, short)]
    all_tags: bool,
    /// Platform, if there is more than one
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Say little
    #[arg(long, short)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
}

/// Where progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speak {
    /// It is the output.
    Out,
    /// The output belongs to somebody else.
    Aside,
}

impl Speak {
    fn line(self, text: &str) -> Outcome {
        match self {
            Self::Out => output::line(text),
            Self::Aside => {
                output::say(text);
                Ok(())
            }
        }
    }
}

/// A reference in two: the name, and the tag or digest.
pub(crate) fn split(reference: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, Some(digest));
    }
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (reference, None),
    }
}

/// The name with its registry.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// The reference as messages show it, never without a tag.
pub(crate) fn with_tag(reference: &str) -> String {
    if split(reference).1.is_some() { reference.to_owned() } else { format!("{reference}:latest") }
}

/// Pulls one image.
pub(crate) async fn pull(
    client: &Client,
    reference: &str,
    platform: Option<&str>,
    quiet: bool,
    speak: Speak,
) -> Outcome {
    let (name, tag) = split(reference);
    let target = Target::new(["images", "create"])
        .with("fromImage", &full_name(name))
        .with("tag", tag.unwrap_or("latest"))
        .with_some("platform", platform);
    fetch(client, reference, &target, quiet, speak).await
}

/// Has the daemon pull what the target says, as who the user is to the registry.
async fn fetch(client: &Client, image: &str, target: &Target, quiet: bool, speak: Speak) -> Outcome {
    let header = credentials::header(client.config(), image)?;
    let login = header.iter().map(|value| ("x-registry-auth", value.as_str()));
    let headers: Vec<(&str, &str)> = [("content-type", "text/plain")].into_iter().chain(login).collect();
    let response = client.stream_with(Method::POST, target, &headers, empty()).await?;
    messages(response.into_body(), quiet, speak).await
}

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    let Options { all_tags, platform, quiet, image } = options;
    let (name, tag) = split(&image);
    if all_tags {
        if tag.is_some() {
            return Err(Failure::refused("tag can't be used with --all-tags/-a"));
        }
        let target = Target::new(["images", "create"]).with("fromImage", &full_name(name));
        return fetch(client, name, &target, quiet, Speak::Out).await;
    }
    if tag.is_none() && !quiet {
        output::line("Using default tag: latest")?;
    }
    pull(client, &image, platform.as_deref(), quiet, Speak::Out).await?;
    let full = match tag {
        Some(tag) if tag.contains(':') => format!("{}@{tag}", full_name(name)),
        tag => format!("{}:{}", full_name(name), tag.unwrap_or("latest")),
    };
    output::line(full)
}

/// The JSON messages of a stream, one a line, as they come. What is no JSON is an error.
pub(crate) async fn messages(body: Incoming, quiet: bool, speak: Speak) -> Outcome {
    each(body, |message| show(message, quiet, speak)).await
}

/// Has a look at each message of a stream that is no error.
pub(crate) async fn each(body: Incoming, mut look: impl FnMut(&Value) -> Outcome) -> Outcome {
    let mut stream = BodyStream::new(body);
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = stream.next().await {
        let frame = frame.map_err(|error| Failure::Input(io::Error::other(error)))?;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let rest = pending.split_off(end + 1);
            let line = std::mem::replace(&mut pending, rest);
            message(&line, &mut look)?;
        }
        if pending.len() > MESSAGE_LIMIT {
            return Err(Failure::Answer(format!("a message is longer than {MESSAGE_LIMIT} bytes")));
        }
    }
    message(&pending, &mut look)
}

fn message(line: &[u8], look: &mut impl FnMut(&Value) -> Outcome) -> Outcome {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let message: Value = serde_json::from_slice(line).map_err(|error| Failure::Answer(error.to_string()))?;
    let error = message["errorDetail"]["message"].as_str().or_else(|| message["error"].as_str());
    if let Some(error) = error {
        return Err(Failure::refused(error));
    }
    look(&message)
}

/// Shows a message, unless it is only a count of bytes.
pub(crate) fn show(message: &Value, quiet: bool, speak: Speak) -> Outcome {
    if quiet {
        return Ok(());
    }
    if let Some(text) = message["stream"].as_str() {
        return match speak {
            Speak::Out => output::raw(text),
            Speak::Aside => speak.line(text.trim_end()),
        };
    }
    let counts = message["progressDetail"].as_object().is_some_and(|detail| !detail.is_empty());
    match (message["status"].as_str(), message["id"].as_str()) {
        (Some(_), _) if counts => Ok(()),
        (Some(status), Some(id)) if !id.is_empty() => speak.line(&format!("{id}: {status}")),
        (Some(status), _) => speak.line(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_a_name_and_a_tag() {
        assert_eq!(split("busybox"), ("busybox", None));
        assert_eq!(split("busybox:1.36"), ("busybox", Some("1.36")));
        assert_eq!(split("localhost:5000/x"), ("localhost:5000/x", None));
        assert_eq!(split("localhost:5000/x:y"), ("localhost:5000/x", Some("y")));
        assert_eq!(split("x@sha256:ab"), ("x", Some("sha256:ab")));
        assert_eq!(full_name("busybox"), "docker.io/library/busybox");
        assert_eq!(full_name("me/x"), "docker.io/me/x");
        assert_eq!(full_name("r.example/x"), "r.example/x");
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("a:b"), "a:b");
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let error = message(br#"{"errorDetail":{"message":"no space"},"error":"no space"}"#, &mut |_| Ok(()));
        assert_eq!(error.err().map(|error| error.to_string()).as_deref(), Some("no space"));
        assert!(message(b"<html>", &mut |_| Ok(())).is_err());
        assert!(message(b"\n", &mut |_| Ok(())).is_ok());
    }
}
