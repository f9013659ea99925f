//! The HTTP client: one connection for plain questions, one of its own for each stream.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE, USER_AGENT};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::endpoint::{Address, Endpoint};
use super::failure::{Failure, Outcome};
use super::tls;

/// The body of a request.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// The newest API that this client speaks; the daemon may ask for an older one.
pub(crate) const API_VERSION: &str = "1.51";
/// What a daemon speaks that does not say.
const OLDEST_VERSION: &str = "1.24";
/// The longest answer that is held in memory; lists of everything on a big host stay far below.
const ANSWER_LIMIT: usize = 256 << 20;
const ERROR_LIMIT: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A body of nothing.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A path and its query, both escaped.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

fn escape(out: &mut String, text: &str, kept: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend(
                [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])),
            );
        }
    }
}

impl Target {
    /// The parts are joined with slashes; what a user wrote in them cannot leave its place.
    pub(crate) fn new<const N: usize>(parts: [&str; N]) -> Self {
        let mut text = String::new();
        for part in parts {
            text.push('/');
            let mut escaped = String::with_capacity(part.len());
            escape(&mut escaped, part, b"-_.~/:@");
            // Names of images hold slashes; dots alone would climb.
            if part.split('/').any(|piece| piece == ".." || piece == ".") {
                escaped = escaped.replace('.', "%2E");
            }
            text.push_str(&escaped);
        }
        Self { text, has_query: false }
    }

    /// Adds a parameter.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        escape(&mut self.text, name, b"-_.~");
        self.text.push('=');
        escape(&mut self.text, value, b"-_.~");
        self
    }

    /// Adds a parameter that is 1, if `set`.
    #[must_use]
    pub(crate) fn with_flag(self, name: &str, set: bool) -> Self {
        if set { self.with(name, "1") } else { self }
    }

    /// Adds a parameter, if there is a value.
    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

/// What the daemon says of itself before anything is asked.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) api_version: String,
}

