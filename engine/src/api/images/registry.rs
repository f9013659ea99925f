//! Images on their way from and to registries.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use engine_images::{ImageError, Reference, Tell};
use engine_model::platform::Platform;
use engine_model::transfer::{LayerStep, TransferEvent};
use engine_model::{Failure, chain};
use engine_registry::Credentials;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api::ApiError;
use crate::api::progress::json_lines;
use crate::app::App;
use crate::progress::{error_line, lines};

/// Lines that wait for a slow client.
const LINES: usize = 4096;
/// Room that is kept for other things than counts of bytes.
const RESERVED: usize = 3072;

/// `POST /images/create` with `fromImage`.
pub(super) async fn create(
    app: App,
    query: BTreeMap<String, String>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let get = |key: &str| query.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let from = get("fromImage").unwrap_or_default();
    if get("repo").is_some() || get("changes").is_some() || get("message").is_some() {
        return Err(ApiError::bad_request("`repo`, `changes` and `message` are for imports (`fromSrc`)"));
    }
    let platform = get("platform").map(platform).transpose()?;
    let name = wanted(from, get("tag"))?;
    let credentials = credentials(headers);
    let (events, receiver) = mpsc::channel(LINES);
    let work = pull(app, name, platform, credentials, teller(&events));
    stream(work, events, receiver).await
}

/// `linux/arm64/v8`.
fn platform(text: &str) -> Result<Platform, ApiError> {
    Platform::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!("`platform`: `{text}` is not of the form `os/architecture/variant`"))
    })
}

/// The name, with the tag or digest that is said beside it.
fn wanted(from: &str, tag: Option<&str>) -> Result<Reference, ApiError> {
    let name = Reference::parse(from)?;
    match tag {
        Some(tag) if name.digest().is_none() || tag.contains(':') => Ok(name.at(tag)?),
        _ => Ok(name),
    }
}

/// Who the caller is to the registry.
pub(in crate::api) fn credentials(headers: &HeaderMap) -> Credentials {
    let value = headers.get("x-registry-auth").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // As dockerd has it: what cannot be read is nobody.
    Credentials::of_header(value).unwrap_or_else(|error| {
        tracing::debug!(%error, "A client does not say who it is");
        Credentials::default()
    })
}

fn teller(events: &mpsc::Sender<TransferEvent>) -> Tell {
    let events = events.clone();
    Arc::new(move |event| {
        let counts = matches!(
            event,
            TransferEvent::Layer {
                step: LayerStep::Downloading { .. }
                    | LayerStep::Extracting { .. }
                    | LayerStep::Pushing { .. }
                    | LayerStep::Retrying { .. },
                ..
            }
        );
        // Of counts, a slow client gets fewer. For every step of every layer that an image can have there is room.
        if !counts || events.capacity() > RESERVED {
            let _ = events.try_send(event);
        }
    })
}

/// Pulls one tag or digest, or all tags.
async fn pull(
    app: App,
    name: Reference,
    platform: Option<Platform>,
    credentials: Credentials,
    tell: Tell,
) -> Result<(), ImageError> {
    let names = if name.tag().is_none() && name.digest().is_none() {
        all_tags(&app, &name, &credentials)
            .await?
            .iter()
            .map(|tag| name.at(tag))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        vec![name]
    };
    for name in names {
        app.pulls.pull(&name, platform.as_ref(), &credentials, &tell).await?;
    }
    Ok(())
}

/// As the first of those says that have it: mirrors, then the registry.
async fn all_tags(app: &App, name: &Reference, credentials: &Credentials) -> Result<Vec<String>, ImageError> {
    let mut sources =
        app.pulls.registries.pull_from(name.domain(), name.path(), credentials).await?.into_iter().peekable();
    while let Some(source) = sources.next() {
        match source.tags().await {
            Ok(tags) => return Ok(tags),
            Err(error) if sources.peek().is_some() => {
                tracing::info!(error = chain(&error), "A mirror does not list the tags; asking the next");
            }
            Err(error) => return Err(ImageError::from(error).of_pull(name)),
        }
    }
    Ok(Vec::new())
}

