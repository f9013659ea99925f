//! Errors as the Docker API shows them: a status and `{"message": …}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use engine_containers::ContainerError;
use engine_images::ImageError;
use engine_model::{Failure, Kind};
use engine_network::NetworkError;

/// What a client is told when a request cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// For what the API has and this engine does not have yet.
    pub fn not_implemented(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported by this engine yet"))
    }
}

/// The status that says the same as a kind of failure. This is the only place that knows both.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        (self.status, axum::Json(serde_json::json!({ "message": self.message }))).into_response()
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::new(status(failure.kind), failure.message)
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        Failure::from(error).into()
    }
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        Failure::from(error).into()
    }
}

impl From<ContainerError> for ApiError {
    fn from(error: ContainerError) -> Self {
        Failure::from(error).into()
    }
}

/// A blocking task that panicked or was cancelled.
impl From<tokio::task::JoinError> for ApiError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::internal(format!("The work on this request was cut short: {error}"))
    }
}
