//! `/volumes/…`

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use engine_containers::ContainerError;
use engine_containers::volumes::{Volume, VolumeRequest};
use engine_model::Patterns;
use serde_json::{Value, json};

use super::{Options, QueryMap, body, or_nothing};
use crate::api::ApiError;
use crate::api::filters::Filters;
use crate::app::App;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove))
}

async fn list(State(app): State<App>, Query(query): QueryMap) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(Options(query).text("filters"))?;
    filters.only(&["dangling", "driver", "label", "label!", "name"])?;
    let dangling = filters.boolean("dangling")?;
    let names = Patterns::new(filters.values("name"));
    let listed = tokio::task::spawn_blocking(move || {
        let containers = &app.containers;
        let wanted = |volume: &Volume| {
            let drivers = filters.values("driver");
            names.fit(&volume.name)
                && (drivers.is_empty() || drivers.iter().any(|driver| driver == "local"))
                && filters.labels_fit(&volume.labels)
                && dangling
                    .is_none_or(|dangling| containers.volume_users(&volume.name).is_empty() == dangling)
        };
        let volumes = containers.volumes();
        let chosen = volumes.iter().filter(|volume| wanted(volume));
        chosen.map(|volume| containers.describe_volume(volume)).collect::<Vec<_>>()
    });
    Ok(Json(json!({ "Volumes": listed.await?, "Warnings": null })))
}

/// Whose making failed.
fn of(name: &str, error: ContainerError) -> ApiError {
    let error = ApiError::from(error);
    let is_told = name.is_empty() || error.message.starts_with("create ");
    let message = if is_told { error.message } else { format!("create {name}: {}", error.message) };
    ApiError::new(error.status, message)
}

async fn create(State(app): State<App>, bytes: Bytes) -> Result<impl IntoResponse, ApiError> {
    let request: VolumeRequest = body(or_nothing(&bytes))?;
    let made = tokio::task::spawn_blocking(move || {
        let name = request.name.clone().unwrap_or_default();
        let volume = app.containers.create_volume(request).map_err(|error| of(&name, error))?;
        Ok::<_, ApiError>(app.containers.describe_volume(&volume))
    });
    Ok((StatusCode::CREATED, Json(made.await??)))
}

async fn inspect(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let volume = app.containers.volume(&name)?;
    Ok(Json(app.containers.describe_volume(&volume)))
}

async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): QueryMap,
) -> Result<StatusCode, ApiError> {
    let force = Options(query).is("force");
    tokio::task::spawn_blocking(move || app.containers.remove_volume(&name, force)).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(State(app): State<App>, Query(query): QueryMap) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(Options(query).text("filters"))?;
    filters.only(&["all", "label", "label!"])?;
    let all = filters.boolean("all")?.unwrap_or(false);
    let wanted = move |volume: &Volume| filters.labels_fit(&volume.labels);
    let (removed, bytes) =
        tokio::task::spawn_blocking(move || app.containers.prune_volumes(all, wanted)).await??;
    Ok(Json(json!({ "VolumesDeleted": removed, "SpaceReclaimed": bytes })))
}
