//! The services of `/grpc`: takes calls of HTTP/2 to what answers them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http2::Builder as Http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::control::Control;
use super::gateway;
use super::grpc::{Code, Outgoing, Reading, Status, fine, framed};
use super::job::Job;
use super::messages::control::{
    DiskUsageRequest, HealthCheckResponse, PruneRequest, SolveRequest, StatusRequest,
};
use super::messages::gateway::{ReturnRequest, SolveRequest as GatewaySolveRequest};
use super::progress::Progress;

/// A client that answers no ping for as long is taken for gone.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_WITHIN: Duration = Duration::from_secs(30);
const MOST_CALLS: u32 = 128;
const LONGEST_HEADERS: u32 = 64 << 10;
/// So many messages of a stream wait for the client.
const WAITING: usize = 16;
/// By this header a call says which build it is about.
const BUILD: &str = "buildkit-controlapi-buildid";

/// A message without anything in it.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

impl Control {
    /// Serves a connection until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let control = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let control = control.clone();
            async move { Ok::<_, Infallible>(control.answer(request).await) }
        });
        let connection = Http2::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .max_concurrent_streams(MOST_CALLS)
            .max_header_list_size(LONGEST_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "A connection for builds ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Outgoing> {
        let (parts, body) = request.into_parts();
        let body = self.route(parts.uri.path(), &parts.headers, Reading::request(body)).await;
        let mut response = Response::new(body.unwrap_or_else(|status| {
            tracing::debug!(path = parts.uri.path(), %status, "A call failed");
            Outgoing::failed(&status)
        }));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    async fn route(&self, path: &str, headers: &HeaderMap, mut body: Reading) -> Result<Outgoing, Status> {
        match path {
            "/moby.buildkit.v1.Control/Solve" => {
                let request = body.one::<SolveRequest>().await?;
                Ok(Outgoing::answer(&self.solve(request).await?))
            }
            "/moby.buildkit.v1.Control/Status" => {
                let request = body.one::<StatusRequest>().await?;
                Ok(status(self.jobs.watch(&request.reference).await?))
            }
            "/moby.buildkit.v1.Control/ListWorkers" => Ok(Outgoing::answer(&self.workers())),
            "/moby.buildkit.v1.Control/Info" => Ok(Outgoing::answer(&Self::info())),
            "/moby.buildkit.v1.Control/DiskUsage" => {
                let request = body.one::<DiskUsageRequest>().await?;
                Ok(Outgoing::answer(&self.usage(request).await?))
            }
            "/moby.buildkit.v1.Control/Prune" => {
                let request = body.one::<PruneRequest>().await?;
                let frames =
                    self.prune(request).await?.into_iter().map(|record| Frame::data(framed(&record)));
                Ok(Outgoing::ready(frames.chain([fine()])))
            }
            "/moby.buildkit.v1.frontend.LLBBridge/Ping" => {
                self.job(headers).await?;
                Ok(Outgoing::answer(&gateway::ping(self.worker())))
            }
            "/moby.buildkit.v1.frontend.LLBBridge/Solve" => {
                let job = self.job(headers).await?;
                let request = body.one::<GatewaySolveRequest>().await?;
                Ok(Outgoing::answer(&gateway::solve(&self.builder, &job, request).await?))
            }
            "/moby.buildkit.v1.frontend.LLBBridge/Return" => {
                let job = self.job(headers).await?;
                job.finish(body.one::<ReturnRequest>().await?)?;
                Ok(Outgoing::answer(&Nothing {}))
            }
            "/grpc.health.v1.Health/Check" => Ok(Outgoing::answer(&HealthCheckResponse { status: 1 })),
            other => {
                let message = format!("`{other}` is not supported by this engine");
                Err(Status::new(Code::Unimplemented, message))
            }
        }
    }

    /// The build that a call is about.
    async fn job(&self, headers: &HeaderMap) -> Result<Arc<Job>, Status> {
        let name = headers.get(BUILD).and_then(|name| name.to_str().ok());
        let missing = || Status::new(Code::InvalidArgument, format!("the header `{BUILD}` is missing"));
        self.jobs.get(name.ok_or_else(missing)?).await
    }
}

/// Tells what becomes of a build, from its beginning to its end.
fn status(progress: Progress) -> Outgoing {
    let (frames, receiver) = mpsc::channel::<Frame<Bytes>>(WAITING);
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            let told = tokio::select! {
                told = progress.after(seen) => told,
                () = frames.closed() => return,
            };
            let Some(told) = told else { break };
            seen += told.len();
            for message in told {
                if frames.send(Frame::data(framed(&*message))).await.is_err() {
                    return;
                }
            }
        }
        let _ = frames.send(fine()).await;
    });
    Outgoing::stream(receiver)
}
