//! The client of a build, called as a gRPC server over the connection that it has opened for that.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::grpc::{Code, Outgoing, Reading, Status, status_of_headers};

/// A client that answers no ping for as long is taken for gone.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_WITHIN: Duration = Duration::from_secs(30);
/// How long a single answer may take. Credential helpers may ask people.
const ANSWER: Duration = Duration::from_mins(2);
/// So many frames wait for the connection.
const WAITING: usize = 32;

/// Calls the client. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    sender: SendRequest<Outgoing>,
    /// Cancelled when the connection has ended.
    pub(crate) gone: CancellationToken,
}

/// What goes with a call.
pub(crate) type Metadata = Vec<(HeaderName, HeaderValue)>;

impl Caller {
    /// Begins to speak HTTP/2; the connection is worked on until it ends.
    pub(crate) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(Self, impl Future<Output = ()> + Send), Status> {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .keep_alive_while_idle(true)
            .adaptive_window(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| {
                Status::new(Code::Unavailable, format!("Could not begin the session: {error}"))
            })?;
        let gone = CancellationToken::new();
        let end = gone.clone().drop_guard();
        let work = async move {
            let _end = end;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "A session ended early");
            }
        };
        Ok((Self { sender, gone }, work))
    }

    async fn send(&self, path: &str, metadata: Metadata, body: Outgoing) -> Result<Reading, Status> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = format!("http://localhost{path}")
            .parse()
            .map_err(|_| Status::new(Code::Internal, format!("`{path}` is no method")))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        for (name, value) in metadata {
            headers.append(name, value);
        }
        let gone = || Status::new(Code::Unavailable, "the client of this build is gone");
        let mut sender = self.sender.clone();
        let answer = async {
            sender.ready().await.map_err(|_| gone())?;
            sender.send_request(request).await.map_err(|error| {
                if self.gone.is_cancelled() || error.is_closed() || error.is_canceled() {
                    return gone();
                }
                Status::new(Code::Unavailable, format!("the client did not answer `{path}`: {error}"))
            })
        };
        let answer = tokio::select! {
            answer = answer => answer?,
            () = self.gone.cancelled() => return Err(gone()),
        };
        if answer.status() != StatusCode::OK {
            let message = format!("the client answered `{path}` by {}", answer.status());
            return Err(Status::new(Code::Unknown, message));
        }
        if let Some(status) = status_of_headers(answer.headers()) {
            return Err(status);
        }
        Ok(Reading::answer(answer.into_body()))
    }

    /// One message there, one back.
    pub(crate) async fn ask<M: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<M, Status> {
        let answer = async {
            let mut answer = self.send(path, Vec::new(), Outgoing::one(message)).await?;
            let message = answer.one().await?;
            // What follows is the status.
            if answer.next::<M>().await?.is_some() {
                return Err(Status::new(Code::Internal, format!("the client answered `{path}` twice")));
            }
            Ok(message)
        };
        tokio::time::timeout(ANSWER, answer)
            .await
            .map_err(|_| Status::new(Code::DeadlineExceeded, format!("the client did not answer `{path}`")))?
    }

    /// Messages both ways. The answers may come as late as the first of them.
    pub(crate) fn converse(
        &self,
        path: &'static str,
        metadata: Metadata,
    ) -> (mpsc::Sender<Frame<Bytes>>, impl Future<Output = Result<Reading, Status>> + Send + 'static) {
        let (requests, receiver) = mpsc::channel(WAITING);
        let caller = self.clone();
        (requests, async move { caller.send(path, metadata, Outgoing::stream(receiver)).await })
    }
}
