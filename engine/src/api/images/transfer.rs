//! Images on their way in and out, as streams of any length.

use std::io::{self, Write};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use engine_images::ImageError;
use engine_model::chain;
use engine_model::task::apart;
use engine_model::{LoadEvent, Loaded};
use futures_util::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{find, is_true, only_own_platform};
use crate::api::ApiError;
use crate::api::progress::json_lines;
use crate::app::App;
use crate::progress::error_line;

/// Pieces of an archive on their way to a client.
const PIECE: usize = 64 * 1024;

#[derive(Deserialize)]
pub(super) struct LoadQuery {
    quiet: Option<String>,
}

/// The body is an archive of any size; the answer is a stream of JSON lines that starts before the body has ended.
pub(super) async fn load(
    State(app): State<App>,
    Query(query): Query<LoadQuery>,
    uri: Uri,
    body: Body,
) -> Result<Response, ApiError> {
    only_own_platform(uri.query().unwrap_or_default())?;
    // Who says nothing is told nothing, as with dockerd.
    let quiet = query.quiet.is_none() || is_true(query.quiet.as_deref());
    let (lines, receiver) = mpsc::channel::<Value>(64);
    let stream = body.into_data_stream().map_err(io::Error::other);
    let reader = StreamReader::new(stream);
    let mut reader = SyncIoBridge::new(reader);
    let loading = apart(move || {
        let mut progress = |event: LoadEvent| {
            if let (false, LoadEvent::Layer { id, current, total }) = (quiet, event) {
                let line = json!({
                    "status": "Loading layer",
                    "progressDetail": {"current": current, "total": total},
                    "progress": progress_bar(current, total),
                    "id": id,
                });
                // A client that went away does not stop the load, as with dockerd.
                let _ = lines.blocking_send(line);
            }
        };
        let result = app.images.load(&mut reader, &mut progress);
        for line in load_result(&app, result) {
            let _ = lines.blocking_send(line);
        }
    });
    // What became of it, the lines say.
    tokio::spawn(loading);
    Ok(json_lines(receiver))
}

fn load_result(app: &App, result: Result<Vec<Loaded>, ImageError>) -> Vec<Value> {
    match result {
        Ok(images) => images
            .iter()
            .flat_map(|image| {
                app.events.publish("image", "load", image.id.as_str(), &[("name", image.id.as_str())]);
                let texts: Vec<String> = match image.tags.as_slice() {
                    [] => vec![format!("Loaded image ID: {}\n", image.id)],
                    tags => tags.iter().map(|tag| format!("Loaded image: {tag}\n")).collect(),
                };
                texts.into_iter().map(|text| json!({"stream": text}))
            })
            .collect(),
        Err(error) => {
            let message = chain(&error);
            tracing::warn!(error = message, "An image could not be loaded");
            vec![error_line(&message)]
        }
    }
}

fn progress_bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let total = total.max(1);
    let done = usize::try_from((current.min(total) * WIDTH) / total).unwrap_or(0);
    format!("[{:<50}] {current}B/{total}B", format!("{}>", "=".repeat(done.saturating_sub(1))))
}

/// `names` may be given several times.
pub(super) async fn save_several(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    only_own_platform(uri.query().unwrap_or_default())?;
    let names = query.into_iter().filter(|(key, _)| key == "names").map(|(_, name)| name).collect();
    save(&app, names).await
}

pub(super) async fn save(app: &App, names: Vec<String>) -> Result<Response, ApiError> {
    for name in &names {
        let mut meant = app.images.tagged(name);
        if meant.is_empty() {
            meant.insert(find(app, name).await?.id);
        }
        for id in meant {
            app.events.publish("image", "save", id.as_str(), &[("name", id.as_str())]);
        }
    }
    let (pieces, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(4);
    let images = app.images.clone();
    let saving = apart(move || {
        let mut output = Pieces { channel: pieces, gathered: Vec::with_capacity(PIECE) };
        let result = images.save(&names, &mut output).map_err(|error| chain(&error));
        let result = result.and_then(|()| output.flush().map_err(|error| error.to_string()));
        if let Err(error) = result {
            tracing::warn!(error, "Saving images was cut short");
            // Breaks the stream, so that the client does not take it for a whole archive.
            let _ = output.channel.blocking_send(Err(io::Error::other(error)));
        }
    });
    tokio::spawn(saving);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(stream.boxed())).into_response())
}

/// Hands written bytes to the response in pieces.
struct Pieces {
    channel: mpsc::Sender<Result<Bytes, io::Error>>,
    gathered: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE)));
        self.channel.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_of_a_load_is_as_wide_as_dockers() {
        assert_eq!(progress_bar(0, 10), format!("[>{}] 0B/10B", " ".repeat(49)));
        assert_eq!(progress_bar(10, 10), format!("[{}>] 10B/10B", "=".repeat(49)));
    }
}
