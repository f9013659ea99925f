//! Blobs and manifests on their way to a registry.

use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Client, Response, StatusCode, Url};

use super::client::{SILENCE, refusal};
use super::error::RegistryError;
use super::manifest::{MediaType, digest_of};
use super::source::Source;

/// Both are needed to push: registries look at what is there before.
const PUSH: &str = "pull,push";

/// What became of the wish to have a blob from another repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounted {
    Yes,
    /// It has to be sent.
    No,
}

impl Source {
    /// Whether the repository has a blob.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{digest}")).await?;
        let response = self.send(&self.scope(PUSH), &|client| client.head(url.clone())).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal(response).await),
        }
    }

    /// Has a blob of another repository of the same registry appear in this one. A registry that does not want to says no.
    pub async fn mount(&self, digest: &str, from: &str) -> Result<Mounted, RegistryError> {
        let mut url = self.url("blobs/uploads/").await?;
        url.query_pairs_mut().append_pair("mount", digest).append_pair("from", from);
        let scope = format!("{} repository:{from}:pull", self.scope(PUSH));
        let make = |client: &Client| client.post(url.clone()).header(CONTENT_LENGTH, 0);
        let response = self.send(&scope, &make).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Mounted::Yes),
            StatusCode::ACCEPTED => {
                // An upload has been begun in its place. It is not used, as the blob may not be at hand yet.
                self.cancel(&response).await;
                Ok(Mounted::No)
            }
            // The caller may push here and not pull there.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(Mounted::No),
            _ => Err(refusal(response).await),
        }
    }

    /// Sends a blob of `size` bytes. `open` is called for each attempt.
    pub async fn upload(
        &self,
        digest: &str,
        size: u64,
        open: &(dyn Fn() -> Body + Sync),
    ) -> Result<(), RegistryError> {
        let mut attempt = 0;
        loop {
            self.pause(attempt).await;
            attempt += 1;
            match self.upload_once(digest, size, open).await {
                Err(error) if error.may_pass() && attempt < self.attempts() => {
                    tracing::debug!(%error, attempt, "A blob is sent again");
                }
                done => return done,
            }
        }
    }

    async fn upload_once(
        &self,
        digest: &str,
        size: u64,
        open: &(dyn Fn() -> Body + Sync),
    ) -> Result<(), RegistryError> {
        let scope = self.scope(PUSH);
        let url = self.url("blobs/uploads/").await?;
        let make = |client: &Client| client.post(url.clone()).header(CONTENT_LENGTH, 0);
        let begun = self.send(&scope, &make).await?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(refusal(begun).await);
        }
        let mut place = location(&begun)?;
        place.query_pairs_mut().append_pair("digest", digest);
        // A stream is sent once; the whole upload is begun again instead.
        let make = |client: &Client| {
            let request = client.put(place.clone()).header(CONTENT_TYPE, "application/octet-stream");
            request.header(CONTENT_LENGTH, size).body(open())
        };
        // However slow the way there is, and what the registry does with it then.
        let patience = SILENCE + Duration::from_secs(size >> 14);
        let response = self.send_once(&scope, &place, patience, &make).await?;
        if response.status() == StatusCode::CREATED { Ok(()) } else { Err(refusal(response).await) }
    }

    /// Lets the registry forget an upload. If it does not, it forgets it by itself some day.
    async fn cancel(&self, begun: &Response) {
        if let Ok(place) = location(begun) {
            let scope = self.scope(PUSH);
            let _ = self.send_once(&scope, &place, SILENCE, &|client| client.delete(place.clone())).await;
        }
    }

    /// Puts a manifest into the repository and gives it a tag. Its digest is returned.
    pub async fn put_manifest(
        &self,
        tag: &str,
        media_type: MediaType,
        bytes: &[u8],
    ) -> Result<String, RegistryError> {
        let url = self.url(&format!("manifests/{tag}")).await?;
        let make = |client: &Client| {
            client.put(url.clone()).header(CONTENT_TYPE, media_type.as_str()).body(bytes.to_vec())
        };
        let response = self.send(&self.scope(PUSH), &make).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let digest = digest_of(bytes);
        let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match told.filter(|told| told.starts_with("sha256:") && *told != digest) {
            Some(found) => Err(RegistryError::Digest { expected: digest, found: found.to_owned() }),
            None => Ok(digest),
        }
    }
}

fn location(response: &Response) -> Result<Url, RegistryError> {
    let url = response.url();
    let said = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let place = said.and_then(|said| url.join(said).ok());
    place.ok_or_else(|| {
        RegistryError::answer("The answer", url.as_str(), "it does not say where to send the blob")
    })
}
