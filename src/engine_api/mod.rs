//! The engine's API, as far as `machine` itself speaks it: over TCP with our certificates on both sides, or, for hosts
//! without TLS, as their URL says.
//!
//! The server must show a certificate of the given authority that is valid for the address in the URL; the system's
//! authorities count for nothing. Every layer has its own time limit and its own error.

mod connection;
mod error;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

pub use error::EngineError;

use connection::{Address, Way};

/// The answers that are asked for here have some hundred bytes.
const ANSWER_AT_MOST: usize = 1024 * 1024;

/// How long each layer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Looking up the name and connecting to the port.
    pub connect: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// From the request to the end of the answer.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(15),
            answer: Duration::from_secs(20),
        }
    }
}

/// What the engine says of itself: short texts of printable ASCII, whatever it sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    /// The engine's version, such as `0.1.0`. There is no engine that does not say it.
    #[serde(deserialize_with = "some_word")]
    pub version: String,
    /// The newest version of the API that it speaks.
    #[serde(default, deserialize_with = "word")]
    pub api_version: String,
    /// The oldest one.
    #[serde(rename = "MinAPIVersion", default, deserialize_with = "word")]
    pub min_api_version: String,
    #[serde(default, deserialize_with = "word")]
    pub os: String,
    #[serde(default, deserialize_with = "word")]
    pub arch: String,
    #[serde(default, deserialize_with = "word")]
    pub kernel_version: String,
}

/// Characters that are kept of anything that an engine says of itself; the longest that is known has thirty.
const WORD_AT_MOST: usize = 80;

fn cleaned(text: &str) -> String {
    let shown = |character: &char| character.is_ascii_graphic() || *character == ' ';
    text.chars().filter(shown).take(WORD_AT_MOST).collect::<String>().trim().to_owned()
}

fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(cleaned(&String::deserialize(deserializer)?))
}

fn some_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match word(deserializer)? {
        empty if empty.is_empty() => Err(D::Error::custom("it says no version")),
        version => Ok(version),
    }
}

/// Asks one engine. Cheap to build; every question is a connection of its own.
#[derive(Clone)]
pub struct EngineClient {
    way: Way,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    limits: Limits,
}

impl std::fmt::Debug for EngineClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EngineClient")
            .field("way", &self.way)
            .field("tls", &self.tls.is_some())
            .field("limits", &self.limits)
            .finish()
    }
}

impl EngineClient {
    /// A client for `tcp://HOST:PORT` with mutual TLS.
    pub fn new(url: &str, ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, EngineError> {
        let address = Address::parse(url)?;
        let tls = connection::client_config(ca_pem, certificate_pem, key_pem)?;
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| EngineError::Url { url: url.to_owned() })?;
        Ok(Self { way: Way::Tcp(address), tls: Some((Arc::new(tls), name)), limits: Limits::default() })
    }

    /// A client for an engine that speaks plain HTTP: `tcp://HOST:PORT`, or `unix://PATH` on systems that have such sockets.
    pub fn plain(url: &str) -> Result<Self, EngineError> {
        Ok(Self { way: Way::parse(url)?, tls: None, limits: Limits::default() })
    }

    /// The same client with other time limits.
    #[cfg(test)]
    fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What the engine says of itself.
    pub async fn version(&self) -> Result<Version, EngineError> {
        self.get_json("/version").await
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let (_, body) = self.get(path).await?;
        serde_json::from_slice(&body)
            .map_err(|source| EngineError::Answer { address: self.way.to_string(), source })
    }

    async fn get(&self, path: &str) -> Result<(HeaderMap, Bytes), EngineError> {
        match &self.way {
            Way::Tcp(address) => {
                let stream = connection::connect(address, self.limits.connect).await?;
                match &self.tls {
                    Some((config, name)) => {
                        let limit = self.limits.handshake;
                        let stream = connection::handshake(address, config, name, stream, limit).await?;
                        self.answered(stream, path).await
                    }
                    None => self.answered(stream, path).await,
                }
            }
            #[cfg(unix)]
            Way::Socket(socket) => {
                let stream = connection::connect_socket(socket, self.limits.connect).await?;
                self.answered(stream, path).await
            }
        }
    }

    /// Asks, and waits for the answer as long as it may take.
    async fn answered<S>(&self, stream: S, path: &str) -> Result<(HeaderMap, Bytes), EngineError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let after = self.limits.answer;
        timeout(after, self.exchange(stream, path))
            .await
            .unwrap_or_else(|_| Err(EngineError::AnswerTimeout { address: self.way.to_string(), after }))
    }

    async fn exchange<S>(&self, stream: S, path: &str) -> Result<(HeaderMap, Bytes), EngineError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| self.broken(error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let host = match &self.way {
            Way::Tcp(address) => address.to_string(),
            #[cfg(unix)]
            Way::Socket(_) => "localhost".to_owned(),
        };
        let request = Request::get(path)
            .header(HOST, host)
            .body(Empty::<Bytes>::new())
            .map_err(|_| EngineError::Url { url: self.way.to_string() })?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_AT_MOST).collect().await.map_err(|error| match error
                .downcast::<hyper::Error>(
            ) {
                Ok(error) => self.broken(*error),
                Err(error) => {
                    debug_assert!(error.is::<LengthLimitError>());
                    EngineError::TooLong { address: self.way.to_string(), limit: ANSWER_AT_MOST }
                }
            })?;
            Ok((head, body.to_bytes()))
        };
        // The connection has to be driven while the answer is awaited; its own error comes back with the answer.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        let (head, body) = tokio::select! {
            answer = answer => answer?,
            () = driven => unreachable!("it never ends"),
        };
        if head.status == StatusCode::OK {
            return Ok((head.headers, body));
        }
        Err(EngineError::Status {
            address: self.way.to_string(),
            status: head.status.as_u16(),
            message: error_message(&body),
        })
    }

    fn broken(&self, error: hyper::Error) -> EngineError {
        connection::from_hyper(&self.way, error, self.tls.is_some())
    }
}

/// `{"message": …}`, else the beginning of whatever was said.
fn error_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let text = match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(300).collect()
}

#[cfg(test)]
mod tests;