/// A daemon to talk to.
pub(crate) struct Client {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The folder of the user's files, if it is named.
    config: Option<PathBuf>,
    greeting: Mutex<Option<Greeting>>,
    idle: Mutex<Option<SendRequest<Body>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Client {
    /// A client of this daemon; nothing is sent yet.
    pub(crate) fn new(endpoint: Endpoint, config: Option<PathBuf>) -> Outcome<Self> {
        let tls = match (&endpoint.tls, &endpoint.address) {
            (Some(files), Address::Tcp { host, .. }) => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| Failure::Setting(format!("`{host}` is not a host name or address")))?;
                Some((TlsConnector::from(tls::configure(files)?), name))
            }
            _ => None,
        };
        Ok(Self { endpoint, tls, config, greeting: Mutex::new(None), idle: Mutex::new(None) })
    }

    /// The folder of the user's files, if the command line names one.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn no_connection(&self, error: io::Error) -> Failure {
        let host = self.endpoint.text.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Forbidden { host },
            _ if matches!(self.endpoint.address, Address::Unix(_)) => Failure::Unreachable { host },
            io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => Failure::Unreachable { host },
            _ => Failure::Connection { host, source: Box::new(error) },
        }
    }

    fn broken(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::Connection { host: self.endpoint.text.clone(), source: error.into() }
    }

    async fn connect(&self) -> Outcome<SendRequest<Body>> {
        let connecting = async {
            Ok::<Box<dyn Stream>, io::Error>(match &self.endpoint.address {
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    match &self.tls {
                        Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
                        None => Box::new(stream),
                    }
                }
            })
        };
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(outcome) => outcome.map_err(|error| self.no_connection(error))?,
            Err(_) => return Err(self.no_connection(io::ErrorKind::TimedOut.into())),
        };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(async move {
            // Its errors reach whoever waits for the answer.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    /// A connection that can take a request: the last one if it is still good.
    async fn sender(&self) -> Outcome<SendRequest<Body>> {
        let kept = self.idle.lock().await.take();
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        self.connect().await
    }

    fn authority(&self) -> String {
        match &self.endpoint.address {
            Address::Unix(_) => "api.moby.localhost".to_owned(),
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Outcome<Request<Body>> {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.authority())
            .header(USER_AGENT, concat!("engine-client/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(body).map_err(|error| self.broken(error))
    }

    /// Asks the daemon who it is, once.
    pub(crate) async fn greet(&self) -> Outcome<Greeting> {
        let mut known = self.greeting.lock().await;
        if let Some(greeting) = known.as_ref() {
            return Ok(greeting.clone());
        }
        if let Some(version) = std::env::var("DOCKER_API_VERSION").ok().filter(|version| !version.is_empty())
        {
            return Ok(known
                .insert(Greeting { api_version: version.trim_start_matches('v').to_owned() })
                .clone());
        }
        let mut sender = self.sender().await?;
        let request = self.request(Method::HEAD, "/_ping", &[], empty())?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let theirs = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        let api_version = older(theirs.unwrap_or(OLDEST_VERSION), API_VERSION).to_owned();
        self.finish(response, sender).await?;
        Ok(known.insert(Greeting { api_version }).clone())
    }

    /// Reads the rest of an answer, so that the connection can be used again.
    async fn finish(&self, response: Response<Incoming>, sender: SendRequest<Body>) -> Outcome<Bytes> {
        let bytes = self.collect(response, ANSWER_LIMIT).await?;
        *self.idle.lock().await = Some(sender);
        Ok(bytes)
    }

    async fn collect(&self, response: Response<Incoming>, limit: usize) -> Outcome<Bytes> {
        if response.body().size_hint().lower() > limit as u64 {
            return Err(Failure::Answer(format!("it is longer than {limit} bytes")));
        }
        let limited = http_body_util::Limited::new(response.into_body(), limit);
        match limited.collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// Sends a request and returns the answer's head, if it is not an error.
    async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Outcome<(Response<Incoming>, SendRequest<Body>)> {
        let version = self.greet().await?.api_version;
        let path = format!("/v{version}{}", target.text);
        let mut sender = self.sender().await?;
        let request = self.request(method, &path, headers, body)?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let bytes = self.collect(response, ERROR_LIMIT).await.unwrap_or_default();
            return Err(Failure::Daemon { status: status.as_u16(), message: message(status, &bytes) });
        }
        Ok((response, sender))
    }

    async fn json(&self, method: Method, target: &Target, body: Option<&Value>) -> Outcome<Value> {
        let (headers, body): (&[(&str, &str)], Body) = match body {
            Some(value) => (&[(CONTENT_TYPE.as_str(), "application/json")], full(value.to_string())),
            None => (&[], empty()),
        };
        self.json_with(method, target, headers, body).await
    }

    async fn json_with(
        &self,
        method: Method,
        target: &Target,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Outcome<Value> {
        let (response, sender) = self.send(method, target, headers, body).await?;
        let bytes = self.finish(response, sender).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| Failure::Answer(error.to_string()))
    }

    pub(crate) async fn get(&self, target: &Target) -> Outcome<Value> {
        self.json(Method::GET, target, None).await
    }

    pub(crate) async fn get_with(&self, target: &Target, headers: &[(&str, &str)]) -> Outcome<Value> {
        self.json_with(Method::GET, target, headers, empty()).await
    }

    pub(crate) async fn post(&self, target: &Target, body: Option<&Value>) -> Outcome<Value> {
        self.json(Method::POST, target, body).await
    }

    pub(crate) async fn delete(&self, target: &Target) -> Outcome<Value> {
        self.json(Method::DELETE, target, None).await
    }

    /// The head of an answer, of which the body, if any, is not wanted.
    pub(crate) async fn head(&self, target: &Target) -> Outcome<hyper::HeaderMap> {
        let (response, sender) = self.send(Method::HEAD, target, &[], empty()).await?;
        let headers = response.headers().clone();
        self.finish(response, sender).await?;
        Ok(headers)
    }

    /// An answer that is read as it comes, on a connection of its own.
    pub(crate) async fn stream(
        &self,
        method: Method,
        target: &Target,
        content_type: Option<&str>,
        body: Body,
    ) -> Outcome<Response<Incoming>> {
        let headers: Vec<(&str, &str)> =
            content_type.map(|value| (CONTENT_TYPE.as_str(), value)).into_iter().collect();
        self.stream_with(method, target, &headers, body).await
    }

    /// The same with headers of the caller's.
    pub(crate) async fn stream_with(
        &self,
        method: Method,
        target: &Target,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Outcome<Response<Incoming>> {
        let (response, _sender) = self.send(method, target, headers, body).await?;
        Ok(response)
    }

    /// Asks to turn the connection into a raw stream in both directions.
    pub(crate) async fn hijack(&self, target: &Target, body: Option<&Value>) -> Outcome<Upgraded> {
        let headers = [
            (CONTENT_TYPE.as_str(), "application/json"),
            (CONNECTION.as_str(), "Upgrade"),
            (UPGRADE.as_str(), "tcp"),
        ];
        let body = body.map_or_else(empty, |value| full(value.to_string()));
        let (response, _sender) = self.send(Method::POST, target, &headers, body).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Answer(format!(
                "unable to upgrade to tcp, received {}",
                response.status().as_u16()
            )));
        }
        hyper::upgrade::on(response).await.map_err(|error| self.broken(error))
    }
}

/// The smaller of two versions like 1.51.
fn older<'a>(first: &'a str, second: &'a str) -> &'a str {
    let parts = |version: &str| -> Option<(u32, u32)> {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match (parts(first), parts(second)) {
        (Some(one), Some(two)) if one < two => first,
        _ => second,
    }
}

/// The message in the body of an error.
fn message(status: StatusCode, body: &[u8]) -> String {
    let parsed: Option<String> = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| value.get("message").and_then(Value::as_str).map(str::to_owned));
    let text = parsed.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    if text.is_empty() { status.canonical_reason().unwrap_or("unknown error").to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_escaped() {
        let target = Target::new(["images", "foo/bar:1@sha256:ab", "json"])
            .with("filters", "{\"a\":1}")
            .with_flag("x", true);
        assert_eq!(target.text, "/images/foo/bar:1@sha256:ab/json?filters=%7B%22a%22%3A1%7D&x=1");
        assert_eq!(Target::new(["containers", "a b?c#d", "json"]).text, "/containers/a%20b%3Fc%23d/json");
        assert!(!Target::new(["containers", "../../version", "json"]).text.contains("/.."));
    }

    #[test]
    fn the_older_version_is_spoken() {
        assert_eq!(older("1.41", "1.51"), "1.41");
        assert_eq!(older("1.9", "1.51"), "1.9");
        assert_eq!(older("1.99", "1.51"), "1.51");
        assert_eq!(older("nonsense", "1.51"), "1.51");
    }

    #[test]
    fn errors_are_read_in_any_form() {
        assert_eq!(
            message(StatusCode::NOT_FOUND, b"{\"message\":\"No such container: x\"}"),
            "No such container: x"
        );
        assert_eq!(message(StatusCode::BAD_REQUEST, b"plain\n"), "plain");
        assert_eq!(message(StatusCode::CONFLICT, b""), "Conflict");
    }
}
