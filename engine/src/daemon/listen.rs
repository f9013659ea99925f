//! Sockets of the API: opened before anything else starts, then served until the daemon stops.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Gid, Mode, Uid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::linger::{Lingering, TakenOver};
use super::tls::Acceptor;
use crate::api;
use crate::config::{Config, Host};

/// A client that has not finished its TLS handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As dockerd. It is also how long an idle connection stays open.
const HEADERS: Duration = Duration::from_mins(5);
/// Strangers can make at most so many handshakes at once.
const MOST_HANDSHAKES: usize = 128;
const LONGEST_HEADERS: usize = 64 * 1024;
/// After an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

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
    let handshakes = Arc::new(Semaphore::new(MOST_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "Could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            match stream {
                Accepted::Unix(stream) => connection(stream, router, stop).await,
                Accepted::Plain(stream) => connection(stream, router, stop).await,
                Accepted::Tls(stream, acceptor, permit) => {
                    let peer = stream.peer_addr();
                    match tokio::time::timeout(HANDSHAKE, acceptor.current().accept(stream)).await {
                        Ok(Ok(stream)) => {
                            drop(permit);
                            connection(stream, router, stop).await;
                        }
                        Ok(Err(error)) => tracing::info!(?peer, %error, "A TLS handshake failed"),
                        Err(_) => tracing::info!(?peer, "A TLS handshake took too long"),
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
    Unix(tokio::net::UnixStream),
    Plain(tokio::net::TcpStream),
    Tls(tokio::net::TcpStream, Acceptor, tokio::sync::OwnedSemaphorePermit),
}

async fn accept(listener: &Listener, handshakes: &Arc<Semaphore>) -> io::Result<Accepted> {
    match listener {
        Listener::Unix { socket, .. } => Ok(Accepted::Unix(socket.accept().await?.0)),
        Listener::Plain(socket) => Ok(Accepted::Plain(without_delay(socket.accept().await?.0))),
        Listener::Tls(socket, acceptor) => {
            let permit = Arc::clone(handshakes).acquire_owned().await.map_err(io::Error::other)?;
            Ok(Accepted::Tls(without_delay(socket.accept().await?.0), acceptor.clone(), permit))
        }
    }
}

/// Interactive sessions send single keys.
fn without_delay(stream: tokio::net::TcpStream) -> tokio::net::TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "Could not set TCP_NODELAY");
    }
    stream
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let taken_over = TakenOver::default();
    let stream = Lingering::new(stream, taken_over.clone());
    let service = service_fn(move |request| {
        let (router, taken_over) = (router.clone(), taken_over.clone());
        async move {
            let response = api::respond(router, request).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                taken_over.set();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(LONGEST_HEADERS)
        // A client ends its input by closing its half of the connection.
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
