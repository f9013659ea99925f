//! Who the caller is to a registry, as clients hand it over in `X-Registry-Auth` and in `POST /auth`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::error::RegistryError;

/// How clients call the default registry when they log in.
pub(crate) const DEFAULT_ADDRESS: &str = "index.docker.io";
/// The registry of names without one.
pub(crate) const DEFAULT: &str = "docker.io";
/// Tokens have some kilobytes.
const LONGEST: usize = 1 << 20;

/// A user with a password, or tokens in place of these. What is secret is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Credentials {
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    pub username: String,
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    pub password: String,
    /// `user:password` in base64, in place of the two above.
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    auth: String,
    /// Which registry it is for; only what logs in looks at it.
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    pub serveraddress: String,
    /// Exchanged for access tokens (OAuth 2's refresh token).
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    pub identitytoken: String,
    /// An access token.
    #[serde(deserialize_with = "engine_model::wire::null_is_default")]
    pub registrytoken: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the header's value: JSON in base64, of either alphabet. An empty value, and `{}`, are nobody.
    pub fn of_header(value: &str) -> Result<Self, RegistryError> {
        let value = value.trim();
        if value.is_empty() {
            return Ok(Self::default());
        }
        let bad = |reason: &str| RegistryError::Credentials { reason: reason.to_owned() };
        if value.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        let bytes = decode(value).ok_or_else(|| bad("it is not in base64"))?;
        Self::of_json(&bytes)
    }

    /// Reads `X-Registry-Config`, which has those for several registries, and takes those for one, called by its domain.
    pub fn of_config(value: &str, domain: &str) -> Result<Self, RegistryError> {
        let bad = |reason: &str| RegistryError::Credentials { reason: reason.to_owned() };
        if value.trim().is_empty() {
            return Ok(Self::default());
        }
        if value.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        let bytes = decode(value.trim()).ok_or_else(|| bad("it is not in base64"))?;
        let all: BTreeMap<String, Self> =
            serde_json::from_slice(&bytes).map_err(|_| bad("it is no JSON of credentials"))?;
        let found = all.into_iter().find(|(key, _)| domain_of(key) == domain);
        found.map_or_else(|| Ok(Self::default()), |(_, credentials)| credentials.unpacked())
    }

    /// Reads the JSON itself.
    pub fn of_json(bytes: &[u8]) -> Result<Self, RegistryError> {
        let read: Self = serde_json::from_slice(bytes)
            // The cause may quote what is secret.
            .map_err(|_| RegistryError::Credentials { reason: "it is no JSON of credentials".to_owned() })?;
        read.unpacked()
    }

    /// With `auth` taken apart.
    fn unpacked(mut self) -> Result<Self, RegistryError> {
        if self.username.is_empty() && !self.auth.is_empty() {
            let text = decode(&self.auth).and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = text.as_deref().and_then(|text| text.split_once(':'));
            let (username, password) = pair.ok_or_else(|| RegistryError::Credentials {
                reason: "`auth` is not `user:password` in base64".to_owned(),
            })?;
            (self.username, self.password) =
                (username.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        self.auth.clear();
        Ok(self)
    }

    /// Whether there is nothing to show to a registry.
    pub fn is_nobody(&self) -> bool {
        self.username.is_empty() && self.identitytoken.is_empty() && self.registrytoken.is_empty()
    }
}

/// `https://host/v1/`, `host/`, `host:5000` and so on.
pub(crate) fn domain_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    if matches!(host, "" | DEFAULT_ADDRESS | DEFAULT | "registry-1.docker.io") {
        return DEFAULT.to_owned();
    }
    host.to_owned()
}

/// Both alphabets, with padding or without: clients differ.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decode = |alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok();
    decode(&URL_SAFE).or_else(|| decode(&STANDARD))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header(json: &str) -> String {
        base64::engine::general_purpose::URL_SAFE.encode(json)
    }

    #[test]
    fn clients_say_who_they_are_in_several_ways() {
        let plain = Credentials::of_header(&header(r#"{"username":"me","password":"wörd"}"#)).unwrap();
        assert_eq!((plain.username.as_str(), plain.password.as_str()), ("me", "wörd"));
        let packed = Credentials::of_header(&header(r#"{"auth":"bWU6YTpi","username":null}"#)).unwrap();
        assert_eq!((packed.username.as_str(), packed.password.as_str()), ("me", "a:b"));
        for nobody in ["", &header("{}"), "e30"] {
            assert!(Credentials::of_header(nobody).unwrap().is_nobody(), "{nobody}");
        }
        let token = Credentials::of_header(&header(r#"{"identitytoken":"t"}"#)).unwrap();
        assert!(!token.is_nobody());
        assert!(!format!("{plain:?}").contains("wörd"));
    }

    #[test]
    fn of_several_registries_the_one_is_taken() {
        let all = header(
            r#"{"https://index.docker.io/v1/":{"username":"me"},"localhost:5000":{"auth":"eW91Onc="}}"#,
        );
        let of = |domain| Credentials::of_config(&all, domain).unwrap().username;
        assert_eq!(
            (of("docker.io"), of("localhost:5000"), of("other")),
            ("me".into(), "you".into(), String::new())
        );
    }

    #[test]
    fn what_is_no_credentials_is_refused_without_being_quoted() {
        for bad in ["%%%", &header("3"), &header("secret"), &header(r#"{"auth":"c2VjcmV0"}"#)] {
            let error = Credentials::of_header(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn addresses_of_logins_name_a_registry() {
        for (address, domain) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("http://localhost:5000/v2/", "localhost:5000"),
            ("registry.example.com/", "registry.example.com"),
        ] {
            assert_eq!(domain_of(address), domain, "{address}");
        }
    }
}
