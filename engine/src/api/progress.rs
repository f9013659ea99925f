//! Answers that are lines of JSON, sent as they come.

use std::io;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;

/// The answer that has these lines for its body.
pub(super) fn json_lines(receiver: mpsc::Receiver<Value>) -> Response {
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, io::Error>(format!("{line}\r\n")), receiver))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}
