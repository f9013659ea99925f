//! `/containers/…`, `/exec/…` and `/volumes/…`

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use engine_containers::list::ListRequest;
use engine_containers::{Container, ContainerError, UpdateRequest, signals};
use engine_model::life::Life;
use engine_model::task::vital;
use engine_model::wire::{Config, CreateRequest, is_repeated, noting_unknown, unknown_warning};
use futures_util::stream;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::filters::Filters;
use super::{ApiError, Endless};
use crate::app::App;

mod archive;
mod exec;
mod frames;
pub mod hijack;
mod sockets;
mod streams;
mod volumes;

#[cfg(test)]
pub use hijack::parse_keys;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/{alias}", delete(unlink))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/logs", get(streams::logs))
        .route("/containers/{id}/stats", get(streams::stats))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/update", post(update))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/attach", post(streams::attach))
        .route("/containers/{id}/attach/ws", get(sockets::attach))
        .route("/containers/{id}/changes", get(changes))
        .merge(archive::routes())
        .merge(exec::routes())
        .merge(volumes::routes())
}

/// The query of a request, as texts.
#[derive(Debug)]
struct Options(HashMap<String, String>);

impl Options {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// As Go's clients write it: everything but nothing, `0`, `no`, `false` and `none` is true.
    fn is(&self, key: &str) -> bool {
        self.text(key)
            .is_some_and(|text| !matches!(text.to_ascii_lowercase().as_str(), "0" | "no" | "false" | "none"))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!("strconv.Atoi: parsing \"{text}\": invalid syntax"))
            })
        };
        self.text(key).map(parse).transpose()
    }

    /// Of a terminal: rows and columns.
    fn size(&self) -> Result<(u16, u16), ApiError> {
        let number = |key: &str, name: &str| {
            let text = self.text(key).unwrap_or_default();
            text.parse().map_err(|_| {
                ApiError::bad_request(format!("invalid resize {name} \"{text}\": invalid syntax"))
            })
        };
        Ok((number("h", "height")?, number("w", "width")?))
    }

    fn signal(&self, key: &str) -> Result<Option<i32>, ApiError> {
        let parse = |text: &str| {
            signals::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid signal: {text}")))
        };
        self.text(key).map(parse).transpose()
    }
}

type QueryMap = Query<HashMap<String, String>>;

/// What the body says, whatever the client calls its type. The answers have no place for a warning, so fields that are not
/// known are told to the log.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let (body, unknown) = read(bytes)?;
    for field in unknown.iter().filter(|field| !is_repeated(field)) {
        tracing::warn!("{}", unknown_warning(field));
    }
    Ok(body)
}

/// A body that may be absent.
pub(super) fn or_nothing(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { b"{}" } else { bytes }
}

/// A body, and the fields in it that are not known.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Vec<String>), ApiError> {
    let mut unknown = Vec::new();
    let fields = serde_json::from_slice(bytes).map_err(invalid_json)?;
    let body = noting_unknown(fields, "", &mut unknown).map_err(invalid_json)?;
    Ok((body, unknown))
}

/// In dockerd's words, where it has any.
pub(super) fn invalid_json(error: serde_json::Error) -> ApiError {
    if error.is_eof() {
        return ApiError::bad_request("invalid JSON: unexpected EOF");
    }
    let text = error.to_string();
    if text.starts_with("trailing characters") {
        return ApiError::bad_request("unexpected content after JSON");
    }
    ApiError::bad_request(format!("invalid JSON: {text}"))
}

fn find(app: &App, id: &str) -> Result<Arc<Container>, ApiError> {
    Ok(app.containers.find(id)?)
}

async fn list(State(app): State<App>, Query(query): QueryMap) -> Result<Json<Value>, ApiError> {
    let options = Options(query);
    let limit = options
        .number::<i64>("limit")?
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|&limit| limit > 0);
    let request = ListRequest {
        all: options.is("all"),
        limit,
        size: options.is("size"),
        filters: Filters::parse(options.text("filters"))?.into_map(),
    };
    let listed = tokio::task::spawn_blocking(move || app.containers.list(&request)).await??;
    Ok(Json(listed.into()))
}

async fn create(
    State(app): State<App>,
    Query(query): QueryMap,
    bytes: Bytes,
) -> Result<impl IntoResponse, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body"));
    }
    let mut request = CreateRequest::read(&bytes).map_err(invalid_json)?;
    if request.config == Config::default() {
        return Err(ApiError::bad_request("config cannot be empty in order to create a container"));
    }
    let options = Options(query);
    request.platform = options.text("platform").map(str::to_owned);
    let made = app.executor.prepare(options.text("name").map(str::to_owned), request).await?;
    let answer = json!({ "Id": made.id, "Warnings": made.warnings });
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Json<Value>, ApiError> {
    let container = find(&app, &id)?;
    let size = Options(query).is("size");
    Ok(Json(tokio::task::spawn_blocking(move || app.containers.inspect(&container, size)).await?))
}

