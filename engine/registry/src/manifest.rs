//! Manifests and indexes: small documents by tag or digest, whose content has to be what the digest says.

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::client::{read, refusal};
use super::error::RegistryError;
use super::source::Source;

/// The distribution specification has registries take at least this much.
const LARGEST: u64 = 4 << 20;

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    OciIndex,
    OciManifest,
    /// Docker's "fat" manifest.
    DockerList,
    /// Docker's "image manifest, version 2, schema 2".
    DockerManifest,
}

/// As they are asked for.
const ALL: [MediaType; 4] =
    [MediaType::OciIndex, MediaType::DockerList, MediaType::OciManifest, MediaType::DockerManifest];

impl MediaType {
    /// As headers and documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        ALL.into_iter().find(|kind| kind.as_str() == essence)
    }

    /// Whether it leads to manifests of several platforms.
    pub fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }
}

/// A manifest or an index, byte for byte.
#[derive(Clone, Debug)]
pub struct Document {
    pub media_type: MediaType,
    /// `sha256:…`, of the bytes.
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Source {
    /// Fetches what a tag or a digest (`sha256:…`) means.
    pub async fn manifest(&self, reference: &str) -> Result<Document, RegistryError> {
        let url = self.url(&format!("manifests/{reference}")).await?;
        let accept = ALL.map(MediaType::as_str).join(", ");
        let make = |client: &reqwest::Client| {
            client.request(Method::GET, url.clone()).header(ACCEPT, accept.as_str())
        };
        let response = self.send(&self.scope("pull"), &make).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (said, told) = (header(CONTENT_TYPE.as_str()), header("docker-content-digest"));
        let bytes = read(response, "The manifest", LARGEST).await?;
        let digest = digest_of(&bytes);
        let expected = if reference.contains(':') { Some(reference.to_owned()) } else { told };
        if let Some(expected) =
            expected.filter(|expected| expected.starts_with("sha256:") && *expected != digest)
        {
            return Err(RegistryError::Digest { expected, found: digest });
        }
        let media_type = media_type(said.as_deref(), &bytes)
            .map_err(|reason| RegistryError::answer("The manifest", url.as_str(), reason))?;
        Ok(Document { media_type, digest, bytes })
    }
}

/// `sha256:` and the digits.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// What the header says, else what the document says, else what it looks like.
pub(crate) fn media_type(header: Option<&str>, bytes: &[u8]) -> Result<MediaType, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if shape.schema_version != 2 {
        return Err(
            "it is of schema 1, which no registry has had to offer since 2017: push the image again with a \
                    client of today"
                .to_owned(),
        );
    }
    let found =
        header.and_then(MediaType::parse).or_else(|| shape.media_type.as_deref().and_then(MediaType::parse));
    match (found, shape.manifests.is_some(), shape.config.is_some()) {
        // A document that is both is taken for different things by different readers.
        (_, true, true) => Err("it is an index and a manifest in one".to_owned()),
        (Some(kind), is_index, _) if kind.is_index() == is_index => Ok(kind),
        (None, true, false) => Ok(MediaType::OciIndex),
        (None, false, true) => Ok(MediaType::OciManifest),
        _ => {
            let kind = shape.media_type.as_deref().or(header).unwrap_or_default();
            let kind: String = kind.chars().filter(|character| !character.is_control()).take(128).collect();
            Err(format!("it is no image: `{kind}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_told_by_its_header_and_its_shape() {
        let manifest = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let docker = Some(MediaType::DockerManifest.as_str());
        assert_eq!(media_type(docker, manifest), Ok(MediaType::DockerManifest));
        assert_eq!(media_type(None, manifest), Ok(MediaType::OciManifest));
        assert_eq!(media_type(Some("application/json; charset=utf-8"), index), Ok(MediaType::OciIndex));
        assert!(media_type(docker, index).is_err());
        assert!(media_type(None, br#"{"schemaVersion":2,"config":{},"manifests":[]}"#).is_err());
        assert!(
            media_type(None, br#"{"schemaVersion":1,"fsLayers":[]}"#)
                .is_err_and(|error| error.contains("schema 1"))
        );
        assert!(media_type(None, br#"{"schemaVersion":2}"#).is_err());
        assert!(media_type(None, b"[]").is_err());
    }
}
