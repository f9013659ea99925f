//! `/containers/{id}/archive`: docker cp.

use std::io;
use std::path::PathBuf;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use engine_containers::ContainerError;
use engine_containers::archive::PathStat;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{Options, QueryMap, find};
use crate::api::ApiError;
use crate::app::App;

const STAT_HEADER: &str = "x-docker-container-path-stat";

pub(super) fn routes() -> Router<App> {
    let archive = get(get_archive).head(head_archive).put(put_archive);
    Router::new()
        .route("/containers/{id}/archive", archive.layer(DefaultBodyLimit::disable()))
        .route("/containers/{id}/export", get(export))
}

fn path(options: &Options) -> Result<PathBuf, ApiError> {
    let text =
        options.text("path").ok_or_else(|| ApiError::bad_request("bad parameter: path cannot be empty"))?;
    Ok(PathBuf::from("/").join(text))
}

/// What is not there is not there in this container.
fn of(id: &str) -> impl Fn(ContainerError) -> ApiError + '_ {
    move |error| match error {
        ContainerError::NoSuchFile(path) => {
            ApiError::not_found(format!("Could not find the file {} in container {id}", path.display()))
        }
        error => error.into(),
    }
}

fn encoded(stat: &PathStat) -> String {
    STANDARD.encode(stat.describe().to_string())
}

async fn head_archive(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Response, ApiError> {
    let container = find(&app, &id)?;
    let stat = app.containers.path_stat(&container, path(&Options(query))?).await.map_err(of(&id))?;
    Ok([(STAT_HEADER, encoded(&stat))].into_response())
}

async fn get_archive(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Response, ApiError> {
    let container = find(&app, &id)?;
    let path = path(&Options(query))?;
    let stat = app.containers.path_stat(&container, path.clone()).await.map_err(of(&id))?;
    let (sender, receiver) = mpsc::channel(4);
    let gone = ContainerError::NoSuchFile(path.clone());
    let packing = tokio::spawn(async move { app.containers.pack(&container, path, sender).await });
    let body = packed(packing, receiver, gone).await.map_err(of(&id))?;
    let headers =
        [(STAT_HEADER, encoded(&stat)), (header::CONTENT_TYPE.as_str(), "application/x-tar".to_owned())];
    Ok((headers, body).into_response())
}

/// An archive, as soon as there is something of it: what fails before that has a status of its own. What fails later breaks
/// the body off. `gone` is what to say if there is nothing of it any more.
async fn packed(
    packing: JoinHandle<Result<(), ContainerError>>,
    mut receiver: mpsc::Receiver<io::Result<Bytes>>,
    gone: ContainerError,
) -> Result<Body, ContainerError> {
    let first = match receiver.recv().await {
        Some(Ok(first)) => first,
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(gone),
        Some(Err(source)) => return Err(ContainerError::Pack { source }),
        None => return packing.await?.map(|()| Body::empty()),
    };
    let more = stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    });
    let end = async move {
        let end = packing.await.map_err(ContainerError::from);
        end.flatten().err().map(|error| Err(io::Error::other(error)))
    };
    let end = stream::once(end).filter_map(future::ready);
    Ok(Body::from_stream(stream::once(future::ready(Ok(first))).chain(more).chain(end)))
}

async fn export(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let container = find(&app, &id)?;
    let (sender, receiver) = mpsc::channel(4);
    let packing = tokio::spawn(async move { app.containers.export(&container, sender).await });
    let body = packed(packing, receiver, ContainerError::NoSuchContainer(id)).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// Whether this names root, whatever the container's own files say of users.
fn is_root(user: &str) -> bool {
    user.split(':').all(|part| matches!(part, "" | "0" | "root"))
}

async fn put_archive(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let container = find(&app, &id)?;
    let options = Options(query);
    if options.is("copyUIDGID") && !is_root(&container.identity().config.user) {
        // Whoever it is, it is not the owner that the archive names.
        return Err(ApiError::not_implemented("`copyUIDGID` with a container of another user than root"));
    }
    let path = path(&options)?;
    let reader = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let archive = SyncIoBridge::new(Box::pin(reader));
    let unpacked = app.containers.unpack(&container, path, archive, options.is("noOverwriteDirNonDir"));
    unpacked.await.map_err(of(&id))?;
    Ok(StatusCode::OK)
}
