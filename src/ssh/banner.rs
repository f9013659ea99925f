//! The first two layers: a TCP connection, and the line with which an SSH server introduces itself.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::SshError;
use super::error::printable;

/// How long one address may keep us from trying the next one as well.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// How much a server may say before its line; RFC 4253 allows greetings.
const MAXIMUM_GREETING: usize = 8 * 1024;

/// Waits until a server at the address introduces itself with `SSH-2.0-…`, and returns that line. Tries again and again
/// until the deadline; the error is that of the last try. A server that speaks something else ends the waiting at once.
pub async fn wait_for_banner(host: &str, port: u16, deadline: Duration) -> Result<String, SshError> {
    let mut last = SshError::ConnectTimeout { host: host.to_owned(), port, after: deadline };
    let end = Instant::now() + deadline;
    // A try that hangs (the network of a booting machine swallows packets) must not keep a later one from succeeding, and
    // a slow server must get its time. So tries overlap.
    let mut tries = FuturesUnordered::new();
    let mut next_try = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        tokio::select! {
            () = sleep_until(end) => return Err(last),
            () = sleep_until(next_try), if tries.len() < 4 => {
                tries.push(try_once(host, port));
                next_try = Instant::now() + Duration::from_secs(1);
            }
            Some(result) = tries.next() => match result {
                Ok(banner) => return Ok(banner),
                Err(error @ SshError::NotSsh { .. }) => return Err(error),
                Err(error) => {
                    last = error;
                    next_try = next_try.min(Instant::now() + pause);
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        }
    }
}

async fn try_once(host: &str, port: u16) -> Result<String, SshError> {
    let mut stream = connect(host, port, Duration::from_secs(15)).await?;
    Ok(read_banner(&mut stream, host, port, Duration::from_secs(15)).await?.line)
}

/// Connects to the first address of the host that answers.
pub(super) async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, SshError> {
    let attempt = async {
        let resolved = tokio::net::lookup_host((host, port)).await;
        let addresses: Vec<SocketAddr> = resolved
            .map_err(|source| SshError::Address { host: host.to_owned(), source })?
            .take(16)
            .collect();
        connect_any(addresses).await.map_err(|source| SshError::Connect {
            host: host.to_owned(),
            port,
            source,
        })
    };
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(SshError::ConnectTimeout { host: host.to_owned(), port, after: limit }))
}

async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut remaining = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    loop {
        if tries.is_empty() {
            let Some(address) = remaining.next() else { return Err(last) };
            tries.push(TcpStream::connect(address));
        }
        tokio::select! {
            Some(result) = tries.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = sleep(NEXT_ADDRESS), if remaining.len() > 0 => tries.extend(remaining.next().map(TcpStream::connect)),
        }
    }
}

/// What a server said first.
pub(super) struct Banner {
    /// The line, without its end.
    pub(super) line: String,
    /// All that was read from the line on; it has to be read again by the one who goes on.
    pub(super) read: Vec<u8>,
}

/// Reads up to the line `SSH-2.0-…`.
pub(super) async fn read_banner(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<Banner, SshError> {
    let host = host.to_owned();
    match timeout(limit, read_lines(stream)).await {
        Err(_) => Err(SshError::BannerTimeout { host, port, after: limit }),
        Ok(Err(source)) => Err(SshError::BannerClosed { host, port, source }),
        Ok(Ok(Err(said))) => Err(SshError::NotSsh { host, port, said: printable(&said) }),
        Ok(Ok(Ok(banner))) => Ok(banner),
    }
}

/// Either the banner or what was said in its place.
async fn read_lines(stream: &mut TcpStream) -> io::Result<Result<Banner, String>> {
    let mut read = Vec::new();
    loop {
        let received = stream.read_buf(&mut read).await?;
        if let Some(banner) = find_banner(&read) {
            return Ok(Ok(banner));
        }
        // A greeting is allowed, but what comes from servers of other protocols is recognised without waiting for more.
        let foreign = [&b"HTTP/"[..], b"220 ", b"* OK", b"+OK", b"SSH-1.5", b"\x16\x03", b"RFB "];
        let is_foreign = foreign.iter().any(|prefix| read.starts_with(prefix));
        let is_over = received == 0 && !read.is_empty();
        if is_foreign || is_over || read.len() > MAXIMUM_GREETING {
            let text = String::from_utf8_lossy(&read);
            return Ok(Err(text.lines().next().unwrap_or_default().to_owned()));
        }
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn find_banner(read: &[u8]) -> Option<Banner> {
    let mut start = 0;
    while let Some(length) = read[start..].iter().position(|&byte| byte == b'\n') {
        let line = &read[start..start + length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
            return Some(Banner {
                line: printable(&String::from_utf8_lossy(line)),
                read: read[start..].to_vec(),
            });
        }
        start += length + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn greetings_before_the_banner_are_skipped() {
        let banner =
            find_banner(b"Welcome\r\nto this host\nSSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0rest").unwrap();
        assert_eq!(banner.line, "SSH-2.0-OpenSSH_9.2p1 Debian");
        assert_eq!(banner.read, b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0rest");
        assert!(find_banner(b"SSH-2.0-OpenSSH_9.2p1").is_none(), "the line has no end yet");
        assert!(find_banner(b"hello SSH-2.0-\n").is_none());
    }
}
