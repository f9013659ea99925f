//! Attaching to a container by a web socket: its output in binary messages without frames, as dockerd sends it, and input in
//! whatever messages.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use engine_model::life::Change;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::Reframe;
use super::hijack::{Keys, Typed};
use super::streams::{Attached, Streams};
use super::{Options, QueryMap};
use crate::api::ApiError;
use crate::app::App;

const BUFFER: usize = 32 * 1024;
/// What a client may say at once.
const LARGEST_MESSAGE: usize = 1024 * 1024;

pub(super) async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let Attached { container, terminal, keys, past, streams } =
        Attached::new(&app, &id, &Options(query)).await?;
    Ok(upgrade.max_message_size(LARGEST_MESSAGE).on_upgrade(move |mut socket| async move {
        if let Some(mut past) = past {
            let mut frames = Reframe::new(terminal, true);
            while let Some(Ok(bytes)) = past.recv().await {
                let Ok(bytes) = frames.convert(&bytes) else { return };
                if socket.send(Message::Binary(bytes.into_owned().into())).await.is_err() {
                    return;
                }
            }
        }
        let Some(streams) = streams else {
            let _ = socket.send(Message::Close(None)).await;
            return;
        };
        if carry(socket, streams, terminal, keys).await {
            container.tell(&app.events, &Change::Detached);
        }
    }))
}

/// Carries output and input until either side ends, or somebody types `keys`; says whether that is so.
async fn carry(socket: WebSocket, streams: Streams, terminal: bool, keys: Option<Vec<u8>>) -> bool {
    let (mut to_client, mut from_client) = socket.split();
    let waiting = streams.wait();
    tokio::pin!(waiting);
    let process = loop {
        tokio::select! {
            biased;
            process = &mut waiting => break process,
            // The container may be started much later, or never; what comes before that is nobody's.
            message = from_client.next() => if !matches!(message, Some(Ok(_))) { return false },
        }
    };
    let Some(process) = process else { return false };
    let (mut from_process, mut to_process) = tokio::io::split(process);
    let output = async {
        let mut frames = Reframe::new(terminal, true);
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = from_process.read(&mut buffer).await {
            let Ok(bytes) = frames.convert(&buffer[..count]) else { return };
            if !bytes.is_empty() && to_client.send(Message::Binary(bytes.into_owned().into())).await.is_err()
            {
                return;
            }
        }
        let _ = to_client.send(Message::Close(None)).await;
    };
    let input = async {
        let mut keys = keys.map(Keys::new);
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Close(_) => return false,
            };
            let typed = match &mut keys {
                Some(keys) => keys.look_for(&bytes),
                None => Typed::Pass(bytes.to_vec()),
            };
            match typed {
                // A process that reads no more may still have something to say.
                Typed::Pass(bytes) => drop(to_process.write_all(&bytes).await),
                Typed::Detach => return true,
            }
        }
        false
    };
    tokio::select! {
        () = output => false,
        detached = input => detached,
    }
}
