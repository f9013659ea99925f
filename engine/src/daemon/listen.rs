//! Sockets of the API: opened before anything else starts, then served until the daemon stops.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Gid, Mode, Uid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handshakes::{Handshake, Handshakes};
use super::linger::{Lingering, TakenOver};
use super::tls::Acceptor;
use crate::api::{self, Caller};
use crate::config::{Config, Host};
use crate::peer::Peer;

/// A client that has not finished its TLS handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As dockerd. It is also how long an idle connection stays open.
const HEADERS: Duration = Duration::from_mins(5);
const LONGEST_HEADERS: usize = 64 * 1024;
/// After an error such as too many open files.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("Could not listen on `{host}`")]
    Bind { host: String, source: io::Error },
    #[error("Another process serves `{}`", path.display())]
    InUse { path: PathBuf },
    #[error("There is no group `{name}`")]
    NoGroup { name: String },
}

/// An open socket.
#[derive(Debug)]
pub enum Listener {
    Unix { socket: UnixListener, path: PathBuf },
    Plain(TcpListener),
    Tls(TcpListener, Acceptor),
}

/// Opens all sockets, so that whoever connects while the daemon starts only waits.
pub fn open(config: &Config, acceptor: Option<&Acceptor>) -> Result<Vec<Listener>, ListenError> {
    config.hosts.iter().map(|host| open_one(host, config, acceptor)).collect()
}

fn open_one(host: &Host, config: &Config, acceptor: Option<&Acceptor>) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Bind { host: host.to_string(), source };
    match host {
        Host::Unix(path) => {
            let group = group(config.group.as_deref())?;
            make_way(path)?;
            // Nobody may connect before the group is set.
            let previous = rustix::process::umask(Mode::from_raw_mode(0o177));
            let socket = UnixListener::bind(path);
            rustix::process::umask(previous);
            let socket = socket.map_err(failed)?;
            let gid = group.map(Gid::from_raw);
            rustix::fs::chown(path, Some(Uid::ROOT), gid).map_err(|error| failed(error.into()))?;
            rustix::fs::chmod(path, Mode::from_raw_mode(0o660)).map_err(|error| failed(error.into()))?;
            Ok(Listener::Unix { socket, path: path.clone() })
        }
        Host::Tcp(address) => {
            let socket = std::net::TcpListener::bind(address).map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            let socket = TcpListener::from_std(socket).map_err(failed)?;
            Ok(match acceptor {
                Some(acceptor) => Listener::Tls(socket, acceptor.clone()),
                None => Listener::Plain(socket),
            })
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn make_way(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Bind { host: format!("unix://{}", path.display()), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::InUse { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(failed)
        }
        // Binding says what is wrong with anything else.
        _ => Ok(()),
    }
}

/// The id of the group that may use the socket. The usual group need not exist, one that was asked for must.
fn group(name: Option<&str>) -> Result<Option<u32>, ListenError> {
    let wanted = name.filter(|name| !name.is_empty());
    if let Some(id) = wanted.and_then(|name| name.parse().ok()) {
        return Ok(Some(id));
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = group_id(&groups, wanted.unwrap_or("docker"));
    match (found, wanted) {
        (None, Some(name)) => Err(ListenError::NoGroup { name: name.to_owned() }),
        (found, _) => Ok(found),
    }
}

fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Serves one socket until `stop`. Connections are counted by `connections`.
pub async fn serve(listener: Listener, router: Router, stop: CancellationToken, connections: TaskTracker) {
    let handshakes = Handshakes::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            match accepted {
                Accepted::Unix(peer) => {
                    connection(peer.clone(), peer, Caller::Known, router, stop).await;
                }
                Accepted::Plain(peer) => {
                    connection(peer.clone(), peer, Caller::Anybody, router, stop).await;
                }
                Accepted::Tls { peer, address, acceptor, handshake } => {
                    let secured = tokio::select! {
                        secured = tokio::time::timeout(HANDSHAKE, acceptor.current().accept(peer.clone())) => secured,
                        () = handshake.let_go() => return,
                    };
                    drop(handshake);
                    match secured {
                        Ok(Ok(stream)) => connection(stream, peer, Caller::Known, router, stop).await,
                        Ok(Err(error)) => tracing::info!(%address, %error, "A TLS handshake failed"),
                        Err(_) => tracing::info!(%address, "A TLS handshake took too long"),
                    }
                }
            }
        });
    }
    if let Listener::Unix { path, .. } = &listener {
        // It may be gone already.
        let _ = fs::remove_file(path);
    }
}

enum Accepted {
    Unix(Peer),
    Plain(Peer),
    Tls { peer: Peer, address: SocketAddr, acceptor: Acceptor, handshake: Handshake },
}

async fn accept(listener: &Listener, handshakes: &Handshakes) -> io::Result<Accepted> {
    match listener {
        Listener::Unix { socket, .. } => Ok(Accepted::Unix(socket.accept().await?.0.into())),
        Listener::Plain(socket) => Ok(Accepted::Plain(socket.accept().await?.0.into())),
        Listener::Tls(socket, acceptor) => {
            let (stream, address) = socket.accept().await?;
            let handshake = handshakes.begin(address.ip());
            Ok(Accepted::Tls { peer: stream.into(), address, acceptor: acceptor.clone(), handshake })
        }
    }
}

/// Serves one connection: `stream` is what it carries, `peer` who is at its other end.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    caller: Caller,
    router: Router,
    stop: CancellationToken,
) {
    let taken_over = TakenOver::default();
    let stream = Lingering::new(stream, taken_over.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (router, taken_over, peer) = (router.clone(), taken_over.clone(), peer.clone());
        async move {
            request.extensions_mut().insert(peer.clone());
            let response = tokio::select! {
                response = api::respond(router, request, caller) => response,
                // What the request has begun goes on without the one who wanted it.
                () = peer.gone() => return Err(Gone),
            };
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                taken_over.set();
            }
            let Some(&endless) = response.extensions().get::<api::Endless>() else { return Ok(response) };
            let ended = Box::pin(async move {
                match endless {
                    api::Endless::HalfClosed => peer.ended().await,
                    api::Endless::Gone => peer.gone().await,
                }
            });
            Ok(response.map(|body| Body::from_stream(body.into_data_stream().take_until(ended))))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(LONGEST_HEADERS)
        // A client may close its half of the connection when it has said all, and read the answer then.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "A connection ended early");
    }
}

/// The client went before its answer was there.
#[derive(Debug, thiserror::Error)]
#[error("The client is gone")]
struct Gone;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn groups_are_found_without_the_c_library() {
        let groups = "root:x:0:\ndocker:x:998:alice,bob\ndockerish:x:7:\nbroken\n";
        assert_eq!(group_id(groups, "docker"), Some(998));
        assert_eq!(group_id(groups, "broken"), None);
        assert_eq!(group_id(groups, "nobody"), None);
    }

    #[test]
    fn only_dead_sockets_make_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/engine.sock");
        make_way(&path).unwrap();
        let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(make_way(&path), Err(ListenError::InUse { .. })));
        drop(living);
        make_way(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        make_way(&path).unwrap();
        assert!(path.exists(), "what is not a socket is left alone");
    }
}
