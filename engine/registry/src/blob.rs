//! Blobs on their way here: from any offset on, as a stream of pieces.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::client::{SILENCE, in_time, refusal, without_query};
use super::error::RegistryError;
use super::source::Source;

/// A blob that is being received. What it holds has still to be compared with its digest.
pub struct Blob {
    /// Where the stream begins: 0 if the registry cannot do what was asked for.
    pub offset: u64,
    url: String,
    stream: BoxStream<'static, reqwest::Result<Bytes>>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Blob")
            .field("url", &self.url)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Blob {
    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match in_time(&self.url, SILENCE, self.stream.next()).await? {
            Some(piece) => piece.map(Some).map_err(|error| RegistryError::transport(&self.url, error)),
            None => Ok(None),
        }
    }

    /// Where it comes from, after redirects, without what may be secret in there.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Source {
    /// Opens a blob, `offset` bytes from its beginning if the registry can do that.
    pub async fn blob(&self, digest: &str, offset: u64) -> Result<Blob, RegistryError> {
        let url = self.url(&format!("blobs/{digest}")).await?;
        let mut offset = offset;
        loop {
            let make = |client: &reqwest::Client| {
                let request = client.get(url.clone());
                if offset > 0 { request.header(RANGE, format!("bytes={offset}-")) } else { request }
            };
            let response = self.send(&self.scope("pull"), &make).await?;
            let status = response.status();
            if status == StatusCode::RANGE_NOT_SATISFIABLE && offset > 0 {
                offset = 0;
                continue;
            }
            if !status.is_success() {
                return Err(refusal(response).await);
            }
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let begins = match (status, range.and_then(first_byte)) {
                (StatusCode::PARTIAL_CONTENT, Some(first)) if first == offset => offset,
                (StatusCode::PARTIAL_CONTENT, _) => {
                    let reason = "it is another part than the one that was asked for";
                    return Err(RegistryError::answer("The blob", url.as_str(), reason));
                }
                _ => 0,
            };
            let shown = without_query(response.url());
            return Ok(Blob { offset: begins, url: shown, stream: response.bytes_stream().boxed() });
        }
    }
}

/// Of `bytes 5-9/10`.
fn first_byte(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes")?.trim().split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_tells_where_it_begins() {
        assert_eq!(first_byte("bytes 5-9/10"), Some(5));
        assert_eq!(first_byte("bytes 5-9/*"), Some(5));
        for bad in ["", "bytes */10", "5-9", "bytes -9/10", "lines 5-9/10"] {
            assert_eq!(first_byte(bad), None, "{bad}");
        }
    }
}
