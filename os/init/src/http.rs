//! A small HTTP/1.1 client for the metadata service: one request for each connection, bounded in bytes and in time.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Status line and headers of one answer; servers themselves accept 8 KiB or so.
const HEAD_BOUND: u64 = 16 * 1024;
/// A chunk of one byte takes six on the wire.
const CHUNK_OVERHEAD: u64 = 6;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("Could not connect to `{address}`")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("Could not send the request")]
    Send { source: io::Error },
    #[error("Could not read the answer")]
    Receive { source: io::Error },
    #[error("The answer has more than {bound} bytes")]
    Large { bound: u64 },
    #[error("The answer is not HTTP: {reason}")]
    Malformed { reason: &'static str },
}

/// What is asked for. Path and headers are ours or were checked: they go out as they are.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// The most bytes that the body of the answer may have.
    pub(crate) bound: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends a request and reads the whole answer, all of it within `patience`.
pub(crate) fn send(
    address: SocketAddr,
    request: &Request,
    patience: Duration,
) -> Result<Response, HttpError> {
    let until = Instant::now() + patience;
    let stream = TcpStream::connect_timeout(&address, patience)
        .map_err(|source| HttpError::Connect { address, source })?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: */*\r\nContent-Length: 0\r\n",
        request.method,
        request.path,
        address.ip()
    );
    for (name, value) in request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream
        .set_write_timeout(Some(patience))
        .and_then(|()| (&stream).write_all(head.as_bytes()))
        .map_err(|source| HttpError::Send { source })?;
    receive(BufReader::new(Timed { stream, until }), request.bound)
}

/// A stream that is read until a moment and no longer, however slowly its bytes drip.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// How the end of a body is told.
enum Framing {
    Length(u64),
    Chunks,
    Close,
}

fn receive(stream: impl BufRead, bound: u64) -> Result<Response, HttpError> {
    let mut head = stream.take(HEAD_BOUND);
    let status = status(&line(&mut head)?)?;
    let mut framing = Framing::Close;
    loop {
        let line = line(&mut head)?;
        if line.is_empty() {
            break;
        }
        let (name, value) =
            line.split_once(':').ok_or(HttpError::Malformed { reason: "a header has no colon" })?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(HttpError::Malformed { reason: "the transfer encoding is unknown" });
            }
            framing = Framing::Chunks;
        } else if name.eq_ignore_ascii_case("content-length") && !matches!(framing, Framing::Chunks) {
            let length =
                number(value, 10).ok_or(HttpError::Malformed { reason: "the length is no number" })?;
            framing = Framing::Length(length);
        }
    }
    let mut stream = head.into_inner();
    let body = match framing {
        Framing::Length(length) => {
            let mut body = Vec::new();
            append(&mut stream, length, bound, &mut body)?;
            body
        }
        Framing::Chunks => chunks(stream.take(HEAD_BOUND + bound.saturating_mul(CHUNK_OVERHEAD)), bound)?,
        Framing::Close => {
            let mut body = Vec::new();
            stream.take(bound + 1).read_to_end(&mut body).map_err(|source| HttpError::Receive { source })?;
            if body.len() as u64 > bound {
                return Err(HttpError::Large { bound });
            }
            body
        }
    };
    Ok(Response { status, body })
}

fn chunks(mut stream: impl BufRead, bound: u64) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size =
            number(size, 16).ok_or(HttpError::Malformed { reason: "the size of a chunk is no number" })?;
        if size == 0 {
            // Trailers may follow; nobody needs them, and the connection ends here.
            return Ok(body);
        }
        append(&mut stream, size, bound, &mut body)?;
        if !self::line(&mut stream)?.is_empty() {
            return Err(HttpError::Malformed { reason: "a chunk is longer than its size" });
        }
    }
}

/// Appends exactly so many bytes, unless the body would outgrow its bound.
fn append(stream: &mut impl Read, length: u64, bound: u64, body: &mut Vec<u8>) -> Result<(), HttpError> {
    if length > bound.saturating_sub(body.len() as u64) {
        return Err(HttpError::Large { bound });
    }
    let read = stream.take(length).read_to_end(body).map_err(|source| HttpError::Receive { source })?;
    if (read as u64) < length {
        return Err(HttpError::Receive { source: io::ErrorKind::UnexpectedEof.into() });
    }
    Ok(())
}

/// One line without its end. What is above it bounds how much that can be.
fn line(stream: &mut impl BufRead) -> Result<String, HttpError> {
    let mut bytes = Vec::new();
    stream.read_until(b'\n', &mut bytes).map_err(|source| HttpError::Receive { source })?;
    if bytes.pop() != Some(b'\n') {
        return Err(HttpError::Malformed { reason: "a line has no end" });
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| HttpError::Malformed { reason: "a header is not text" })
}

fn status(line: &str) -> Result<u16, HttpError> {
    let malformed = HttpError::Malformed { reason: "the status line is unknown" };
    let Some(rest) = line.strip_prefix("HTTP/1.") else { return Err(malformed) };
    let code = rest.split(' ').nth(1).filter(|code| code.len() == 3).and_then(|code| number(code, 10));
    code.and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 200).ok_or(malformed)
}

/// Digits only: Rust itself would take a sign as well.
fn number(text: &str, radix: u32) -> Option<u64> {
    text.chars().all(|digit| digit.is_digit(radix)).then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const BOUND: u64 = 100;

    fn answer(text: &str) -> Result<Response, HttpError> {
        receive(text.as_bytes(), BOUND)
    }

    fn body(text: &str) -> String {
        String::from_utf8(answer(text).unwrap().body).unwrap()
    }

    #[test]
    fn bodies_in_every_framing() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcd"), "ab");
        assert_eq!(body("HTTP/1.0 200 OK\n\nabcd"), "abcd");
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(body(chunked), "abc");
        assert_eq!(answer("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap().status, 404);
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        ] {
            assert!(answer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_outgrows_its_bound() {
        let large = "x".repeat(101);
        let chunks = "33\r\n".to_owned() + &"x".repeat(0x33) + "\r\n";
        for text in [
            format!("HTTP/1.1 200 OK\r\n\r\n{large}"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n{large}"),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{chunks}0\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_owned(),
        ] {
            assert!(matches!(answer(&text), Err(HttpError::Large { bound: BOUND })), "{text}");
        }
        let endless = io::repeat(b'x');
        assert!(receive(BufReader::new(endless), BOUND).is_err());
        let headers = "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(10_000);
        assert!(answer(&headers).is_err());
    }

    #[test]
    fn a_server_that_drips_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"H").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let request = Request { method: "GET", path: "/", headers: &[], bound: BOUND };
        let began = Instant::now();
        let failure = send(address, &request, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(failure, HttpError::Receive { .. }), "{failure:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
