//! What gRPC puts around messages: frames, and statuses in headers or trailers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use engine_model::Failure;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use tokio::sync::mpsc;

use super::messages::{Any, RpcStatus};

/// What gRPC's own implementations take by default.
pub(crate) const LARGEST_MESSAGE: usize = 4 << 20;
const HEAD: usize = 5;
const LONGEST_TEXT: usize = 16 * 1024;
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// gRPC's codes, as far as they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// Why a call failed, as gRPC says it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Status {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) details: Vec<Any>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }

    pub(crate) fn is(&self, code: Code) -> bool {
        self.code == code as i32
    }

    /// What headers or trailers say; `None` if all went well.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = match text("grpc-status") {
            Some("0") => return None,
            Some(code) => code.parse().unwrap_or(Code::Unknown as i32),
            None => Code::Unknown as i32,
        };
        let details = text("grpc-status-details-bin")
            .filter(|text| text.len() <= LARGEST_MESSAGE)
            .and_then(|text| BASE64.decode(text).ok())
            .and_then(|bytes| RpcStatus::decode(bytes.as_slice()).ok())
            .map_or_else(Vec::new, |status| status.details);
        let mut message = percent_decoded(text("grpc-message").unwrap_or("no reason was given"));
        message.truncate(message.floor_char_boundary(LONGEST_TEXT));
        Some(Self { code, message, details })
    }

    /// The trailers that say it.
    fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                trailers.insert(HeaderName::from_static(name), value);
            }
        };
        put("grpc-status", &self.code.to_string());
        put("grpc-message", &percent_encoded(&self.message));
        if !self.details.is_empty() {
            let whole =
                RpcStatus { code: self.code, message: self.message.clone(), details: self.details.clone() };
            put("grpc-status-details-bin", &BASE64.encode(whole.encode_to_vec()));
        }
        trailers
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        // A client puts the names of all other codes in front of the message.
        Self::new(Code::Unknown, failure.message)
    }
}

impl From<RpcStatus> for Status {
    fn from(status: RpcStatus) -> Self {
        Self { code: status.code, message: status.message, details: status.details }
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> String {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) if byte == b'%' => {
                decoded.push(code);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A message in its frame.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.put_u8(0);
    // Nothing of that size is ever sent: pieces are small, and statuses bounded.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // It grows as far as it has to.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// Messages as they come.
pub(crate) struct Reading<B = Incoming> {
    body: B,
    buffer: BytesMut,
    /// An answer ends with a status; a request does not.
    is_answer: bool,
    is_over: bool,
}

impl<B> fmt::Debug for Reading<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reading").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<B> Reading<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    pub(crate) fn request(body: B) -> Self {
        Self { body, buffer: BytesMut::new(), is_answer: false, is_over: false }
    }

    pub(crate) fn answer(body: B) -> Self {
        Self { body, buffer: BytesMut::new(), is_answer: true, is_over: false }
    }

    /// The next message; `None` after the last one.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                return Ok(Some(message));
            }
            if self.is_over {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Status::new(Code::Internal, "a message was cut off in the middle"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.is_over = true;
                        if self.is_answer
                            && let Some(status) = Status::of(&trailers)
                        {
                            return Err(status);
                        }
                    }
                },
                Some(Err(error)) => {
                    return Err(Status::new(Code::Unavailable, format!("the connection broke: {error}")));
                }
                None if self.is_answer => {
                    return Err(Status::new(
                        Code::Unavailable,
                        "the connection ended in the middle of an answer",
                    ));
                }
                None => self.is_over = true,
            }
        }
    }

    /// The only message.
    pub(crate) async fn one<M: Message + Default>(&mut self) -> Result<M, Status> {
        let message = self.next().await?;
        message.ok_or_else(|| Status::new(Code::Internal, "a message was expected, and none came"))
    }
}

/// Takes a whole message off the front, if there is one.
pub(crate) fn take<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, Status> {
    let Some(head) = buffer.get(..HEAD) else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 {
        return Err(Status::new(Code::Unimplemented, "compressed messages are not supported by this engine"));
    }
    if length > LARGEST_MESSAGE {
        let message = format!("a message of {length} bytes is longer than {LARGEST_MESSAGE}");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let bytes = buffer.split_to(length).freeze();
    let message = M::decode(bytes).map_err(|error| {
        Status::new(Code::InvalidArgument, format!("a message is not understood: {error}"))
    })?;
    Ok(Some(message))
}

/// What is sent: some frames, and those that a channel brings.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    ready: VecDeque<Frame<Bytes>>,
    more: Option<mpsc::Receiver<Frame<Bytes>>>,
}

impl Outgoing {
    /// One message, and nothing after it.
    pub(crate) fn one(message: &impl Message) -> Self {
        Self { ready: [Frame::data(framed(message))].into(), more: None }
    }

    /// An answer of one message.
    pub(crate) fn answer(message: &impl Message) -> Self {
        Self { ready: [Frame::data(framed(message)), fine()].into(), more: None }
    }

    pub(crate) fn failed(status: &Status) -> Self {
        Self { ready: [failed(status)].into(), more: None }
    }

    pub(crate) fn ready(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        Self { ready: frames.into_iter().collect(), more: None }
    }

    pub(crate) fn stream(more: mpsc::Receiver<Frame<Bytes>>) -> Self {
        Self { ready: VecDeque::new(), more: Some(more) }
    }
}

/// The end of an answer.
pub(crate) fn fine() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    Frame::trailers(trailers)
}

/// The end of an answer that is none.
pub(crate) fn failed(status: &Status) -> Frame<Bytes> {
    Frame::trailers(status.trailers())
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.more {
            Some(more) => more.poll_recv(context).map(|frame| frame.map(Ok)),
            None => Poll::Ready(None),
        }
    }
}

/// What the headers of an answer say by themselves.
pub(crate) fn status_of_headers(headers: &HeaderMap) -> Option<Status> {
    headers.contains_key("grpc-status").then(|| Status::of(headers)).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::messages::session::BytesMessage;
    use super::*;

    #[test]
    fn statuses_come_back_as_they_were() {
        let details = vec![Any { type_url: "x".to_owned(), value: vec![1, 2, 3] }];
        let status = Status { details, ..Status::new(Code::NotFound, "50% of \"ä\"\nare gone") };
        assert_eq!(Status::of(&status.trailers()).unwrap(), status);
        assert_eq!(Status::of(fine().trailers_ref().unwrap()), None);
        assert_eq!(percent_decoded("100%"), "100%");
    }

    #[test]
    fn messages_are_taken_off_whole() {
        let message = BytesMessage { data: b"words".to_vec() };
        let bytes = framed(&message);
        let mut buffer = BytesMut::from(&bytes[..bytes.len() - 1]);
        assert_eq!(take::<BytesMessage>(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&bytes[bytes.len() - 1..]);
        buffer.extend_from_slice(b"\x00\xff\xff\xff\xff");
        assert_eq!(take::<BytesMessage>(&mut buffer).unwrap(), Some(message));
        assert!(take::<BytesMessage>(&mut buffer).unwrap_err().is(Code::ResourceExhausted));
        let mut compressed = BytesMut::from(&b"\x01\x00\x00\x00\x00"[..]);
        assert!(take::<BytesMessage>(&mut compressed).unwrap_err().is(Code::Unimplemented));
    }
}
