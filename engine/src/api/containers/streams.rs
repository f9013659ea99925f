//! Attach, logs and stats: answers that go on for as long as the container does.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Request, header};
use axum::response::{IntoResponse, Response};
use engine_containers::Container;
use engine_containers::container::PendingAttach;
use engine_model::executor::{LogRequest, Logs};
use engine_model::life::Change;
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::ReaderStream;

use super::frames::Reframe;
use super::hijack::{self, Takeover};
use super::{Options, QueryMap, find};
use crate::api::{ApiError, Endless, filters};
use crate::app::App;
use crate::peer;

/// Where the streams come from: at once, or as soon as the container starts.
pub(super) enum Streams {
    Now(BufReader<UnixStream>),
    Later(oneshot::Receiver<BufReader<UnixStream>>),
}

impl Streams {
    pub(super) async fn wait(self) -> Option<BufReader<UnixStream>> {
        match self {
            Self::Now(stream) => Some(stream),
            Self::Later(receiver) => receiver.await.ok(),
        }
    }
}

/// What a client that attaches gets, by its query.
pub(super) struct Attached {
    pub(super) container: Arc<Container>,
    pub(super) terminal: bool,
    /// Those that leave a terminal into which the client types.
    pub(super) keys: Option<Vec<u8>>,
    pub(super) past: Option<mpsc::Receiver<io::Result<Bytes>>>,
    pub(super) streams: Option<Streams>,
}

impl Attached {
    pub(super) async fn new(app: &App, id: &str, options: &Options) -> Result<Self, ApiError> {
        let container = find(app, id)?;
        let terminal = container.identity().config.tty;
        let keys = hijack::parse_keys(options.text("detachKeys"))
            .ok_or_else(|| ApiError::bad_request("Invalid detach keys provided"))?;
        let (stdin, stdout, stderr) = (options.is("stdin"), options.is("stdout"), options.is("stderr"));
        let past = if options.is("logs") {
            let wanted = LogRequest { stdout, stderr, ..LogRequest::default() };
            Some(app.containers.logs(&container, wanted).await?)
        } else {
            None
        };
        let streams = if options.is("stream") {
            Some(streams_of(&container, stdin, stdout, stderr).await?)
        } else {
            None
        };
        container.tell(&app.events, &Change::Attached);
        let keys = (terminal && stdin).then_some(keys);
        Ok(Self { container, terminal, keys, past, streams })
    }
}

pub(super) async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let Attached { container, terminal, keys, past, streams } =
        Attached::new(&app, &id, &Options(query)).await?;
    let Some(takeover) = Takeover::of(&mut request) else {
        return Ok(one_way(past, streams, terminal));
    };
    let peer = takeover.peer.clone();
    tokio::spawn(async move {
        let Ok(mut client) = takeover.stream().await else { return };
        if let Some(mut past) = past {
            while let Some(Ok(bytes)) = past.recv().await {
                if client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
        let Some(streams) = streams else { return };
        let process = tokio::select! {
            process = streams.wait() => process,
            // The container may be started much later, or never.
            () = peer::gone(peer.as_ref()) => return,
        };
        let Some(process) = process else { return };
        if hijack::carry(client, peer.as_ref(), process, keys, Reframe::Keep, ready(())).await {
            container.tell(&app.events, &Change::Detached);
        }
    });
    Ok(Takeover::response(terminal))
}

async fn streams_of(
    container: &Container,
    stdin: bool,
    stdout: bool,
    stderr: bool,
) -> Result<Streams, ApiError> {
    // Whoever starts the container looks for us while it holds this.
    let _operation = container.operation.lock().await;
    if container.status().is_alive() {
        let stream = container.attach(stdin, stdout, stderr).await?;
        return Ok(Streams::Now(stream));
    }
    let (ready, receiver) = oneshot::channel();
    let mut pending = container.pending();
    // Whoever has left meanwhile needs none.
    pending.retain(|client| !client.ready.is_closed());
    pending.push(PendingAttach { stdin, stdout, stderr, ready });
    drop(pending);
    Ok(Streams::Later(receiver))
}

/// For clients that only read.
fn one_way(
    past: Option<mpsc::Receiver<io::Result<Bytes>>>,
    streams: Option<Streams>,
    terminal: bool,
) -> Response {
    use futures_util::StreamExt;
    let past = stream::unfold(past, |past| async move {
        let mut past = past?;
        let item = past.recv().await?;
        Some((item, Some(past)))
    });
    let present = stream::once(async move {
        let reader: Box<dyn AsyncRead + Send + Unpin> = match streams {
            Some(streams) => match streams.wait().await {
                Some(stream) => Box::new(stream),
                None => Box::new(tokio::io::empty()),
            },
            None => Box::new(tokio::io::empty()),
        };
        ReaderStream::new(reader)
    })
    .flatten();
    let headers = [(header::CONTENT_TYPE, hijack::content_type(terminal))];
    (Extension(Endless::Gone), headers, Body::from_stream(past.chain(present))).into_response()
}

pub(super) async fn logs(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Response, ApiError> {
    let options = Options(query);
    let time = |key: &str| {
        // Clients write 0 where no time is meant.
        options.text(key).filter(|text| *text != "0").map(filters::timestamp).transpose()
    };
    let tail = match options.text("tail") {
        None | Some("all") => None,
        // Docker takes what is no number for everything.
        Some(number) => number.parse().ok(),
    };
    let request = LogRequest {
        follow: options.is("follow"),
        stdout: options.is("stdout"),
        stderr: options.is("stderr"),
        since: time("since")?,
        until: time("until")?,
        timestamps: options.is("timestamps"),
        details: options.is("details"),
        tail,
    };
    if !request.stdout && !request.stderr {
        return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
    }
    let follow = request.follow;
    let Logs { terminal, stream: receiver } = app.executor.logs(&id, request).await?;
    let body = Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    }));
    let headers = [(header::CONTENT_TYPE, hijack::content_type(terminal))];
    Ok(if follow {
        (Extension(Endless::HalfClosed), headers, body).into_response()
    } else {
        (headers, body).into_response()
    })
}

pub(super) async fn stats(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): QueryMap,
) -> Result<Response, ApiError> {
    let (container, options) = (find(&app, &id)?, Options(query));
    let once = options.text("stream").is_some() && !options.is("stream");
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let mut before = app.containers.stats(&container).await?;
    if once {
        let mut view = before.describe(&container, None);
        if !options.is("one-shot") {
            tokio::time::sleep(Duration::from_secs(1)).await;
            view = app.containers.stats(&container).await?.describe(&container, Some(&before));
        }
        return Ok((headers, format!("{view}\n")).into_response());
    }
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        let mut view = before.describe(&container, None);
        while sender.send(Ok(format!("{view}\n").into())).await.is_ok() && !container.life().borrow().removed
        {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = sender.closed() => return,
            }
            let Ok(reading) = app.containers.stats(&container).await else { return };
            view = reading.describe(&container, Some(&before));
            before = reading;
        }
    });
    let body = Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    }));
    Ok((Extension(Endless::HalfClosed), headers, body).into_response())
}
