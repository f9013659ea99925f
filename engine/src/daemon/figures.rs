//! The address at which Prometheus asks for the engine's figures: plain HTTP and nothing but `GET /metrics`, as dockerd has it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::listen::{ACCEPT_PAUSE, ListenError};
use crate::app::App;
use crate::metrics;

/// Whoever asks more at once waits.
const CONNECTIONS: usize = 8;
/// What a connection may take, from its beginning to its end.
const LONGEST: Duration = Duration::from_secs(30);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Opens the socket, if there is to be one.
pub fn open(address: Option<SocketAddr>) -> Result<Option<TcpListener>, ListenError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |source| ListenError::Bind { host: format!("{address} (metrics-addr)"), source };
    let socket = std::net::TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(Some(TcpListener::from_std(socket).map_err(failed)?))
}

/// Serves it until `stop`.
pub async fn serve(listener: TcpListener, app: App, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let app = app.clone();
                tokio::spawn(async move {
                    // Whoever is cut off asks again.
                    let _ = tokio::time::timeout(LONGEST, connection(stream, app)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "Could not accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}

async fn connection(stream: TcpStream, app: App) {
    let service = service_fn(move |request: Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(&request, &app).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "A connection for metrics ended early");
    }
}

async fn answer(request: &Request<Incoming>, app: &App) -> Response {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match metrics::page(app).await {
            Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        },
        (_, "/metrics") => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => (StatusCode::NOT_FOUND, "There is only /metrics\n").into_response(),
    }
}
