//! The Docker Engine API over HTTP: versions, routes and the shape of errors.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use tower_service::Service;

use crate::app::App;

mod browser;
mod build;
mod buildkit;
pub mod containers;
pub mod error;
pub mod filters;
pub mod images;
mod info;
pub mod networks;
mod parameters;
mod progress;
mod registry;
pub mod system;
mod unread;
pub mod version;

pub use error::ApiError;

/// Where JSON is expected; real requests have some kilobytes.
const LARGEST_JSON: usize = 4 << 20;

const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                             connect this node to swarm and try again.";

/// Who may send requests on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whom the socket's mode or a certificate lets in.
    Known,
    /// Any program on this machine, browsers with all their pages included.
    Anybody,
}

/// Marks an answer that goes on until something happens, which may be never: it ends with its client, as with dockerd.
#[derive(Clone, Copy, Debug)]
pub enum Endless {
    /// When the client closes its half of the connection.
    HalfClosed,
    /// When the client is gone. One that has closed its half has said all, and reads on.
    Gone,
}

/// By this header clients learn whether `experimental` is set.
const EXPERIMENTAL: &str = "docker-experimental";

/// All routes, without version prefixes.
pub fn router(app: App) -> Router {
    let is_experimental = app.config.experimental;
    Router::new()
        .merge(system::routes())
        .merge(images::routes())
        .merge(build::routes())
        .merge(buildkit::routes())
        .merge(containers::routes())
        .merge(networks::routes())
        .merge(registry::routes())
        .fallback(elsewhere)
        .method_not_allowed_fallback(elsewhere)
        .layer(DefaultBodyLimit::max(LARGEST_JSON))
        .layer(map_response(move |mut response: Response| async move {
            let is_experimental = HeaderValue::from_static(if is_experimental { "true" } else { "false" });
            response.headers_mut().insert(EXPERIMENTAL, is_experimental);
            response
        }))
        .with_state(app)
}

/// Serves one request: version off, route, the rest of the request, the headers that every answer has.
pub async fn respond(
    mut router: Router,
    request: Request<hyper::body::Incoming>,
    caller: Caller,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let (body, rest) = unread::lend(body, &parts.headers);
    tracing::debug!(method = %parts.method, uri = %parts.uri, "Request");
    let checked = match caller {
        Caller::Known => Ok(()),
        Caller::Anybody => browser::refuse(&parts),
    };
    let response = match checked.and_then(|()| version::strip(&parts.uri)) {
        Ok((uri, version)) => {
            parts.uri = uri;
            if let Some(query) = parts.uri.query() {
                parameters::note_unknown(&parts.method, parts.uri.path(), query);
            }
            parts.extensions.insert(version);
            whole(async move { router.call(Request::from_parts(parts, Body::new(body))).await }).await
        }
        Err(error) => {
            drop(body);
            error.into_response()
        }
    };
    let mut response = rest.before(response).await;
    let headers = response.headers_mut();
    let newest = HeaderValue::from_str(&version::NEWEST.to_string());
    headers.insert("api-version", newest.unwrap_or(HeaderValue::from_static("1.24")));
    headers.entry(EXPERIMENTAL).or_insert(HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("Engine/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
    response
}

/// Once begun, a request is served to its end, whether or not the client is still there: what is half done helps nobody. A
/// panic, which some input may bring about, costs the request in which it happens and nothing else.
async fn whole(request: impl Future<Output = Result<Response, Infallible>> + Send + 'static) -> Response {
    match tokio::spawn(request).await {
        Ok(Ok(response)) => response,
        // The panic itself has been reported by its hook.
        Err(_) => ApiError::internal("The engine failed at this request; its log says more").into_response(),
    }
}

/// What no route serves: a part of the API that is yet to come, or nothing known.
async fn elsewhere(request: Request<Body>) -> ApiError {
    let path = request.uri().path();
    let mut parts = path.trim_matches('/').split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let not_a_manager = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NOT_A_MANAGER);
    match (first, second) {
        ("swarm", Some("init" | "join")) => ApiError::not_implemented("Swarm mode"),
        ("swarm", Some("leave")) => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm")
        }
        ("swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", _) => not_a_manager(),
        ("plugins", _) => ApiError::not_implemented("Installing plugins"),
        ("volumes", _) => ApiError::not_implemented("Managing volumes"),
        ("containers" | "exec" | "images" | "networks", Some(_))
            if matches!(
                *request.method(),
                Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD
            ) =>
        {
            ApiError::not_implemented(&format!("`{} {path}`", request.method()))
        }
        _ => ApiError::not_found("page not found"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let broken = whole(async {
            let no_digits: Option<u32> = "hostile".parse().ok();
            Ok(no_digits.unwrap().to_string().into_response())
        });
        assert_eq!(broken.await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let fine = whole(async { Ok(StatusCode::OK.into_response()) });
        assert_eq!(fine.await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_request_outlives_its_client() {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
        let (end, ended) = tokio::sync::oneshot::channel();
        let client = tokio::spawn(whole(async move {
            begun.send(()).unwrap();
            goes_on.await.unwrap();
            end.send(()).unwrap();
            Ok(StatusCode::OK.into_response())
        }));
        has_begun.await.unwrap();
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        go_on.send(()).unwrap();
        ended.await.unwrap();
    }

    #[test]
    fn panics_unwind_in_what_travels() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let mut panics = manifest.lines().filter(|line| line.trim_start().starts_with("panic"));
        assert_eq!(panics.next(), None, "where a panic aborts, it costs every request");
    }
}
