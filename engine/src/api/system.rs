//! Ping, version, events and disk usage.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use engine_model::event::{Event, EventFilters};
use engine_model::platform::architecture;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::filters::{Filters, timestamp};
use super::{ApiError, Endless, build, images, info, version};
use crate::app::App;
use crate::host;
use crate::prune::{self, Plan, Removal};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/_ping", get(ping).head(ping))
        .route("/version", get(engine_version))
        .route("/info", get(info::info))
        .route("/events", get(events))
        .route("/system/df", get(disk_usage))
        .route("/engine/prune", get(planned_prune).post(prune_now))
        .route("/plugins", get(plugins))
}

/// The client library reads the headers of this answer before it asks anything else.
async fn ping() -> Response {
    let mut headers = HeaderMap::new();
    let text = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, text("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, text("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, text("no-cache"));
    headers.insert("builder-version", text("2"));
    headers.insert("swarm", text("inactive"));
    (headers, "OK").into_response()
}

async fn engine_version(State(app): State<App>) -> Json<Value> {
    let own = env!("CARGO_PKG_VERSION");
    let kernel = host::kernel_version();
    let (newest, oldest) = (version::NEWEST.to_string(), version::OLDEST.to_string());
    Json(json!({
        "Platform": {"Name": "Engine"},
        "Components": [{
            "Name": "Engine",
            "Version": own,
            "Details": {
                "ApiVersion": newest,
                "Arch": architecture(),
                "BuildTime": "",
                "Experimental": app.config.experimental.to_string(),
                "GitCommit": "",
                "GoVersion": "",
                "KernelVersion": kernel,
                "MinAPIVersion": oldest,
                "Os": "linux",
            },
        }],
        "Version": own,
        "ApiVersion": newest,
        "MinAPIVersion": oldest,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "BuildTime": "",
    }))
}

#[derive(Deserialize)]
struct EventsQuery {
    since: Option<String>,
    until: Option<String>,
    filters: Option<String>,
}

async fn events(State(app): State<App>, Query(query): Query<EventsQuery>) -> Result<Response, ApiError> {
    let filters = Filters::parse(query.filters.as_deref())?;
    filters.only(&[
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ])?;
    let moment = |text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => timestamp(text).map(Some),
    };
    let (since, until) = (moment(&query.since)?, moment(&query.until)?);
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        return Err(ApiError::bad_request("`since` time cannot be after `until` time"));
    }
    let line = |event: Arc<Event>| {
        let mut line = serde_json::to_vec(&*event).map_err(std::io::Error::other)?;
        line.push(b'\n');
        Ok::<_, std::io::Error>(line)
    };
    let events = app.events.subscribe(since, until, EventFilters(filters.into_map())).map(line);
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((Extension(Endless::HalfClosed), headers, Body::from_stream(events)).into_response())
}

/// `type=container` may be given several times.
async fn disk_usage(
    State(app): State<App>,
    Extension(version): Extension<version::ApiVersion>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let kinds: Vec<&str> =
        query.iter().filter(|(key, _)| key == "type").map(|(_, kind)| kind.as_str()).collect();
    if let Some(unknown) =
        kinds.iter().find(|kind| !["container", "image", "volume", "build-cache"].contains(kind))
    {
        return Err(ApiError::bad_request(format!("unknown object type: {unknown}")));
    }
    let wanted = |kind: &str| kinds.is_empty() || kinds.contains(&kind);
    let images = if wanted("image") {
        Value::Array(images::summaries_with_usage(&app, version).await?)
    } else {
        Value::Null
    };
    let containers = if wanted("container") { app.containers.disk_usage().await } else { Value::Null };
    let volumes = if wanted("volume") {
        let containers = app.containers.clone();
        tokio::task::spawn_blocking(move || containers.volume_usage()).await?.into()
    } else {
        Value::Null
    };
    let worker = app.images.clone();
    let layers = tokio::task::spawn_blocking(move || worker.layers_size()).await?;
    let (steps, size) = if wanted("build-cache") { build::usage(&app).await? } else { (Value::Null, 0) };
    let mut usage = json!({
        "LayersSize": layers,
        "Images": images,
        "Containers": containers,
        "Volumes": volumes,
        "BuildCache": steps,
    });
    if !version.is_from(42) {
        usage["BuilderSize"] = size.into();
    }
    Ok(Json(usage))
}

/// What the automatic cleaning would remove now. This engine's own, not in the Docker API.
async fn planned_prune(State(app): State<App>) -> Json<Plan> {
    Json(prune::plan(&app).await)
}

/// The automatic cleaning, now. This engine's own, not in the Docker API.
async fn prune_now(State(app): State<App>) -> Result<Json<Removal>, ApiError> {
    // It goes to its end even if the client does not wait for it.
    Ok(Json(tokio::spawn(async move { prune::prune(&app, "request").await }).await?))
}

async fn plugins() -> Json<Value> {
    Json(json!([]))
}
