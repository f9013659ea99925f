//! Files at addresses that people name: one request, which may ask whether a file is another one by now, and its pieces.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::header::{
    CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{StatusCode, Url};

use super::client::{SILENCE, in_time, read, without_query};
use super::endpoint::{Registries, name_of};
use super::error::RegistryError;

/// Of an error's body, what is read.
const LARGEST_ERROR: u64 = 4 << 10;
const LONGEST_ERROR: usize = 512;

/// What a server has said of a file, by which it can be asked again whether that is still so. Empty if it has said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, as it came.
    pub tag: String,
    /// `Last-Modified`, as it came.
    pub modified: String,
}

/// A file that is being received.
pub struct Fetched {
    pub validators: Validators,
    /// In bytes, if the server says so.
    pub length: Option<u64>,
    /// `Content-Disposition`, as it came; empty if it did not.
    pub disposition: String,
    url: String,
    done: u64,
    stream: BoxStream<'static, reqwest::Result<Bytes>>,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Fetched")
            .field("url", &self.url)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Fetched {
    /// The next piece, `None` at the end. A server that breaks off before that is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match in_time(&self.url, SILENCE, self.stream.next()).await? {
            Some(Ok(piece)) => {
                self.done += piece.len() as u64;
                Ok(Some(piece))
            }
            Some(Err(error)) => Err(match self.length {
                Some(total) => RegistryError::BrokenOff { url: self.url.clone(), done: self.done, total },
                None => RegistryError::transport(&self.url, error),
            }),
            None => Ok(None),
        }
    }
}

impl Registries {
    /// Asks for a file by HTTP or HTTPS. `None` if it is what `known` says of it. A certificate is always looked at.
    pub async fn fetch(&self, address: &str, known: &Validators) -> Result<Option<Fetched>, RegistryError> {
        let url = Url::parse(address)
            .map_err(|error| RegistryError::answer("The address", &shown_text(address), error))?;
        let shown = shown(&url);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(RegistryError::answer("The address", &shown, "it is of neither http nor https"));
        }
        let mut request = self.client(&name_of(&url), true)?.get(url);
        if !known.tag.is_empty() {
            request = request.header(IF_NONE_MATCH, &known.tag);
        } else if !known.modified.is_empty() {
            request = request.header(IF_MODIFIED_SINCE, &known.modified);
        }
        let is_asked = *known != Validators::default();
        let response = in_time(&shown, SILENCE, request.send())
            .await?
            .map_err(|error| RegistryError::transport(&shown, error))?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && is_asked {
            return Ok(None);
        }
        if status != StatusCode::OK {
            let body = read(response, "An error", LARGEST_ERROR).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&body);
            let text = text.trim().chars().filter(|one| !one.is_control()).take(LONGEST_ERROR);
            return Err(RegistryError::Get {
                url: shown,
                status: status.to_string(),
                message: text.collect(),
            });
        }
        let headers = response.headers();
        Ok(Some(Fetched {
            validators: Validators { tag: header(headers, &ETAG), modified: header(headers, &LAST_MODIFIED) },
            length: response.content_length(),
            disposition: header(headers, &CONTENT_DISPOSITION),
            url: shown,
            done: 0,
            stream: response.bytes_stream().boxed(),
        }))
    }
}

fn header(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// What may be shown of an address: no password, and no signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // One that cannot have a name and a password has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    without_query(&url)
}

/// The same of a text that is no address.
fn shown_text(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::super::settings::Settings;
    use super::*;

    /// Answers each connection by the next of these, to its end, and returns what was asked.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://user:word@{}", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let answer = |answer: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    asked.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(asked).unwrap()
            };
            answers.into_iter().map(answer).collect()
        });
        (base, serving)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n{body}")
    }

    async fn content(fetched: &mut Fetched) -> Result<String, String> {
        let mut content = Vec::new();
        while let Some(piece) = fetched.next().await.map_err(|error| error.to_string())? {
            content.extend_from_slice(&piece);
        }
        Ok(String::from_utf8(content).unwrap())
    }

    #[tokio::test]
    async fn a_file_is_asked_for_again_by_what_was_said_of_it() {
        let headers =
            "ETag: \"one\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 5\r\n";
        let (base, serving) =
            serve(vec![answer("200 OK", headers, "hello"), answer("304 Not Modified", "", "")]);
        let registries = Registries::new(Settings::default());
        let address = format!("{base}/file?signed=yes");
        let mut fetched = registries.fetch(&address, &Validators::default()).await.unwrap().unwrap();
        assert_eq!(content(&mut fetched).await.unwrap(), "hello");
        assert_eq!(fetched.validators.tag, "\"one\"");
        assert_eq!(fetched.validators.modified, "Wed, 21 Oct 2015 07:28:00 GMT");
        assert!(registries.fetch(&address, &fetched.validators).await.unwrap().is_none());
        let asked = serving.join().unwrap();
        assert!(asked[0].starts_with("GET /file?signed=yes HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[0].to_ascii_lowercase().contains("authorization: basic dxnlcjp3b3jk"), "{asked:?}");
        assert!(asked[1].to_ascii_lowercase().contains("if-none-match: \"one\""), "{asked:?}");
    }

    #[tokio::test]
    async fn servers_that_break_off_refuse_or_lead_in_circles_are_told() {
        let circle = || answer("302 Found", "Location: /again\r\nContent-Length: 0\r\n", "");
        let mut answers = vec![
            answer("200 OK", "Content-Length: 10\r\n", "hello"),
            answer("404 Not Found", "Content-Length: 5\r\n", "no \u{7}!"),
            // Nobody has asked whether anything has changed.
            answer("304 Not Modified", "", ""),
        ];
        answers.extend((0..11).map(|_| circle()));
        let (base, serving) = serve(answers);
        let bare = base.replace("user:word@", "");
        let registries = Registries::new(Settings::default());
        let address = format!("{base}/file?signed=yes");
        let known = Validators::default();
        let mut fetched = registries.fetch(&address, &known).await.unwrap().unwrap();
        let error = content(&mut fetched).await.unwrap_err();
        assert_eq!(error, format!("{bare}/file broke off after 5 of 10 bytes"));
        let error = registries.fetch(&address, &known).await.unwrap_err();
        assert_eq!(error.to_string(), format!("failed to GET {bare}/file with status 404 Not Found: no !"));
        let error = registries.fetch(&address, &known).await.unwrap_err().to_string();
        assert!(error.contains("304"), "{error}");
        let error = registries.fetch(&address, &known).await.unwrap_err();
        let error = engine_model::chain(&error);
        assert!(error.contains("redirects too often") && !error.contains("word"), "{error}");
        drop(serving);
        let error = registries.fetch("ftp://a:b@host/x", &known).await.unwrap_err().to_string();
        assert!(error.contains("neither http nor https") && !error.contains("a:b"), "{error}");
        let error = registries.fetch("http://a:b@[x/?y", &known).await.unwrap_err().to_string();
        assert!(!error.contains("a:b") && !error.contains("?y"), "{error}");
    }
}
