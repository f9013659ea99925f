//! A repository on one registry: finds the server that answers, shows who the caller is, tries again what may pass.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::OnceCell;

use super::auth::Auth;
use super::client::{Endpoint, SILENCE, in_time, read, refusal, without_query};
use super::credentials::Credentials;
use super::error::RegistryError;
use super::settings::Settings;

/// The longest that is waited before something is tried again, whatever a registry asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LARGEST_TAGS: u64 = 8 << 20;
const MOST_PAGES: usize = 1000;

/// A repository on one registry, or on a mirror of it.
#[derive(Debug)]
pub struct Source {
    endpoints: Vec<Endpoint>,
    /// The one that answers.
    chosen: OnceCell<Endpoint>,
    pub(crate) path: String,
    auth: Auth,
    attempts: u32,
    first_pause: Duration,
}

impl Source {
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        path: &str,
        credentials: Credentials,
        settings: &Settings,
    ) -> Self {
        Self {
            endpoints,
            chosen: OnceCell::new(),
            path: path.to_owned(),
            auth: Auth::new(credentials),
            attempts: settings.attempts.max(1),
            first_pause: settings.first_pause,
        }
    }

    /// How often a thing is tried that may pass.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Waits before attempt `number` (the first is 0, which waits for nothing).
    pub async fn pause(&self, number: u32) {
        if number > 0 {
            let pause = self.first_pause.saturating_mul(1 << (number - 1).min(10));
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    /// The server that answers; asked once.
    async fn endpoint(&self) -> Result<&Endpoint, RegistryError> {
        self.chosen.get_or_try_init(|| self.choose()).await
    }

    async fn choose(&self) -> Result<Endpoint, RegistryError> {
        let mut last = None;
        for endpoint in &self.endpoints {
            let url = join(&endpoint.base, "v2/")?;
            let answer = in_time(url.as_str(), SILENCE, endpoint.client.get(url.clone()).send()).await;
            let answer =
                answer.and_then(|sent| sent.map_err(|error| RegistryError::transport(url.as_str(), error)));
            match answer {
                Ok(response) => {
                    if response.status() == StatusCode::UNAUTHORIZED && is_of(&response, endpoint) {
                        self.auth.note(response.headers());
                    }
                    return Ok(endpoint.clone());
                }
                Err(error) => {
                    // What the protected attempt ran into says more than that nobody speaks HTTP there either.
                    last = Some(last.unwrap_or(error));
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::answer("The address", &self.path, "there is none")))
    }

    /// The URL of something in this repository, such as `manifests/latest`.
    pub(crate) async fn url(&self, rest: &str) -> Result<Url, RegistryError> {
        join(&self.endpoint().await?.base, &format!("v2/{}/{rest}", self.path))
    }

    /// What an operation is called in scopes of tokens.
    pub(crate) fn scope(&self, actions: &str) -> String {
        format!("repository:{}:{actions}", self.path)
    }

    /// Sends a request until there is an answer that will stay: `make` is called for each attempt.
    pub(crate) async fn send(
        &self,
        scope: &str,
        make: &(dyn Fn(&Client) -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        let endpoint = self.endpoint().await?;
        let mut asked_again = false;
        let mut attempt = 0;
        loop {
            self.pause(attempt).await;
            attempt += 1;
            let is_last = attempt >= self.attempts;
            let request = make(&endpoint.client);
            let request = self.auth.sign(&endpoint.client, request, &endpoint.base, scope).await;
            let request = match request {
                Err(error) if error.may_pass() && !is_last => continue,
                request => request?,
            };
            let shown = endpoint.base.as_str();
            let sent = in_time(shown, SILENCE, request.send()).await.and_then(|sent| {
                sent.map_err(|error| {
                    let url = error.url().map_or_else(|| shown.to_owned(), without_query);
                    RegistryError::transport(&url, error)
                })
            });
            let response = match sent {
                Ok(response) => response,
                Err(error) => {
                    if is_last || !error.may_pass() {
                        return Err(error);
                    }
                    tracing::debug!(%error, attempt, "A registry is asked again");
                    continue;
                }
            };
            let status = response.status();
            // Who else answers, after a redirect, does not say to whom a password is shown.
            if status == StatusCode::UNAUTHORIZED
                && !asked_again
                && is_of(&response, endpoint)
                && self.auth.note(response.headers())
            {
                // A token that ended early, or a server that says only now what it wants.
                asked_again = true;
                attempt -= 1;
                continue;
            }
            let passes = status == StatusCode::TOO_MANY_REQUESTS
                || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED);
            if !passes || is_last {
                return Ok(response);
            }
            if let Some(pause) = retry_after(&response) {
                tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            }
        }
    }

    /// Sends a request once, to a place that the registry has named: who the caller is, is shown to the registry alone.
    pub(crate) async fn send_once(
        &self,
        scope: &str,
        place: &Url,
        patience: Duration,
        make: &(dyn Fn(&Client) -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        let endpoint = self.endpoint().await?;
        if endpoint.base.scheme() == "https" && place.scheme() != "https" {
            let reason = "it leads from HTTPS to HTTP";
            return Err(RegistryError::answer("The place for the blob", place.as_str(), reason));
        }
        let mut request = make(&endpoint.client);
        if place.origin() == endpoint.base.origin() {
            request = self.auth.sign(&endpoint.client, request, &endpoint.base, scope).await?;
        }
        let sent = in_time(endpoint.base.as_str(), patience, request.send()).await?;
        sent.map_err(|error| RegistryError::transport(endpoint.base.as_str(), error))
    }

    /// All tags of the repository.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut url = self.url("tags/list").await?;
        let mut tags = Vec::new();
        for _ in 0..MOST_PAGES {
            let scope = self.scope("pull");
            let response = self.send(&scope, &|client| client.get(url.clone())).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let next = next_page(&url, &response);
            let shown = url.to_string();
            let body = read(response, "The list of tags", LARGEST_TAGS).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| RegistryError::answer("The list of tags", &shown, error))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                // A list that leads back to itself has no more to tell.
                Some(next) if next != url => url = next,
                _ => return Ok(tags),
            }
        }
        Err(RegistryError::answer("The list of tags", url.as_str(), "it does not end"))
    }
}

/// Whether it is the registry itself that has answered.
fn is_of(response: &Response, endpoint: &Endpoint) -> bool {
    response.url().origin() == endpoint.base.origin()
}

/// `Link: </v2/…>; rel="next"` (RFC 8288), on the same server.
fn next_page(url: &Url, response: &Response) -> Option<Url> {
    let link = response.headers().get("link")?.to_str().ok()?;
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = url.join(target).ok().filter(|_| parameters.contains("next"))?;
    (next.origin() == url.origin()).then_some(next)
}

/// In seconds; dates are not used by registries.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

pub(crate) fn join(base: &Url, rest: &str) -> Result<Url, RegistryError> {
    base.join(rest).map_err(|error| RegistryError::answer("The address", base.as_str(), error))
}
