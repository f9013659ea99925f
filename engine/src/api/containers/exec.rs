//! `/containers/{id}/exec` and `/exec/…`

use std::future::ready;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use engine_containers::exec::ExecRequest;
use engine_model::chain;
use engine_model::task::vital;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::frames::Reframe;
use super::hijack::{self, Takeover};
use super::{Options, QueryMap, body, find, or_nothing};
use crate::api::{ApiError, Endless};
use crate::app::App;

/// The body of a start request is a few words.
const LARGEST_BODY: usize = 64 * 1024;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/json", get(inspect))
        .route("/exec/{id}/resize", post(resize))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartRequest {
    detach: bool,
    /// How the client expects the output, whatever was said when the exec was made.
    tty: Option<bool>,
    console_size: Option<[u32; 2]>,
}

async fn create(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<impl IntoResponse, ApiError> {
    let request: ExecRequest = body(or_nothing(&bytes))?;
    if hijack::parse_keys(request.detach_keys.as_deref().filter(|keys| !keys.is_empty())).is_none() {
        return Err(ApiError::bad_request("Invalid detach keys provided"));
    }
    let exec = app.containers.create_exec(&find(&app, &id)?, request)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": exec.id }))))
}

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(app.containers.find_exec(&id)?.describe()))
}

async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let options = Options(query);
    let (rows, columns) = options.size()?;
    app.containers.find_exec(&id)?.resize(rows, columns).await?;
    Ok(StatusCode::OK)
}

async fn start(
    State(app): State<App>,
    Path(id): Path<String>,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let exec = app.containers.find_exec(&id)?;
    let takeover = Takeover::of(&mut request);
    let bytes = axum::body::to_bytes(request.into_body(), LARGEST_BODY)
        .await
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let wanted: StartRequest = if bytes.is_empty() { StartRequest::default() } else { body(&bytes)? };
    let (has_terminal, terminal) = (exec.is_terminal(), wanted.tty == Some(true));
    let mut frames = Reframe::new(has_terminal, terminal);
    let (waiting, stream) =
        app.containers.prepare_exec(&exec, wanted.detach, wanted.console_size).await?.into_parts();
    let Some(process) = stream else {
        // A client that leaves meanwhile does not leave a process without anybody who watches it.
        vital(async move { app.containers.begin_exec(waiting).await }).await??;
        return Ok(StatusCode::OK.into_response());
    };
    let Some(takeover) = takeover else {
        vital(async move { app.containers.begin_exec(waiting).await }).await??;
        let headers = [(header::CONTENT_TYPE, hijack::content_type(terminal))];
        // As above, the end of the answer comes after the exit code is known.
        let recorded = stream::once(async move { exec.finished().await }).filter_map(|()| ready(None));
        let output = ReaderStream::new(process)
            .map(move |piece| frames.convert(&piece?).map(|bytes| Bytes::from(bytes.into_owned())));
        let body = Body::from_stream(output.chain(recorded));
        return Ok((Extension(Endless::Gone), headers, body).into_response());
    };
    let keys = exec.request.detach_keys.as_deref().filter(|keys| !keys.is_empty());
    let keys = hijack::parse_keys(keys).filter(|_| has_terminal && exec.request.attach_stdin == Some(true));
    let peer = takeover.peer.clone();
    tokio::spawn(async move {
        let Ok(mut client) = takeover.stream().await else { return };
        if let Err(error) = app.containers.begin_exec(waiting).await {
            // The status has been sent, so this is the only place left to say it.
            let _ = client.write_all(&on_stdout(&chain(&error), terminal)).await;
            let _ = client.shutdown().await;
            return;
        }
        hijack::carry(client, peer.as_ref(), process, keys, frames, exec.finished()).await;
    });
    Ok(Takeover::response(terminal))
}

fn on_stdout(message: &str, terminal: bool) -> Vec<u8> {
    let text = format!("{message}\r\n");
    let mut bytes = Vec::new();
    if !terminal {
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
