//! `/session` and `/grpc`: connections that become BuildKit's, over which `docker buildx` builds.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use engine_buildkit::Introduction;

use super::ApiError;
use super::containers::hijack::Takeover;
use crate::app::App;

pub fn routes() -> Router<App> {
    Router::new().route("/session", post(session)).route("/grpc", post(grpc))
}

fn takeover(request: &mut Request<Body>) -> Result<Takeover, ApiError> {
    Takeover::of(request)
        .ok_or_else(|| ApiError::bad_request("no upgrade: this is for clients that ask for `h2c`"))
}

fn switched() -> Response {
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "h2c")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The client is asked for files and secrets over this connection.
async fn session(State(app): State<App>, mut request: Request<Body>) -> Result<Response, ApiError> {
    let introduction =
        Introduction::of(request.headers()).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let takeover = takeover(&mut request)?;
    tokio::spawn(async move {
        match takeover.stream().await {
            Ok(stream) => app.sessions.hold(introduction, stream).await,
            Err(error) => tracing::debug!(%error, "A session did not begin"),
        }
    });
    Ok(switched())
}

/// The client asks for builds over this one.
async fn grpc(State(app): State<App>, mut request: Request<Body>) -> Result<Response, ApiError> {
    let takeover = takeover(&mut request)?;
    tokio::spawn(async move {
        match takeover.stream().await {
            Ok(stream) => app.control.serve(stream).await,
            Err(error) => tracing::debug!(%error, "A connection for builds did not begin"),
        }
    });
    Ok(switched())
}