/// `POST /images/NAME/push`: one tag, or all that the repository has here.
pub(super) async fn push(
    app: &App,
    name: &str,
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let tag = query.get("tag").map(String::as_str).filter(|tag| !tag.is_empty());
    let mut name = Reference::parse(name)?;
    if name.digest().is_some() || tag.is_some_and(|tag| tag.contains(':')) {
        return Err(ImageError::PushOfDigest.into());
    }
    if let Some(tag) = tag {
        name = name.at(tag)?;
    }
    let credentials = credentials(headers);
    let (events, receiver) = mpsc::channel(LINES);
    let tell = teller(&events);
    let app = app.clone();
    let work = async move {
        tell(TransferEvent::To { repository: name.repository() });
        let names = if name.tag().is_some() { vec![name.clone()] } else { app.images.tags_of(&name) };
        if names.is_empty() {
            return Err(ImageError::NothingToPush { repository: name.familiar_repository() });
        }
        let source = app.pulls.registries.push_to(name.domain(), name.path(), &credentials).await?;
        let source = Arc::new(source);
        for name in names {
            app.images.push(Arc::clone(&source), &name, &app.uploads(), &tell).await?;
            let shown = name.familiar();
            app.events.publish("image", "push", &shown, &[("name", &name.familiar_repository())]);
        }
        Ok(())
    };
    stream(work, events, receiver).await
}

/// Answers with what the work tells. An error before the first word of it is the answer; a client that goes away ends it.
async fn stream(
    work: impl Future<Output = Result<(), ImageError>> + Send + 'static,
    events: mpsc::Sender<TransferEvent>,
    mut receiver: mpsc::Receiver<TransferEvent>,
) -> Result<Response, ApiError> {
    let (output, answer) = mpsc::channel::<Value>(16);
    let (finished, mut end) = tokio::sync::oneshot::channel();
    drop(events);
    let gone = output.clone();
    tokio::spawn(async move {
        tokio::select! {
            result = work => {
                // Nobody waits for it when the client is gone.
                let _ = finished.send(result);
            }
            () = gone.closed() => tracing::info!("A transfer ends, as its client is gone"),
        }
    });
    let cut_short = |_| Err(ImageError::CutShort);
    let mut ended = None;
    let first = tokio::select! {
        biased;
        event = receiver.recv() => event,
        result = &mut end => {
            ended = Some(result.unwrap_or_else(cut_short));
            receiver.try_recv().ok()
        }
    };
    let Some(first) = first else {
        // All is said by how it ended.
        let result = match ended {
            Some(result) => result,
            None => end.await.unwrap_or_else(cut_short),
        };
        return result.map(|()| json_lines(answer)).map_err(Into::into);
    };
    tokio::spawn(async move {
        let tell = async |event: TransferEvent| {
            for line in lines(&event) {
                // A client that is gone has ended the work.
                let _ = output.send(line).await;
            }
        };
        tell(first).await;
        let result = loop {
            if let Some(result) = ended {
                break result;
            }
            // What still works for it, and is not needed any more, need not be waited for.
            tokio::select! {
                biased;
                Some(event) = receiver.recv() => tell(event).await,
                result = &mut end => ended = Some(result.unwrap_or_else(cut_short)),
            }
        };
        while let Ok(event) = receiver.try_recv() {
            tell(event).await;
        }
        if let Err(error) = result {
            let message = chain(&error);
            tracing::warn!(error = message, "A transfer with a registry failed");
            let _ = output.send(error_line(&message)).await;
        }
    });
    Ok(json_lines(answer))
}

impl From<engine_registry::RegistryError> for ApiError {
    fn from(error: engine_registry::RegistryError) -> Self {
        if matches!(error, engine_registry::RegistryError::Unauthorized { .. }) {
            return Self::new(StatusCode::UNAUTHORIZED, chain(&error));
        }
        Failure::of(error.kind(), &error).into()
    }
}
