//! No answer before its request has been read: whoever still sends would take the closed connection for the answer.
//!
//! ```text
//! request ─▶ Lent body ─▶ handler ─▶ answer
//!                │ dropped before its end       │
//!                └────────▶ returned ──▶ drain ─┴─▶ sent
//! ```
//!
//! A handler that answers while it reads (`docker load`) goes on reading; then the end of its answer waits instead of
//! the beginning. A client that waits to be told before it sends (`Expect: 100-continue`) is told so, or answered, at once.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;

/// How much is read of a request that nobody needs: room for the context of a build, which is refused.
const MOST_BYTES: u64 = 1 << 30;
/// For how long. A client that needs longer gets its answer, and a closed connection.
const LONGEST: Duration = Duration::from_mins(1);

/// What is left of a request's body when its handler is done with it.
#[derive(Debug)]
pub(super) struct Rest<B> {
    returned: oneshot::Receiver<B>,
    /// When the client is told to send, if it waits for that.
    told: Option<oneshot::Receiver<()>>,
}

/// A request's body on loan to a handler. Dropped before its end, it goes back to the [`Rest`].
#[derive(Debug)]
pub(super) struct Lent<B> {
    body: Option<B>,
    give_back: Option<oneshot::Sender<B>>,
    /// The client waits until it is told to send; the first look at the body tells it.
    tell: Option<oneshot::Sender<()>>,
}

/// Lends a body to a handler. Nothing is kept of one that is empty.
pub(super) fn lend<B: HttpBody>(body: B, headers: &HeaderMap) -> (Lent<B>, Rest<B>) {
    let (give_back, returned) = oneshot::channel();
    let waits = headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (tell, told) = waits.then(oneshot::channel).unzip();
    (Lent { body: Some(body), give_back: Some(give_back), tell }, Rest { returned, told })
}

impl<B: HttpBody + Unpin> HttpBody for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if let Some(tell) = self.tell.take() {
            // Nobody listens when the connection is gone.
            let _ = tell.send(());
        }
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        if self.tell.is_some() {
            return;
        }
        if let (Some(body), Some(give_back)) = (self.body.take(), self.give_back.take()) {
            // Nobody takes it back when the connection is gone.
            let _ = give_back.send(body);
        }
    }
}

impl<B> Rest<B>
where
    B: HttpBody + Send + Unpin + 'static,
{
    /// Holds the answer back until the request has been read, within bounds.
    pub(super) async fn before(mut self, response: Response) -> Response {
        // What follows it is no body, but the stream of a process.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        match self.returned.try_recv() {
            Ok(body) => {
                drain(body, MOST_BYTES, LONGEST).await;
                response
            }
            Err(oneshot::error::TryRecvError::Closed) => response,
            Err(oneshot::error::TryRecvError::Empty) => {
                if let Some(told) = self.told.take() {
                    // An error means that it is not read after all.
                    let _ = told.await;
                    // hyper tells the client when it next looks whether the body is wanted; before that it must not
                    // have an answer, which it would send instead.
                    tokio::task::yield_now().await;
                }
                response.map(|answer| self.before_the_end_of(answer))
            }
        }
    }

    fn before_the_end_of(self, answer: Body) -> Body {
        let rest = async {
            if let Ok(body) = self.returned.await {
                drain(body, MOST_BYTES, LONGEST).await;
            }
        };
        Body::new(Held { answer: Some(answer), rest: Some(Box::pin(rest)) })
    }
}

/// An answer whose end waits for the end of the request.
struct Held {
    /// Until it has ended.
    answer: Option<Body>,
    rest: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(answer) = self.answer.as_mut() {
            let frame = ready!(Pin::new(answer).poll_frame(context));
            if frame.is_some() {
                return Poll::Ready(frame);
            }
            self.answer = None;
        }
        if let Some(rest) = self.rest.as_mut() {
            ready!(rest.as_mut().poll(context));
            self.rest = None;
        }
        Poll::Ready(None)
    }
}

/// Reads a body to its end and keeps nothing of it; gives up at either bound.
async fn drain<B: HttpBody + Unpin>(mut body: B, most: u64, longest: Duration) {
    use bytes::Buf;
    let read = async {
        let mut count = 0;
        while let Some(Ok(frame)) = body.frame().await {
            count += frame.data_ref().map_or(0, |data| data.remaining() as u64);
            if count > most {
                tracing::info!(most, "A request is larger than what is read of one that nobody needs");
                return;
            }
        }
    };
    if tokio::time::timeout(longest, read).await.is_err() {
        tracing::info!(?longest, "A request took longer than what is waited for one that nobody needs");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::HeaderValue;
    use axum::response::IntoResponse;
    use futures_util::stream;

    use super::*;

    /// A body of so many pieces of 1 KiB, and how many of them have been read; after the last one it ends, or nothing
    /// ever comes.
    fn body(pieces: usize, ends: bool) -> (Body, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let stream = stream::unfold(0, move |number| {
            let count = Arc::clone(&count);
            async move {
                if number == pieces {
                    if !ends {
                        std::future::pending::<()>().await;
                    }
                    return None;
                }
                count.fetch_add(1, Ordering::Relaxed);
                Some((Ok::<_, Infallible>(vec![0; 1024]), number + 1))
            }
        });
        (Body::from_stream(stream), read)
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_read_before_the_answer() {
        let (body, read) = body(50, true);
        let (lent, rest) = lend(body, &HeaderMap::new());
        drop(lent);
        let answer = rest.before(StatusCode::NOT_IMPLEMENTED.into_response()).await;
        assert_eq!((answer.status(), read.load(Ordering::Relaxed)), (StatusCode::NOT_IMPLEMENTED, 50));
    }

    #[tokio::test]
    async fn an_answer_that_is_under_way_ends_after_the_request() {
        let (body, read) = body(50, true);
        let (mut lent, rest) = lend(body, &HeaderMap::new());
        let answer = rest.before("early".into_response()).await;
        let mut answer = answer.into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "early");
        let ended = tokio::spawn(async move { answer.frame().await.is_none() });
        lent.frame().await.unwrap().unwrap();
        assert!(!ended.is_finished());
        drop(lent);
        assert!(ended.await.unwrap());
        assert_eq!(read.load(Ordering::Relaxed), 50);
    }

    #[tokio::test]
    async fn reading_is_bounded_in_bytes_and_in_time() {
        let (endless, read) = body(usize::MAX, true);
        drain(endless, 10 * 1024, LONGEST).await;
        assert_eq!(read.load(Ordering::Relaxed), 11);
        let (silent, read) = body(3, false);
        drain(silent, MOST_BYTES, Duration::from_millis(50)).await;
        assert_eq!(read.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn who_waits_for_a_word_is_not_waited_for() {
        let mut headers = HeaderMap::new();
        headers.insert(header::EXPECT, HeaderValue::from_static("100-Continue"));
        let (body, read) = body(3, false);
        let (lent, rest) = lend(body, &headers);
        drop(lent);
        rest.before(StatusCode::NOT_IMPLEMENTED.into_response()).await;
        assert_eq!(read.load(Ordering::Relaxed), 0);
    }
}