async fn start(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    // Goes on when the client leaves: half a start would be nothing that anyone wants.
    vital(async move { app.executor.start(&id).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let options = Options(query);
    let (timeout, signal) = (options.number("t")?, options.signal("signal")?);
    vital(async move { app.executor.stop(&id, timeout, signal).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let (container, options) = (find(&app, &id)?, Options(query));
    let (timeout, signal) = (options.number("t")?, options.signal("signal")?);
    vital(async move { app.containers.restart(&container, timeout, signal).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let what = id.clone();
    let refused = |error: ApiError| {
        ApiError::new(error.status, format!("cannot kill container: {what}: {}", error.message))
    };
    let signal = Options(query).signal("signal").map_err(&refused)?.unwrap_or(signals::KILL);
    let container = find(&app, &id).map_err(&refused)?;
    let killed = vital(async move { app.containers.kill(&container, signal).await }).await?;
    killed.map_err(|error| refused(error.into()))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    app.containers.pause(&find(&app, &id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpause(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    app.containers.unpause(&find(&app, &id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rename(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let options = Options(query);
    let renamed = app.containers.rename(&find(&app, &id)?, options.text("name").unwrap_or_default()).await;
    renamed.map_err(|error| match error {
        ContainerError::NameTaken { .. } | ContainerError::InvalidName(_) => {
            let error = ApiError::from(error);
            ApiError::new(error.status, format!("Error when allocating new name: {}", error.message))
        }
        error => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let warnings = app.containers.update(&find(&app, &id)?, UpdateRequest::read(&bytes)?).await?;
    Ok(Json(json!({ "Warnings": Some(warnings).filter(|warnings| !warnings.is_empty()) })))
}

async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let options = Options(query);
    if options.is("link") {
        app.containers.unlink(&id).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let (force, volumes) = (options.is("force"), options.is("v"));
    vital(async move { app.executor.remove(&id, force, volumes).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /containers/web/db?link=1`: clients may leave the slash of a link as it is.
async fn unlink(
    State(app): State<App>,
    Path((id, alias)): Path<(String, String)>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    if !Options(query).is("link") {
        return Err(ApiError::not_found("page not found"));
    }
    app.containers.unlink(&format!("{id}/{alias}")).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(State(app): State<App>, Query(query): QueryMap) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(Options(query).text("filters"))?;
    filters.only(&["label", "label!", "until"])?;
    let until = filters.until()?;
    let wanted = |container: &Container| filters.labels_fit(&container.identity().config.labels);
    let pruned = app.containers.prune_stopped(until, wanted).await;
    Ok(Json(
        json!({ "ContainersDeleted": Some(pruned.containers).filter(|pruned| !pruned.is_empty()), "SpaceReclaimed": pruned.bytes }),
    ))
}

async fn top(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Json<Value>, ApiError> {
    let options = Options(query);
    let arguments = options.text("ps_args").unwrap_or("-ef");
    Ok(Json(app.containers.top(&find(&app, &id)?, arguments).await?))
}

async fn changes(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(app.containers.changes(&find(&app, &id)?).await?))
}

async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let (container, options) = (find(&app, &id)?, Options(query));
    let (rows, columns) = options.size()?;
    container.resize(rows, columns).await?;
    Ok(StatusCode::OK)
}

/// The header goes out at once, so that a client knows that its wait has begun; the body follows when it is over.
async fn wait(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Response, ApiError> {
    let options = Options(query);
    let mut life = app.executor.wait(&id).await?;
    // Every end counts, also one after which it is started again at once: whoever looks at what is now may miss it.
    let (exits, ran) = (life.borrow().exits, life.borrow().alive);
    let over: Box<dyn Fn(&Life) -> bool + Send + Sync> =
        match options.text("condition").unwrap_or("not-running") {
            "not-running" => Box::new(move |life| life.removed || !ran || life.exits > exits),
            "next-exit" => Box::new(move |life| life.removed || life.exits > exits),
            "removed" => Box::new(|life| life.removed),
            other => return Err(ApiError::bad_request(format!("invalid condition: \"{other}\""))),
        };
    let end = async move {
        let life = life.wait_for(|life| over(life)).await.map(|life| life.clone()).unwrap_or_default();
        let mut answer = json!({ "StatusCode": life.exit_code });
        // Of a container that is gone, the code says it all.
        if !life.error.is_empty() && !life.removed {
            answer["Error"] = json!({ "Message": life.error });
        }
        Ok::<_, std::convert::Infallible>(Bytes::from(format!("{answer}\n")))
    };
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((Extension(Endless::HalfClosed), headers, Body::from_stream(stream::once(end))).into_response())
}
