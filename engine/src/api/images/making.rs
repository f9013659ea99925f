//! `/commit`, and `/images/create` with an archive: images that are made here.

use std::io;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use engine_model::platform::architecture;
use engine_model::task::apart;
use engine_model::wire::Config;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::is_true;
use crate::api::ApiError;
use crate::api::containers::body;
use crate::api::progress::json_lines;
use crate::app::App;
use crate::making::{self, CommitRequest, ImportRequest};

/// A query in which `changes` may come several times.
struct Wishes(Vec<(String, String)>);

impl Wishes {
    fn text(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    fn all(&self, key: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(name, value)| name == key && !value.is_empty());
        found.map(|(_, value)| value.clone()).collect()
    }

    /// From `repo` and `tag`.
    fn name(&self) -> Option<String> {
        match (self.text("repo"), self.text("tag")) {
            ("", _) => None,
            (repository, "") => Some(repository.to_owned()),
            (repository, tag) => Some(format!("{repository}:{tag}")),
        }
    }
}

pub(super) async fn commit(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let wishes = Wishes(query);
    let container = app.containers.find(wishes.text("container"))?;
    let config: Option<Config> =
        if bytes.iter().all(u8::is_ascii_whitespace) { None } else { body::<Option<Config>>(&bytes)? };
    let pause = wishes.text("pause");
    let request = CommitRequest {
        name: wishes.name(),
        author: wishes.text("author").to_owned(),
        comment: wishes.text("comment").to_owned(),
        changes: wishes.all("changes"),
        pause: pause.is_empty() || is_true(Some(pause)),
        config: config.filter(|config| *config != Config::default()),
    };
    let id = making::commit(&app, &container, request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

/// The body is an archive of any size. The answer is one line, or what went wrong.
pub(super) fn import(app: App, query: Vec<(String, String)>, content: Body) -> Result<Response, ApiError> {
    let wishes = Wishes(query);
    let source = wishes.text("fromSrc").to_owned();
    if source != "-" {
        return Err(ApiError::not_implemented(&format!(
            "`fromSrc={source}`: fetching an archive (`curl {source} | docker import -` does)"
        )));
    }
    let (architecture, variant) = platform(wishes.text("platform"))?;
    let message = Some(wishes.text("message")).filter(|text| !text.is_empty());
    let request = ImportRequest {
        name: wishes.name(),
        message: message.map_or_else(|| format!("Imported from {source}"), str::to_owned),
        changes: wishes.all("changes"),
        architecture,
        variant,
    };
    request.check()?;
    let stream = content.into_data_stream().map_err(io::Error::other);
    let mut reader = SyncIoBridge::new(StreamReader::new(stream));
    let (lines, receiver) = mpsc::channel::<Value>(1);
    let importing = apart(move || {
        let line = match making::import(&app, request, &mut reader) {
            Ok(id) => json!({ "status": id }),
            Err(failure) => {
                tracing::warn!(error = failure.message, "An archive could not be imported");
                json!({ "errorDetail": { "message": failure.message }, "error": failure.message })
            }
        };
        // A client that went away does not stop the import.
        let _ = lines.blocking_send(line);
    });
    tokio::spawn(importing);
    Ok(json_lines(receiver))
}

/// `linux/arm64/v8`: what the image says it is for.
fn platform(text: &str) -> Result<(String, String), ApiError> {
    let parts: Vec<&str> = text.split('/').collect();
    let (system, machine, variant) = match parts[..] {
        ["" | "linux"] => ("linux", architecture(), ""),
        [machine] => ("linux", machine, ""),
        [system, machine] => (system, machine, ""),
        [system, machine, variant] => (system, machine, variant),
        _ => return Err(ApiError::bad_request(format!("\"{text}\" is an invalid platform"))),
    };
    let is_word = |word: &str| {
        word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    if !parts.iter().all(|part| is_word(part)) {
        return Err(ApiError::bad_request(format!("\"{text}\" is an invalid platform")));
    }
    if system != "linux" {
        return Err(ApiError::bad_request(format!("operating system is not supported: {system}")));
    }
    let machine = match machine {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        machine => machine,
    };
    Ok((machine.to_owned(), variant.to_owned()))
}
