//! HTTP as it is spoken to registries: what is believed, how long is waited, where redirects may lead, how much is read.

use std::time::Duration;

use engine_trust::Trust;
use futures_util::StreamExt as _;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, NoProxy, Proxy, Response, Url};

use super::error::RegistryError;
use super::resolve::SystemNames;
use super::settings::Settings;
use super::trust;

const USER_AGENT: &str = concat!("docker/28.5.2 machine-engine/", env!("CARGO_PKG_VERSION"));
const CONNECT: Duration = Duration::from_secs(15);
/// A registry that says nothing for so long is taken for gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;
/// Reached directly, whatever the proxies.
const OWN: &str = "localhost,127.0.0.0/8,::1";
/// Of an error's body, what is read.
const LARGEST_ERROR: u64 = 64 << 10;

/// A server that speaks for a registry, perhaps.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) base: Url,
    pub(crate) client: Client,
}

/// A client for the registry called `host[:port]`. One that is not `secure` is believed without a certificate.
pub(crate) fn build(settings: &Settings, registry: &str, secure: bool) -> Result<Client, RegistryError> {
    let trust = trust::of(&settings.certificates, registry)?;
    let trusted = if secure { Trust::These(trust.roots) } else { Trust::Anyone };
    let tls = |error: rustls::Error| RegistryError::Tls { registry: registry.to_owned(), source: error };
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT)
        .tcp_keepalive(Duration::from_secs(30))
        .dns_resolver(SystemNames)
        .referer(false)
        .redirect(Policy::custom(redirect))
        .no_proxy()
        .tls_backend_preconfigured(protocols(engine_trust::client(trusted, trust.identity).map_err(tls)?));
    let proxies = &settings.proxies;
    let direct = NoProxy::from_string(&format!("{OWN},{}", proxies.none));
    let failed = |source| RegistryError::Client { source };
    if let Some(url) = &proxies.http {
        builder = builder.proxy(Proxy::http(url).map_err(failed)?.no_proxy(direct.clone()));
    }
    if let Some(url) = &proxies.https {
        builder = builder.proxy(Proxy::https(url).map_err(failed)?.no_proxy(direct));
    }
    builder.build().map_err(failed)
}

/// Offers a server what this client speaks.
fn protocols(mut tls: rustls::ClientConfig) -> rustls::ClientConfig {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls
}

/// A client for any service: by the proxies of the environment if it may, and believing what the host's authorities say.
pub fn plain(with_proxies: bool) -> Result<Client, RegistryError> {
    let trusted = engine_trust::client(Trust::These(engine_trust::authorities()), None);
    let tls = |source| RegistryError::Tls { registry: "any server".to_owned(), source };
    let builder = if with_proxies { Client::builder() } else { Client::builder().no_proxy() };
    builder
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT)
        .dns_resolver(SystemNames)
        .referer(false)
        .redirect(Policy::none())
        .tls_backend_preconfigured(protocols(trusted.map_err(tls)?))
        .build()
        .map_err(|source| RegistryError::Client { source })
}

/// Not in circles, and never from a protected connection to one that is not. What says who the caller is goes to no other
/// host: reqwest leaves it out.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from = attempt.previous().last().map(|url| url.scheme().to_owned());
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error("the server redirects too often");
    }
    if from.as_deref() == Some("https") && attempt.url().scheme() != "https" {
        return attempt.error("the server redirects from HTTPS to HTTP");
    }
    attempt.follow()
}

/// What may be shown of an address: signed ones are as good as a password.
pub(crate) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// Waits for something of a registry, and no longer than that.
pub(crate) async fn in_time<T>(
    url: &str,
    patience: Duration,
    answer: impl Future<Output = T>,
) -> Result<T, RegistryError> {
    let silent = || RegistryError::Silent { url: url.to_owned() };
    tokio::time::timeout(patience, answer).await.map_err(|_| silent())
}

/// Reads an answer that is to be small.
pub(crate) async fn read(
    response: Response,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, RegistryError> {
    let url = without_query(response.url());
    let too_large = || RegistryError::TooLarge { what, url: url.clone(), limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = in_time(&url, SILENCE, stream.next()).await? {
        let piece = piece.map_err(|error| RegistryError::transport(&url, error))?;
        if bytes.len() as u64 + piece.len() as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What an answer that is no success means.
pub(crate) async fn refusal(response: Response) -> RegistryError {
    let status = response.status().as_u16();
    let url = without_query(response.url());
    let body = read(response, "An error", LARGEST_ERROR).await.unwrap_or_default();
    let (code, message) = said(&body);
    // As dockerd shows it: `manifest unknown: manifest unknown`.
    let shown = |otherwise: &str| match (code.is_empty(), message.is_empty()) {
        (true, true) => otherwise.to_owned(),
        (true, false) => message.clone(),
        (false, _) => format!("{}: {message}", code.to_lowercase().replace('_', " ")),
    };
    match (status, code.as_str()) {
        (429, _) | (_, "TOOMANYREQUESTS") => RegistryError::TooMany { message },
        (404, _) | (_, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN") => {
            RegistryError::NotFound { message: shown("not found") }
        }
        (401, _) => RegistryError::Denied { message: shown("unauthorized: authentication required") },
        (403, _) | (_, "DENIED" | "UNAUTHORIZED") => {
            RegistryError::Denied { message: shown("denied: requested access to the resource is denied") }
        }
        _ => RegistryError::Status { url, status, message },
    }
}

/// The code and the text of the first error in a body (distribution specification, "Error codes"), or of an OAuth 2 error.
pub(crate) fn said(body: &[u8]) -> (String, String) {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &serde_json::Value| -> String {
        let printable =
            value.as_str().unwrap_or_default().chars().filter(|character| !character.is_control());
        printable.take(512).collect()
    };
    let first = &value["errors"][0];
    if first.is_object() {
        return (text(&first["code"]), text(&first["message"]));
    }
    let plain = ["details", "message", "error_description", "error"].into_iter().map(|key| text(&value[key]));
    (String::new(), plain.into_iter().find(|text| !text.is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_the_forms_that_registries_use() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(said(body), ("MANIFEST_UNKNOWN".into(), "manifest unknown".into()));
        assert_eq!(
            said(br#"{"details":"incorrect username or password"}"#).1,
            "incorrect username or password"
        );
        assert_eq!(said(b"<html>"), (String::new(), String::new()));
        assert_eq!(said(b"{\"errors\":[{\"code\":\"X\",\"message\":\"a\\u001b[31m\"}]}").1, "a[31m");
        assert_eq!(said(br#"{"errors":[]}"#), (String::new(), String::new()));
    }
}
