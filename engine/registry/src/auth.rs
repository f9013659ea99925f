//! Proves who the caller is: user and password, or tokens from the registry's token service
//! (<https://distribution.github.io/distribution/spec/auth/token/> and `…/oauth/`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Deserialize;

use super::challenge::{Challenge, parse};
use super::client::{SILENCE, in_time, read, said};
use super::credentials::Credentials;
use super::error::RegistryError;

/// What tokens last for that do not say it.
const SHORTEST_LIFE: u64 = 60;
/// Tokens are renewed so long before they end.
const MARGIN: Duration = Duration::from_secs(10);
const LARGEST_TOKEN: u64 = 1 << 20;
/// Who asks, to services that want it said.
const CLIENT_ID: &str = "docker";

/// The caller's standing with one registry.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    /// What the registry wants to see; empty if nothing.
    challenges: Mutex<Vec<Challenge>>,
    tokens: Mutex<HashMap<String, Token>>,
}

#[derive(Clone, Debug)]
struct Token {
    value: String,
    until: Instant,
}

/// What a token service answers, as far as it is used.
#[derive(Deserialize)]
pub(crate) struct Granted {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    pub(crate) refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, challenges: Mutex::default(), tokens: Mutex::default() }
    }

    /// Notes what an answer of status 401 asks for. Whether it asks for anything that can be shown.
    pub(crate) fn note(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let found: Vec<Challenge> = values.flat_map(parse).collect();
        let is_any = !found.is_empty();
        // Without any, what was asked for before is the best that is known.
        if is_any {
            *self.challenges.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
        is_any
    }

    /// Puts on a request what the registry wants to see for `scope`.
    pub(crate) async fn sign(
        &self,
        client: &Client,
        request: RequestBuilder,
        registry: &Url,
        scope: &str,
    ) -> Result<RequestBuilder, RegistryError> {
        if !self.credentials.registrytoken.is_empty() {
            return Ok(request.bearer_auth(&self.credentials.registrytoken));
        }
        let challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        if let Some(challenge) = bearer {
            return Ok(request.bearer_auth(self.token(client, challenge, registry, scope).await?));
        }
        if challenges.contains(&Challenge::Basic) && !self.credentials.username.is_empty() {
            return Ok(request.basic_auth(&self.credentials.username, Some(&self.credentials.password)));
        }
        Ok(request)
    }

    async fn token(
        &self,
        client: &Client,
        challenge: &Challenge,
        registry: &Url,
        scope: &str,
    ) -> Result<String, RegistryError> {
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned();
        if let Some(token) = known.filter(|token| token.until > Instant::now() + MARGIN) {
            return Ok(token.value);
        }
        let granted = ask(client, challenge, registry, &self.credentials, scope, false).await?;
        let life = Duration::from_secs(granted.expires_in.unwrap_or(0).clamp(SHORTEST_LIFE, 24 * 3600));
        let value = granted.token.or(granted.access_token).filter(|token| !token.is_empty());
        let value = value.ok_or_else(|| {
            let Challenge::Bearer { realm, .. } = challenge else { return no_realm(registry) };
            RegistryError::answer("The token", realm, "there is none in it")
        })?;
        let token = Token { value: value.clone(), until: Instant::now() + life };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.to_owned(), token);
        Ok(value)
    }

    /// What the registry wants to see.
    pub(crate) fn challenge(&self) -> Option<Challenge> {
        let challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        bearer.or_else(|| challenges.first()).cloned()
    }
}

fn no_realm(registry: &Url) -> RegistryError {
    RegistryError::answer("The challenge", registry.as_str(), "it names no token service")
}

/// Asks the token service. `offline` asks for a refresh token as well, for a login that is kept.
pub(crate) async fn ask(
    client: &Client,
    challenge: &Challenge,
    registry: &Url,
    credentials: &Credentials,
    scope: &str,
    offline: bool,
) -> Result<Granted, RegistryError> {
    let Challenge::Bearer { realm, service, scope: asked } = challenge else {
        return Err(no_realm(registry));
    };
    let mut url = Url::parse(realm).map_err(|error| RegistryError::answer("The challenge", realm, error))?;
    // A password must not leave on a connection that is less protected than the one it was meant for.
    let is_protected = url.scheme() == "https" || (url.scheme() == "http" && registry.scheme() == "http");
    if !is_protected {
        let reason = "its token service is not reached by HTTPS";
        return Err(RegistryError::answer("The challenge", registry.as_str(), reason));
    }
    let scope = if scope.is_empty() { asked.as_str() } else { scope };
    let shown = realm.clone();
    let request = if credentials.identitytoken.is_empty() {
        {
            let mut query = url.query_pairs_mut();
            if !service.is_empty() {
                query.append_pair("service", service);
            }
            // Each scope by itself: services differ in whether they take several in one.
            for one in scope.split(' ').filter(|scope| !scope.is_empty()) {
                query.append_pair("scope", one);
            }
            if !credentials.username.is_empty() {
                query.append_pair("account", &credentials.username);
            }
            if offline {
                query.append_pair("offline_token", "true").append_pair("client_id", CLIENT_ID);
            }
        }
        let request = client.get(url);
        if credentials.username.is_empty() {
            request
        } else {
            request.basic_auth(&credentials.username, Some(&credentials.password))
        }
    } else {
        let mut form =
            Url::parse("form:").map_err(|error| RegistryError::answer("The form", realm, error))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &credentials.identitytoken)
            .append_pair("service", service)
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", scope);
        let form = form.query().unwrap_or_default().to_owned();
        client.post(url).header("content-type", "application/x-www-form-urlencoded").body(form)
    };
    let sent = in_time(&shown, SILENCE, request.send()).await?;
    let response = sent.map_err(|error| RegistryError::transport(&shown, error))?;
    granted(response, &shown).await
}

async fn granted(response: Response, realm: &str) -> Result<Granted, RegistryError> {
    let status = response.status();
    let body = read(response, "The token", LARGEST_TOKEN).await?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| RegistryError::answer("The token", realm, error));
    }
    let (_, message) = said(&body);
    match status.as_u16() {
        400 | 401 | 403 => {
            let message =
                if message.is_empty() { "incorrect username or password".to_owned() } else { message };
            Err(RegistryError::Unauthorized { url: realm.to_owned(), message })
        }
        429 => Err(RegistryError::TooMany { message }),
        status => Err(RegistryError::Status { url: realm.to_owned(), status, message }),
    }
}
