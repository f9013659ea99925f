//! What is asked of a registry as a whole: whether it knows somebody, and what it has to offer.

use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::auth::{Auth, ask};
use super::challenge::Challenge;
use super::client::{Endpoint, SILENCE, in_time, read, refusal};
use super::credentials::{Credentials, DEFAULT, DEFAULT_ADDRESS, domain_of};
use super::endpoint::Registries;
use super::error::RegistryError;
use super::source::join;

const DEFAULT_SEARCH: &str = "https://index.docker.io";
const LARGEST_SEARCH: u64 = 4 << 20;

/// A login that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// To be kept in place of the password, if the registry gives such tokens.
    pub identity_token: String,
}

/// A repository that a search found.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Found {
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    pub name: String,
    #[serde(default, deserialize_with = "engine_model::wire::null_is_default")]
    pub description: String,
    #[serde(default)]
    pub star_count: i64,
    #[serde(default)]
    pub is_official: bool,
    #[serde(default)]
    pub is_automated: bool,
}

impl Registries {
    /// Asks the registry of `serveraddress`, the default one if that is empty, whether these credentials are good.
    pub async fn login(&self, credentials: &Credentials) -> Result<Login, RegistryError> {
        let domain = domain_of(&credentials.serveraddress);
        let mut last = None;
        for endpoint in self.servers(&domain).await? {
            match login(&endpoint, credentials).await {
                // Another way to the same registry may be the right one.
                Err(error @ (RegistryError::Transport { .. } | RegistryError::PlainHttp { .. })) => {
                    last = Some(last.unwrap_or(error));
                }
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::answer("The address", &domain, "there is none")))
    }

    /// Searches a registry (Docker's index protocol, version 1): `term` may begin with the registry's name.
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<Found>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            results: Option<Vec<Found>>,
        }
        let (domain, rest) = match term.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT, term),
        };
        let is_default = matches!(domain, DEFAULT | DEFAULT_ADDRESS);
        let endpoints =
            if is_default { vec![self.trusted(DEFAULT_SEARCH)?] } else { self.servers(domain).await? };
        let mut last = None;
        for endpoint in endpoints {
            let mut url = join(&endpoint.base, "v1/search")?;
            url.query_pairs_mut().append_pair("q", rest).append_pair("n", &limit.to_string());
            let mut request = endpoint.client.get(url.clone());
            if !credentials.username.is_empty() {
                request = request.basic_auth(&credentials.username, Some(&credentials.password));
            }
            let response = match in_time(url.as_str(), SILENCE, request.send()).await? {
                Ok(response) => response,
                Err(error) => {
                    last = Some(last.unwrap_or_else(|| RegistryError::transport(url.as_str(), error)));
                    continue;
                }
            };
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let body = read(response, "The list of images", LARGEST_SEARCH).await?;
            let answer: Answer = serde_json::from_slice(&body)
                .map_err(|error| RegistryError::answer("The list of images", url.as_str(), error))?;
            return Ok(answer.results.unwrap_or_default());
        }
        Err(last.unwrap_or_else(|| RegistryError::answer("The address", domain, "there is none")))
    }
}

async fn login(endpoint: &Endpoint, credentials: &Credentials) -> Result<Login, RegistryError> {
    let url = join(&endpoint.base, "v2/")?;
    let auth = Auth::new(credentials.clone());
    let response = in_time(url.as_str(), SILENCE, endpoint.client.get(url.clone()).send()).await?;
    let response = response.map_err(|error| RegistryError::transport(url.as_str(), error))?;
    if response.status().is_success() {
        return Ok(Login { identity_token: String::new() });
    }
    let is_own = response.url().origin() == endpoint.base.origin();
    if response.status() != StatusCode::UNAUTHORIZED || !is_own || !auth.note(response.headers()) {
        return Err(refusal(response).await);
    }
    if let Some(challenge @ Challenge::Bearer { .. }) = auth.challenge() {
        let granted = ask(&endpoint.client, &challenge, &endpoint.base, credentials, "", true).await?;
        return Ok(Login { identity_token: granted.refresh_token.unwrap_or_default() });
    }
    let request = endpoint.client.get(url.clone());
    let request = auth.sign(&endpoint.client, request, &endpoint.base, "").await?;
    let sent = in_time(url.as_str(), SILENCE, request.send()).await?;
    let response = sent.map_err(|error| RegistryError::transport(url.as_str(), error))?;
    basic(response, &url).await
}

async fn basic(response: reqwest::Response, url: &Url) -> Result<Login, RegistryError> {
    match response.status() {
        status if status.is_success() => Ok(Login { identity_token: String::new() }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let message = "incorrect username or password".to_owned();
            Err(RegistryError::Unauthorized { url: url.to_string(), message })
        }
        _ => Err(refusal(response).await),
    }
}
